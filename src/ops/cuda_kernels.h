// SPDX-License-Identifier: Apache-2.0
// The operators' CUDA kernels: which one a call needs, and its source. A kernel is compiled for the
// dtypes of a call; all else are parameters.
#pragma once

#include <tilewright/ops.h>
#include <tilewright/tensor_view.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "jit/kernel_source.h"

namespace tilewright {

enum class CudaOp : std::uint8_t {
  rms_norm,               // x, weight, out
  fused_add_rms_norm,     // x, residual, weight, out
  layer_norm,             // x, weight, out
  layer_norm_with_bias,   // x, weight, bias, out
  act_and_mul,            // x, out
  gather_rows,            // x, out
  pack_bits,              // none
  segment_pack_bits,      // none
  apply_rope,             // x, out
  apply_rope_with_table,  // x, out, table
  write_kv_cache,         // keys from, to, values from, to
  merge_states,           // values, out
  rope_and_cache,         // queries (keys, values), keys to, values to, weights, table
};

struct CudaOpKernel {
  CudaOp op = CudaOp::rms_norm;
  std::array<DType, 5> dtypes{};  // in the order above; what is not used is f32
  Activation activation = Activation::silu;

  friend bool operator==(const CudaOpKernel&, const CudaOpKernel&) = default;
};

// "rms_norm_bf16_bf16_bf16": the entry point, and the name in reports.
std::string kernel_name(const CudaOpKernel& kernel);
jit::KernelSource kernel_source(const CudaOpKernel& kernel);
// What a library user meets first, for compiling ahead: 16-bit models with 16-bit or fp8 caches.
std::vector<CudaOpKernel> common_op_kernels();

}  // namespace tilewright
