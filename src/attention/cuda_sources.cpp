// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda_sources.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>

#include "attention/memory_size.h"
#include "attention/update_kernel.h"
#include "base/checks.h"
#include "base/rope.h"
#include "plan/update_memory.h"
#include "variant/cuda_text.h"
#include "variant/mask.h"

namespace tilewright {
namespace {

// Of a block of threads and of an SM, in bytes.
struct SharedMemory {
  int a_block;
  int an_sm;
};
SharedMemory shared_memory(CudaTarget target) {
  constexpr int kKib = 1024;
  if (target.major >= 12) return {99 * kKib, 100 * kKib};
  if (target.major >= 9) return {227 * kKib, 228 * kKib};
  if (target.minor == 6 || target.minor == 9) return {99 * kKib, 100 * kKib};
  return {163 * kKib, 164 * kKib};
}

const char* element_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float";
    case DType::f16:
      return "f16";
    case DType::f8e4m3:
      return "f8e4m3";
    case DType::f8e5m2:
      return "f8e5m2";
    default:
      return "bf16";
  }
}

bool is_fp8(DType dtype) {
  return dtype == DType::f8e4m3 || dtype == DType::f8e5m2;
}

// The keys' and the values' dtypes in a kernel's name, where they are not the queries'.
std::string kv_name(const AttentionSpec& spec) {
  if (spec.kv_dtype == spec.q_dtype && spec.value_dtype() == spec.q_dtype) return "";
  if (spec.kv_dtype == spec.value_dtype()) return fmt::format("_{}", element_name(spec.kv_dtype));
  return fmt::format("_{}_{}", element_name(spec.kv_dtype), element_name(spec.value_dtype()));
}

tw::BlockForm block_form(const Variant& variant, KernelUse use) {
  if (use == KernelUse::listed_blocks) return tw::BlockForm::listed;
  return !variant.mask.defined() || MaskAnalysis(variant).one_interval() ? tw::BlockForm::span
                                                                         : tw::BlockForm::spans;
}

const char* name_of(const CudaShape& shape) {
  if (shape.lists_blocks) return "listed";
  return shape.decode_only ? "decode" : "attention";
}

// Hopper's own instructions multiply 16-bit elements as they are cached, and widths that
// kernels/arch/wgmma.h has. Masks of several intervals take the kernel for all GPUs: on the code
// that makes lists of them NVRTC 13.0 crashes where warp groups have registers of their own.
bool takes_hopper_kernel(const AttentionSpec& spec, CudaTarget target, KernelUse use,
                         tw::BlockForm form) {
  constexpr std::array kValueDims = {64, 80, 96, 128, 160, 192, 256};
  return target.major == 9 && target.specific && use == KernelUse::any_batch &&
         spec.kv_dtype == spec.q_dtype && spec.value_dtype() == spec.q_dtype &&
         !spec.variant.rope.has_value() && form == tw::BlockForm::span && spec.head_dim % 16 == 0 &&
         spec.head_dim <= 256 && tw::hopper_joins(spec.head_dim, spec.value_dim()) &&
         std::ranges::find(kValueDims, spec.value_dim()) != kValueDims.end();
}

}  // namespace

CudaTarget CudaTarget::of_arch(const std::string& arch) {
  int number = 0;
  const char* const digits = arch.data() + std::min<std::size_t>(3, arch.size());
  const auto [end, error] = std::from_chars(digits, arch.data() + arch.size(), number);
  require(arch.starts_with("sm_") && error == std::errc() && number >= 80 && number <= 199,
          "arch is {}: it must be like sm_80 or sm_90a", arch);
  return {number / 10, number % 10, arch.ends_with('a')};
}

