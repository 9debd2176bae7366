// SPDX-License-Identifier: Apache-2.0
// The values of a variant's parameters during one plan update or run, checked and ready to read.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/variant.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tilewright {

// What the query side of one row knows. Positions are those of the request, heads are absolute.
struct RowContext {
  std::int64_t q_pos = 0;
  std::int64_t q_head = 0;
  std::int64_t kv_head = 0;
  std::int64_t batch = 0;
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
  std::int64_t q_index = 0;  // of the query token in the batch
  std::int64_t q_begin = 0;  // of its request's first one
};

struct BoundParam {
  bool bound = false;
  double scalar = 0;  // rank 0
  const void* data = nullptr;
  DType dtype = DType::f32;  // of a real: f32, f16, bf16; of an integer: i32, i8, u8
  int rank = 0;
  std::array<std::int64_t, 3> shape{};
  std::array<std::int64_t, 3> strides{};

  // Reads outside the tensor give 0.
  float real_at(const std::int64_t* index) const;
  std::int64_t integer_at(const std::int64_t* index) const;
};

// Indexed like Variant::params(). A fixed size: a run allocates nothing.
struct Bindings {
  static constexpr int kMaxParams = 16;
  std::array<BoundParam, kMaxParams> params;
};

// What the extents of parameters indexed by q_head, kv_head, batch or q_index are checked against.
struct ParamExtents {
  std::int64_t num_qo_heads = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t requests = 0;
  std::int64_t q_tokens = 0;
};

// Error unless `value` can be the value of a rank 0 parameter: not NaN; for integers, one of 32
// bits.
void check_param_number(const Param& param, double value);

// A variant's parameters, analysed once when an Attention is made.
class ParamBinder {
 public:
  explicit ParamBinder(const Variant& variant);

  const std::vector<Param>& params() const { return params_; }
  int index_of(const std::string& name) const;  // -1: no such parameter
  bool binds_at(Bind when) const;               // whether any parameter does

  // Sets the parameters of one binding time in `bindings` from `values` (defaults for those left
  // out) and leaves the others alone. Errors (invalid_argument): unknown name (the known ones are
  // listed), given twice, given at the wrong time, missing, wrong rank, dtype, device or extent.
  // Allocates nothing unless it raises.
  void bind(const std::vector<ParamValue>& values, Bind when, const ParamExtents& extents,
            Device device, Bindings& bindings) const;

 private:
  enum class Extent : std::uint8_t { any, q_heads, kv_heads, requests, q_tokens };
  void check_extents(std::size_t index, const TensorView& tensor,
                     const ParamExtents& extents) const;

  std::vector<Param> params_;
  std::vector<std::array<Extent, 3>>
      extents_;  // by parameter and dimension: what its index expressions are
};

}  // namespace tilewright
