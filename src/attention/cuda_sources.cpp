// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda_sources.h"

#include "attention/update_kernel.h"
#include "base/checks.h"
#include "plan/update_memory.h"
#include "variant/cuda_text.h"

namespace tilewright {

jit::KernelSource attention_source(const AttentionSpec& spec, CudaTarget target, KernelUse use) {
  return attention_source(spec, cuda_shape(spec, target, use));
}

jit::KernelSource attention_source(const AttentionSpec& spec, const CudaShape& shape) {
  const bool hopper = shape.kind == KernelKind::hopper;
  const char* const file = hopper                             ? "hopper"
                           : shape.kind == KernelKind::scalar ? "scalar"
                                                              : "attention";
  jit::KernelSource source;
  source.name = kernel_name(spec, shape);
  source.source = fmt::format(
      "{}\n"
      "namespace tw {{\n"
      "struct Spec {{\n"
      "  using Element = {};\n"
      "  using Key = {};\n"
      "  using Value = {};\n"
      "  using Out = {};\n"
      "  static constexpr i32 kHeadDim = {};\n"
      "  static constexpr i32 kValueDim = {};\n"
      "  static constexpr i32 kGroupSize = {};\n"
      "  static constexpr i32 kBlock = {};\n"
      "  static constexpr i32 kDecodeStages = {};\n"
      "  static constexpr i32 kBlocksPerSm = {};\n"
      "  static constexpr bool kDecodeOnly = {};\n"
      "  static constexpr bool kHopper = {};\n"
      "  static constexpr bool kListsBlocks = {};\n"
      "}};\n"
      "}}  // namespace tw\n"
      "#include \"attention/{}.h\"\n",
      cuda_variant(spec.variant, spec.head_dim), element_name(spec.q_dtype),
      element_name(spec.kv_dtype), element_name(spec.value_dtype()),
      element_name(spec.output_dtype()), spec.head_dim, spec.value_dim(), spec.group_size(),
      shape.block_tokens, shape.decode_stages, shape.blocks_per_sm,
      shape.kind == KernelKind::decode, hopper, shape.lists_blocks, file);
  source.entries = {"tilewright_attention", "tilewright_join_levels"};
  source.shared_bytes = shape.shared_bytes;
  // A few registers outside the inner loop, which depend on the compiler's version.
  source.budget.max_spill_bytes = 1024;
  // Lists of spans are made by one thread before the work on a tile begins.
  source.budget.allow_stack = !shape.one_interval;
  return source;
}

jit::KernelSource plan_source(const std::vector<Variant>& masks, std::size_t parts,
                              bool lists_blocks) {
  jit::KernelSource source;
  source.name = fmt::format("plan_{}{}", parts, lists_blocks ? "_listed" : "");
  source.source = update_kernel_text(masks, parts, lists_blocks);
  source.entries = {kUpdateKernelName, kCopyStatusName};
  source.shared_bytes = static_cast<int>(plan::kMostUpdateShared);
  // Sets of intervals, and searches by single threads: latency, not throughput.
  source.budget.allow_stack = true;
  return source;
}

}  // namespace tilewright
