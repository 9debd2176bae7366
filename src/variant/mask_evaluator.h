// SPDX-License-Identifier: Apache-2.0
// A mask with its parameters bound, read block by block: proven where it can be, else evaluated.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/explain.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "variant/bindings.h"
#include "variant/mask.h"
#include "variant/program.h"

namespace tilewright {

// One request's queries, as masks see them.
struct MaskRequest {
  std::int64_t batch = 0;
  std::int64_t q_begin = 0;
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
  std::int64_t q_pos = 0;                     // of the first query, unless there is a table
  const std::int32_t* q_pos_table = nullptr;  // by query token of the batch
  std::int64_t q_pos_stride = 1;

  // The tokens [begin, end), counted in the request; heads are left as they are.
  QueryRange range(std::int64_t begin, std::int64_t end) const;
};

// Immutable; threads share it.
class MaskEvaluator {
 public:
  // Binds the parameters that the mask reads, whenever they bind. Error when the variant has no
  // mask, and those of ParamBinder.
  MaskEvaluator(const Variant& variant, const std::vector<ParamValue>& params,
                const ParamExtents& extents);

  const MaskAnalysis& analysis() const { return analysis_; }
  bool reads_heads() const { return reads_heads_; }
  MaskRanges ranges(const QueryRange& queries) const {
    return analysis_.ranges(queries, bindings_);
  }

  // Evaluates rows; one a thread.
  class Rows {
   public:
    explicit Rows(const MaskEvaluator& mask);
    // seen[i]: whether key kv_begin + i is attended to.
    void evaluate(const RowContext& row, std::int64_t kv_begin, std::int64_t count,
                  std::uint8_t* seen);
    // The kind of the block of these queries and the keys [kv_begin, kv_end).
    TileKind kind(const QueryRange& queries, std::int64_t kv_begin, std::int64_t kv_end);

   private:
    const MaskEvaluator& mask_;
    std::unique_ptr<std::byte[]> memory_;
    void* scratch_;
    std::vector<std::int32_t> keys_;
    std::vector<std::uint8_t> seen_;
  };

 private:
  Variant variant_;  // the mask alone
  ParamBinder binder_;
  MaskAnalysis analysis_;
  ExprProgram program_;
  Bindings bindings_;
  bool reads_heads_ = false;
};

// What ranges say of the keys [kv_begin, kv_end); mixed where they do not tell.
TileKind proven_kind(const MaskRanges& ranges, std::int64_t kv_begin, std::int64_t kv_end);

}  // namespace tilewright