CudaShape cuda_shape(const AttentionSpec& spec, CudaTarget target, KernelUse use) {
  CudaShape shape;
  const tw::BlockForm form = block_form(spec.variant, use);
  shape.lists_blocks = use == KernelUse::listed_blocks;
  shape.one_interval = form == tw::BlockForm::span;
  if (takes_hopper_kernel(spec, target, use, form)) {
    shape.hopper = true;
    // With large heads the accumulators and stages of 128 keys do not fit.
    const bool large = spec.head_dim > 192 || spec.value_dim() > 128;
    shape.block_tokens = large ? 64 : 128;
    shape.threads = tw::hopper_threads(spec.head_dim, spec.value_dim());
    shape.shared_bytes =
        tw::hopper_shared_bytes(spec.head_dim, spec.value_dim(), shape.block_tokens);
    return shape;
  }
  const SharedMemory memory = shared_memory(target);
  const bool decode_only = use == KernelUse::decode_only;
  // Where less fits, blocks of keys are smaller and fewer of them are under way. To rotate takes
  // memory and registers.
  const bool rotates = spec.variant.rope.has_value();
  const bool large = memory.a_block >= 227 * 1024 && !rotates;
  shape.block_tokens = large && !decode_only ? 64 : 32;
  shape.decode_only = decode_only;
  shape.decode_stages = large && !decode_only ? 3 : 2;
  shape.threads = tw::attention_warps(spec.head_dim, spec.value_dim()) * 32;
  shape.shared_bytes = tw::attention_shared_bytes(
      spec.head_dim, spec.value_dim(), shape.block_tokens, shape.decode_stages,
      rotates ? rope_dim(*spec.variant.rope, spec.head_dim) : 0, form, decode_only);
  constexpr int kReserved = 1024;  // by the system, a block
  // More blocks would leave a thread too few registers; of decoding ones, more keys would be under
  // way than memory is served by (seen on a Hopper GPU).
  const int most = shape.threads > 128 ? 1 : 2;
  shape.blocks_per_sm = std::clamp(memory.an_sm / (shape.shared_bytes + kReserved), 1, most);
  // Their keys lie beside each other in most caches: memory and its translation see whole tokens.
  if (decode_only) shape.heads_together = std::gcd(spec.num_kv_heads, 8);
  return shape;
}

Support cuda_supports(const AttentionSpec& spec, CudaTarget target) {
  const auto no = [](std::string reason) { return Support{false, std::move(reason)}; };
  if (spec.q_dtype != DType::f16 && spec.q_dtype != DType::bf16) {
    return no(fmt::format("q_dtype is {}: CUDA kernels take float16 and bfloat16",
                          dtype_name(spec.q_dtype)));
  }
  for (const DType dtype : {spec.kv_dtype, spec.value_dtype()}) {
    if (dtype == spec.q_dtype || is_fp8(dtype)) continue;
    return no(fmt::format("kv_dtype is {}, v_dtype {}: on CUDA they must be q_dtype, {}, or fp8",
                          dtype_name(spec.kv_dtype), dtype_name(spec.value_dtype()),
                          dtype_name(spec.q_dtype)));
  }
  // Rows are copied by 16 bytes.
  if ((is_fp8(spec.kv_dtype) && spec.head_dim % 16 != 0) ||
      (is_fp8(spec.value_dtype()) && spec.value_dim() % 16 != 0)) {
    return no(fmt::format(
        "head_dim is {}, head_dim_vo {}: on CUDA those of fp8 caches must be multiples of 16",
        spec.head_dim, spec.value_dim()));
  }
  const DType out = spec.output_dtype();
  if (out != DType::f32 && out != DType::f16 && out != DType::bf16) {
    return no(fmt::format("out_dtype is {}: CUDA kernels write float32, float16 and bfloat16",
                          dtype_name(out)));
  }
  if (spec.head_dim > 256 || spec.value_dim() > 256) {
    return no(fmt::format("head_dim is {}, head_dim_vo {}: CUDA kernels take at most 256",
                          spec.head_dim, spec.value_dim()));
  }
  if (target.major < 8) return no("the GPU is older than Ampere (compute capability 8.0)");
  const int most = shared_memory(target).a_block;
  const int needed = cuda_shape(spec, target, KernelUse::any_batch).shared_bytes;
  if (needed > most) {
    return no(
        fmt::format("head_dim is {}{}: its kernel needs {} bytes of shared memory, a GPU of "
                    "compute capability {}.{} has {}",
                    spec.head_dim, spec.variant.rope.has_value() ? ", variant.rope given" : "",
                    needed, target.major, target.minor, most));
  }
  return {true, ""};
}

jit::KernelSource attention_source(const AttentionSpec& spec, CudaTarget target, KernelUse use) {
  return attention_source(spec, cuda_shape(spec, target, use));
}

jit::KernelSource attention_source(const AttentionSpec& spec, const CudaShape& shape) {
  jit::KernelSource source;
  source.name = fmt::format(
      "{}_{}{}_{}_d{}{}_g{}", name_of(shape), element_name(spec.q_dtype), kv_name(spec),
      element_name(spec.output_dtype()), spec.head_dim,
      spec.value_dim() == spec.head_dim ? std::string() : fmt::format("_v{}", spec.value_dim()),
      spec.group_size());
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
      shape.block_tokens, shape.decode_stages, shape.blocks_per_sm, shape.decode_only, shape.hopper,
      shape.lists_blocks, shape.hopper ? "hopper" : "attention");
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
