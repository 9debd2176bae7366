// SPDX-License-Identifier: Apache-2.0
// A paged batch of given lengths, ready to run: what tests of behaviour (not of forms) start from.
#pragma once

#include <tilewright/tilewright.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "support/attention_case.h"
#include "support/batch.h"
#include "support/kv_forms.h"

namespace tilewright::test {

struct SimpleBatch {
  Dims dims;
  DType dtype;
  Random random;
  std::vector<Request> requests;
  Table table;
  Cache cache;
  Tensor qo_indptr, kv_lens;
  BatchTensors tensors;

  // `kv_type`: of the cache, where it is not that of queries.
  SimpleBatch(const Dims& d, DType type, const Lengths& lengths, std::int64_t page_size,
              std::uint64_t seed, std::optional<DType> kv_type = {})
      : SimpleBatch(d, type, draw(d, type, lengths, seed, kv_type), page_size, seed, kv_type) {}

  SimpleBatch(const Dims& d, DType type, std::vector<Request> given, std::int64_t page_size,
              std::uint64_t seed, std::optional<DType> kv_type = {});

  static std::vector<Request> draw(const Dims& d, DType type, const Lengths& lengths,
                                   std::uint64_t seed, std::optional<DType> kv_type = {});

  Limits limits() const;

  Batch batch() const;

  std::vector<PlanInput> inputs(const Attention& attention,
                                const std::vector<ParamValue>& params = {}) const;

  void run(Plan& plan, const Attention& attention, const RunArgs& args) const;

  // Bytes of out and lse after an update and a run.
  std::vector<std::uint8_t> bits(Plan& plan, const Attention& attention,
                                 const std::vector<ParamValue>& plan_params = {},
                                 const std::vector<ParamValue>& run_params = {});
};

}  // namespace tilewright::test
