// SPDX-License-Identifier: Apache-2.0
// A step's arrays on a GPU: all that the forward pass and the sampler read, in one piece of memory
// at fixed places, so that a captured graph finds the next step's where this one's were.
#pragma once

#include <tilewright/tilewright.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/row_sampling.h"
#include "engine/scheduler.h"

namespace tilewright::engine {

// Extents of a step's arrays, padded or not: what a captured graph is made for.
struct StepShape {
  std::int64_t tokens = 0;
  std::int64_t requests = 0;
  std::int64_t rows = 0;  // whose tokens are sampled
  std::int64_t levels = 1;
  bool is_decode = false;  // one token a request, all of them sampled

  friend auto operator<=>(const StepShape&,
                          const StepShape&) = default;  // NOLINT(modernize-use-nullptr)
};

// Padded, so that few graphs are needed: decode to 1, 2, 4 or a multiple of 8 requests, other steps
// to a multiple of 64 tokens, all requests, and none, 8, 32, 128 or all of their rows.
StepShape shape_of(const Step& step, const Limits& limits);
// All that there are of one level.
std::vector<StepShape> step_shapes(const Limits& limits);

// The arrays as kernels take them.
struct DeviceStep {
  TensorView token_pool;   // i32 [limits.q_tokens + limits.requests, 1]: the host's, then sampled
  TensorView token_index;  // i32 [tokens]: of the pool
  TensorView positions;    // i32 [tokens]
  TensorView slots;        // i32 [tokens]; -1 for padding
  Batch batch;
  std::vector<KvLevel> levels;
  TensorView logit_rows;  // i32 [rows]; undefined: all tokens
  TensorView sampled;     // i32 [rows], of the pool: written
  SamplingArgs sampling;
};

class StepArrays {
 public:
  StepArrays(const Limits& limits, std::int64_t page_size);

  // All of it, and what of it comes before the page ids, which are many.
  std::size_t bytes() const { return bytes_; }

  struct Part {
    std::size_t offset;
    std::size_t bytes;
  };
  // Writes a step to memory of the host. Returns the parts that were written: a copy each.
  std::vector<Part> write(std::byte* to, const Step& step, std::span<const RowSampling> sampling,
                          const StepShape& shape) const;
  DeviceStep views(std::byte* base, const StepShape& shape, Device device) const;
  // Where a step's sampled tokens are.
  std::int32_t* sampled(std::byte* base) const {
    return reinterpret_cast<std::int32_t*>(base + token_pool_) + limits_.q_tokens;
  }

 private:
  struct Level {
    std::size_t qo_indptr, kv_lens, kv_pos, page_indptr, pages;
  };

  std::size_t place(std::int64_t count, std::size_t element_bytes);

  Limits limits_;
  std::int64_t page_size_;
  std::int64_t most_pages_;  // of a level
  std::size_t bytes_ = 0;
  std::size_t token_pool_, token_index_, positions_, slots_, qo_indptr_, kv_lens_, logit_rows_;
  std::size_t sampling_;
  std::vector<Level> levels_;
  std::size_t fixed_bytes_;  // in front of the page ids
};

}  // namespace tilewright::engine
