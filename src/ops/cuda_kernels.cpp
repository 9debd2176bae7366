// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda_kernels.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/cuda_launch.h"
#include "catalog/kernels_of.h"
#include "sampling/cuda_sample.h"
#include "sampling/cuda_top_k.h"
#include "sampling/cuda_verify.h"

namespace tilewright {
namespace {

struct Form {
  const char* name;
  const char* header;
  const char* function;  // of namespace tw, a template
  const char* params;
  int num_dtypes;
  int max_threads;
  int blocks;        // that an SM has registers for; 1: kMaxRegisters are few enough
  int shared_bytes;  // the most of a launch
};

// Of a thread, where not more is said: with 256 of them, half of an SM's threads stay busy.
constexpr int kMaxRegisters = 80;

// In the order of CudaOp.
constexpr Form kForms[] = {
    {"rms_norm", "ops/rms_norm.h", "rms_norm", "RmsNormParams", 3, 512, 1, 64},
    {"fused_add_rms_norm", "ops/rms_norm.h", "rms_norm", "RmsNormParams", 4, 512, 1, 64},
    {"layer_norm", "ops/layer_norm.h", "layer_norm", "LayerNormParams", 3, 512, 1, 128},
    {"layer_norm_with_bias", "ops/layer_norm.h", "layer_norm", "LayerNormParams", 4, 512, 1, 128},
    {"act_and_mul", "ops/activation.h", "act_and_mul", "ActivationParams", 2, 256, 1, 0},
    {"gather_rows", "ops/gather_rows.h", "gather_rows", "GatherRowsParams", 2, 256, 1, 0},
    {"pack_bits", "ops/pack_bits.h", "pack_bits", "PackBitsParams", 0, 256, 1, 0},
    {"segment_pack_bits", "ops/pack_bits.h", "segment_pack_bits", "SegmentPackBitsParams", 0, 256,
     1, 64},
    {"apply_rope", "ops/rope.h", "apply_rope", "RopeParams", 2, 256, 1, 3072},
    {"apply_rope_with_table", "ops/rope.h", "apply_rope", "RopeParams", 3, 256, 1, 3072},
    {"write_kv_cache", "ops/cache_write.h", "write_kv_cache", "CacheWriteParams", 4, 256, 1, 0},
    {"merge_states", "ops/merge_states.h", "merge_states", "MergeParams", 2, 128, 1, 0},
    {"rope_and_cache", "ops/rope_and_cache.h", "rope_and_cache", "RopeAndCacheParams", 5, 224, 3,
     28768},
};

const Form& form_of(const CudaOpKernel& kernel) {
  return kForms[static_cast<std::size_t>(kernel.op)];
}

const char* activation_name(Activation activation) {
  constexpr const char* kNames[] = {"silu", "gelu", "gelu_tanh"};
  return kNames[static_cast<std::size_t>(activation)];
}

// The dtypes that the kernel is for, by their names in device code.
std::vector<std::string> type_names(const CudaOpKernel& kernel) {
  std::vector<std::string> names;
  names.reserve(kernel.dtypes.size());
  for (int i = 0; i < form_of(kernel).num_dtypes; ++i) {
    names.emplace_back(device_type_name(kernel.dtypes[static_cast<std::size_t>(i)]));
  }
  return names;
}

}  // namespace

std::string kernel_name(const CudaOpKernel& kernel) {
  std::vector<std::string> parts = type_names(kernel);
  if (kernel.op == CudaOp::act_and_mul) {
    parts.insert(parts.begin(), activation_name(kernel.activation));
  }
  parts.insert(parts.begin(), form_of(kernel).name);
  return fmt::format("{}", fmt::join(parts, "_"));
}

jit::KernelSource kernel_source(const CudaOpKernel& kernel) {
  const Form& form = form_of(kernel);
  std::vector<std::string> arguments = type_names(kernel);
  if (kernel.op == CudaOp::rms_norm) arguments.insert(arguments.begin() + 1, "NoResidual");
  if (kernel.op == CudaOp::layer_norm) arguments.insert(arguments.begin() + 2, "NoBias");
  if (kernel.op == CudaOp::apply_rope) arguments.emplace_back("NoTable");
  if (kernel.op == CudaOp::act_and_mul) {
    arguments.insert(arguments.begin(),
                     fmt::format("Gate::{}", activation_name(kernel.activation)));
  }
  jit::KernelSource source;
  source.name = kernel_name(kernel);
  source.entries = {source.name};
  source.budget.max_registers =
      form.blocks == 1 ? kMaxRegisters : 65536 / (form.max_threads * form.blocks);
  source.shared_bytes = form.shared_bytes;
  source.source = fmt::format(
      "#include \"{}\"\n"
      "using namespace tw;\n"
      "TW_KERNEL TW_LAUNCH_BOUNDS({}, {}) {}(TW_PARAMETER {} params) {{\n"
      "  tw::{}{}(params);\n"
      "}}\n",
      form.header, form.max_threads, form.blocks, source.name, form.params, form.function,
      arguments.empty() ? "" : fmt::format("<{}>", fmt::join(arguments, ", ")));
  return source;
}

std::vector<CudaOpKernel> common_op_kernels() {
  std::vector<CudaOpKernel> kernels;
  for (const DType t : {DType::bf16, DType::f16}) {
    for (const DType out : {t, DType::f8e4m3}) {
      kernels.push_back({CudaOp::rms_norm, {t, t, out}});
      kernels.push_back({CudaOp::fused_add_rms_norm, {t, t, t, out}});
    }
    kernels.push_back({CudaOp::layer_norm, {t, t, t}});
    kernels.push_back({CudaOp::layer_norm_with_bias, {t, t, t, t}});
    for (const Activation activation : {Activation::silu, Activation::gelu_tanh}) {
      kernels.push_back({CudaOp::act_and_mul, {t, t}, activation});
    }
    kernels.push_back({CudaOp::gather_rows, {t, t}});
    kernels.push_back({CudaOp::apply_rope, {t, t}});
    kernels.push_back({CudaOp::apply_rope_with_table, {t, t, DType::f32}});
    for (const DType cache : {t, DType::f8e4m3}) {
      kernels.push_back({CudaOp::write_kv_cache, {t, cache, t, cache}});
    }
    for (const DType cache : {t, DType::f8e4m3}) {
      kernels.push_back({CudaOp::rope_and_cache, {t, cache, cache, t, DType::f32}});
    }
    kernels.push_back({CudaOp::merge_states, {t, t}});
  }
  kernels.push_back({CudaOp::pack_bits, {}});
  kernels.push_back({CudaOp::segment_pack_bits, {}});
  return kernels;
}

std::vector<jit::KernelSource> kernels_of_ops(const std::string& arch) {
  std::vector<jit::KernelSource> sources;
  for (const CudaOpKernel& kernel : common_op_kernels()) sources.push_back(kernel_source(kernel));
  for (jit::KernelSource& source : sample_kernel_sources(arch))
    sources.push_back(std::move(source));
  for (jit::KernelSource& source : verify_kernel_sources(arch))
    sources.push_back(std::move(source));
  for (jit::KernelSource& source : top_k_kernel_sources(arch)) sources.push_back(std::move(source));
  return sources;
}

}  // namespace tilewright
