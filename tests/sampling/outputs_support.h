// SPDX-License-Identifier: Apache-2.0
// All outputs of a call of sample(), as tensors.
#pragma once

#include <tilewright/sampling.h>

#include <cstdint>

#include "support/tensor.h"

namespace tilewright::test {

struct LogProbTensors {
  Tensor chosen;
  Tensor ranks;
  Tensor best;
  Tensor best_ids;

  LogProbTensors(std::int64_t rows, std::int64_t n)
      : chosen(DType::f32, {rows}, {2}),
        ranks(DType::i32, {rows}, {3}),
        best(DType::f32, {rows, n}, {n + 1, 1}),
        best_ids(DType::i32, {rows, n}, {n + 2, 1}) {}

  LogProbs views() { return {chosen.view(), ranks.view(), best.view(), best_ids.view()}; }
  bool guards_intact() const {
    return chosen.guards_intact() && ranks.guards_intact() && best.guards_intact() &&
           best_ids.guards_intact();
  }
};

struct OutputTensors {
  Tensor kept;
  Tensor probabilities;
  Tensor masked;
  LogProbTensors raw;
  LogProbTensors processed;

  OutputTensors(std::int64_t rows, std::int64_t vocabulary, std::int64_t n, DType masked_dtype)
      : kept(DType::i32, {rows, (vocabulary + 31) / 32}, {(vocabulary + 31) / 32 + 1, 1}),
        probabilities(DType::f32, {rows, vocabulary}, {vocabulary + 3, 1}),
        masked(masked_dtype, {rows, vocabulary}),
        raw(rows, n),
        processed(rows, n) {}

  void give(SamplingArgs& args) {
    args.outputs = {kept.view(), probabilities.view(), masked.view(), raw.views(),
                    processed.views()};
  }
  bool guards_intact() const {
    return kept.guards_intact() && probabilities.guards_intact() && masked.guards_intact() &&
           raw.guards_intact() && processed.guards_intact();
  }
};

}  // namespace tilewright::test
