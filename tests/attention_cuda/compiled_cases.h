// SPDX-License-Identifier: Apache-2.0
// The attentions whose kernels are compiled for the emulator. Tests change what is not compiled in:
// lengths, tables, forms, scales, numbers of heads and of workers.
#pragma once

#include <vector>

#include "attention/cuda_sources.h"
#include "support/attention_case.h"

namespace tilewright::test {

struct CompiledCase {
  Case attention;
  CudaTarget target;  // decides the size of blocks of keys, and how many are under way
  KernelUse use = KernelUse::any_batch;
};

inline CompiledCase compiled_case(DType dtype, int head_dim, int value_dim, int group,
                                  VariantKind variant, CudaTarget target) {
  CompiledCase made;
  made.target = target;
  Case& c = made.attention;
  c.q_dtype = c.kv_dtype = dtype;
  c.head_dim = head_dim;
  c.value_dim = value_dim;
  c.group = group;
  c.variant = variant;
  return made;
}

inline constexpr CudaTarget kAmpere{8, 0};
inline constexpr CudaTarget kHopper{9, 0, true};

inline CompiledCase causal_128() {
  return compiled_case(DType::bf16, 128, 128, 4, VariantKind::causal, kHopper);
}
inline CompiledCase causal_128_ampere() {
  return compiled_case(DType::bf16, 128, 128, 4, VariantKind::causal, kAmpere);
}
// No mask, a transform of logits.
inline CompiledCase full_soft_cap_64() {
  return compiled_case(DType::f16, 64, 64, 1, VariantKind::full_soft_cap, kHopper);
}
// Dims that are no multiples of 16, f32 outputs with a transform.
inline CompiledCase gated_72_40() {
  CompiledCase made = compiled_case(DType::bf16, 72, 40, 3, VariantKind::output_gate, kHopper);
  made.attention.out_dtype = DType::f32;
  return made;
}
// Eight warps.
inline CompiledCase causal_192_128() {
  return compiled_case(DType::bf16, 192, 128, 1, VariantKind::causal, kHopper);
}
// A mask of two intervals.
inline CompiledCase sink_window_64() {
  return compiled_case(DType::bf16, 64, 64, 2, VariantKind::sink_window, kAmpere);
}
// Without softmax.
inline CompiledCase sigmoid_64() {
  return compiled_case(DType::f16, 64, 64, 2, VariantKind::sigmoid, kHopper);
}
// A mask that reads a table, bound when the plan is made.
inline CompiledCase documents_64() {
  return compiled_case(DType::bf16, 64, 64, 4, VariantKind::documents, kAmpere);
}

inline CompiledCase with_kv_dtypes(CompiledCase made, DType k, DType v) {
  made.attention.kv_dtype = k;
  made.attention.v_dtype = v;
  return made;
}
inline CompiledCase fp8_128() {
  return with_kv_dtypes(causal_128(), DType::f8e4m3, DType::f8e4m3);
}
// Rows of an odd number of units, of two dtypes.
inline CompiledCase fp8_of_two_kinds_80_48() {
  return with_kv_dtypes(compiled_case(DType::f16, 80, 48, 3, VariantKind::sink_window, kAmpere),
                        DType::f8e5m2, DType::f8e4m3);
}
inline CompiledCase fp8_values_64() {
  return with_kv_dtypes(compiled_case(DType::bf16, 64, 64, 2, VariantKind::causal, kAmpere),
                        DType::bf16, DType::f8e5m2);
}
// Keys and queries rotated on their way.
inline CompiledCase rope_128() {
  return compiled_case(DType::bf16, 128, 128, 4, VariantKind::rope, kHopper);
}
// A few elements are rotated, in neighbouring pairs, of keys that are widened before.
inline CompiledCase rope_of_fp8_80() {
  return with_kv_dtypes(
      compiled_case(DType::f16, 80, 80, 2, VariantKind::rope_interleaved, kAmpere), DType::f8e4m3,
      DType::f8e4m3);
}
// Pairs that fill no whole step of 16.
inline CompiledCase rope_72() {
  return compiled_case(DType::f16, 72, 72, 3, VariantKind::rope, kHopper);
}

// Hopper's kernel with masks of several intervals, transforms of logits and large heads.
inline CompiledCase modulo_64() {
  return compiled_case(DType::bf16, 64, 64, 4, VariantKind::modulo, kHopper);
}
inline CompiledCase alibi_64() {
  return compiled_case(DType::bf16, 64, 64, 4, VariantKind::alibi, kHopper);
}
inline CompiledCase causal_256() {
  return compiled_case(DType::f16, 256, 256, 2, VariantKind::causal, kHopper);
}
inline CompiledCase causal_80() {
  return compiled_case(DType::bf16, 80, 80, 2, VariantKind::causal, kHopper);
}
// For plans with block structures: a mask that nothing but an evaluation decides, and one of one
// interval.
inline CompiledCase listed_stripes_64() {
  CompiledCase made = compiled_case(DType::bf16, 64, 64, 2, VariantKind::striped, kAmpere);
  made.use = KernelUse::listed_blocks;
  return made;
}
inline CompiledCase listed_causal_128() {
  CompiledCase made = causal_128();
  made.use = KernelUse::listed_blocks;
  return made;
}
// The kernel of plans whose limits leave room for decode alone: where it is compiled, such plans
// run it.
inline CompiledCase decode_only(CompiledCase made) {
  made.use = KernelUse::decode_only;
  return made;
}

// Queries of f32: a mask of one interval, one of two over smaller keys and values, no softmax,
// rotation, eight warps, lists of blocks.
inline CompiledCase scalar_causal_64() {
  return compiled_case(DType::f32, 64, 64, 4, VariantKind::causal, kHopper);
}
inline CompiledCase scalar_sink_window_80_48() {
  return with_kv_dtypes(compiled_case(DType::f32, 80, 48, 3, VariantKind::sink_window, kAmpere),
                        DType::bf16, DType::f8e4m3);
}
inline CompiledCase scalar_sigmoid_192() {
  return compiled_case(DType::f32, 192, 192, 1, VariantKind::sigmoid, kHopper);
}
inline CompiledCase scalar_rope_72() {
  return compiled_case(DType::f32, 72, 72, 2, VariantKind::rope, kHopper);
}
inline CompiledCase scalar_listed_64() {
  CompiledCase made = compiled_case(DType::f32, 64, 64, 2, VariantKind::striped, kAmpere);
  made.use = KernelUse::listed_blocks;
  return made;
}

inline std::vector<CompiledCase> compiled_cases() {
  return {causal_128(),
          causal_128_ampere(),
          full_soft_cap_64(),
          gated_72_40(),
          causal_192_128(),
          sink_window_64(),
          sigmoid_64(),
          documents_64(),
          fp8_128(),
          fp8_values_64(),
          fp8_of_two_kinds_80_48(),
          rope_128(),
          rope_of_fp8_80(),
          rope_72(),
          modulo_64(),
          alibi_64(),
          causal_256(),
          causal_80(),
          listed_stripes_64(),
          listed_causal_128(),
          decode_only(causal_128()),
          decode_only(causal_192_128()),
          decode_only(sink_window_64()),
          decode_only(fp8_128()),
          decode_only(rope_72()),
          scalar_causal_64(),
          scalar_sink_window_80_48(),
          scalar_sigmoid_192(),
          scalar_rope_72(),
          scalar_listed_64()};
}

}  // namespace tilewright::test
