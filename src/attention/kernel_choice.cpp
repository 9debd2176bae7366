// SPDX-License-Identifier: Apache-2.0
#include "attention/kernel_choice.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <numeric>

#include "attention/memory_size.h"
#include "attention/plan_impl.h"
#include "base/checks.h"
#include "base/rope.h"
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

// The keys' and the values' dtypes in a kernel's name, where they are not the queries'.
std::string kv_name(const AttentionSpec& spec) {
  if (spec.kv_dtype == spec.q_dtype && spec.value_dtype() == spec.q_dtype) return "";
  if (spec.kv_dtype == spec.value_dtype()) return fmt::format("_{}", element_name(spec.kv_dtype));
  return fmt::format("_{}_{}", element_name(spec.kv_dtype), element_name(spec.value_dtype()));
}

const char* name_of(const CudaShape& shape) {
  if (shape.lists_blocks) return "listed";
  return shape.kind == KernelKind::decode ? "decode" : "attention";
}

const char* name_of(KernelKind kind) {
  switch (kind) {
    case KernelKind::decode:
      return "decode";
    case KernelKind::hopper:
      return "hopper";
    case KernelKind::scalar:
      return "scalar";
    default:
      return "portable";
  }
}

tw::BlockForm block_form(const Variant& variant, KernelUse use) {
  if (use == KernelUse::listed_blocks) return tw::BlockForm::listed;
  return !variant.mask.defined() || MaskAnalysis(variant).one_interval() ? tw::BlockForm::span
                                                                         : tw::BlockForm::spans;
}

// Hopper's own instructions multiply 16-bit elements as they are cached, and widths that
// kernels/arch/wgmma.h has. Masks of several intervals take the kernel for all GPUs: on the code
// that makes lists of them NVRTC 13.0 crashes where warp groups have registers of their own.
std::vector<std::string> hopper_obstacles(const AttentionSpec& spec, CudaTarget target,
                                          tw::BlockForm form) {
  constexpr std::array kValueDims = {64, 80, 96, 128, 160, 192, 256};
  const int dim = spec.head_dim;
  const int value_dim = spec.value_dim();
  std::vector<std::string> reasons;
  if (target.major != 9) {
    reasons.push_back(
        fmt::format("arch is sm_{}{}: the GPU is not a Hopper", target.major, target.minor));
    return reasons;
  }
  if (!target.specific) reasons.emplace_back("arch is sm_90: it must be sm_90a");
  if (spec.q_dtype == DType::f32) {
    reasons.emplace_back("q_dtype is float32: matrices are multiplied of 16-bit elements");
  }
  if (spec.kv_dtype != spec.q_dtype || spec.value_dtype() != spec.q_dtype) {
    reasons.push_back(fmt::format("kv_dtype is {}, v_dtype {}: they must be q_dtype, {}",
                                  dtype_name(spec.kv_dtype), dtype_name(spec.value_dtype()),
                                  dtype_name(spec.q_dtype)));
  }
  if (spec.variant.rope.has_value()) {
    reasons.emplace_back("variant.rope is given: keys must be rotated before they are cached");
  }
  if (form == tw::BlockForm::listed) {
    reasons.emplace_back("limits.block_structures is true: the kernel does not read them");
  } else if (form != tw::BlockForm::span) {
    reasons.emplace_back(
        "variant.mask is not known to leave each query one interval of keys: it must be");
  }
  if (dim % 16 != 0 || dim > 256) {
    reasons.push_back(fmt::format("head_dim is {}: it must be a multiple of 16, at most 256", dim));
  }
  if (std::ranges::find(kValueDims, value_dim) == kValueDims.end()) {
    reasons.push_back(fmt::format("{} is {}: it must be one of {}",
                                  spec.head_dim_vo != 0 ? "head_dim_vo" : "head_dim", value_dim,
                                  fmt::join(kValueDims, ", ")));
  }
  if (!tw::hopper_joins(dim, value_dim)) {
    reasons.push_back(fmt::format(
        "head_dim is {}, head_dim_vo {}: results of few rows do not fit the queries' place", dim,
        value_dim));
  }
  return reasons;
}

// Blocks of keys and values in the portable kernel's shared memory, as memory_size.h counts them.
constexpr int kPortableStages = 2;

KernelChoice choice_of(const AttentionSpec& spec, CudaTarget target, const std::string& arch,
                       KernelUse use, const Limits& limits) {
  const CudaShape shape = cuda_shape(spec, target, use);
  const bool decodes = shape.kind == KernelKind::decode;
  KernelChoice choice;
  choice.kernel = name_of(shape.kind);
  choice.name = kernel_name(spec, shape);
  choice.arch = arch;
  choice.lists_blocks = shape.lists_blocks;
  choice.tile_rows = decodes ? tw::kDecodeRows : tw::kTileRows;
  choice.block_tokens = shape.block_tokens;
  const bool stages = shape.kind == KernelKind::portable;
  choice.key_stages = choice.value_stages = stages ? kPortableStages : 0;
  if (shape.kind == KernelKind::hopper) {
    choice.key_stages = tw::kHopperKeyStages;
    choice.value_stages =
        tw::hopper_value_stages(spec.head_dim, spec.value_dim(), shape.block_tokens);
  }
  choice.decode_stages = decodes || stages ? shape.decode_stages : 0;
  choice.threads = shape.threads;
  choice.blocks_per_sm = shape.blocks_per_sm;
  choice.shared_bytes = shape.shared_bytes;
  choice.heads_together = shape.heads_together;
  if (decodes) return choice;
  choice.not_decode = decode_obstacles(spec, limits);
  choice.not_hopper = hopper_obstacles(spec, target, use);
  return choice;
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

std::string kernel_name(const AttentionSpec& spec, const CudaShape& shape) {
  return fmt::format(
      "{}_{}{}_{}_d{}{}_g{}", name_of(shape), element_name(spec.q_dtype), kv_name(spec),
      element_name(spec.output_dtype()), spec.head_dim,
      spec.value_dim() == spec.head_dim ? std::string() : fmt::format("_v{}", spec.value_dim()),
      spec.group_size());
}

std::vector<std::string> decode_obstacles(const AttentionSpec& spec, const Limits& limits) {
  std::vector<std::string> reasons;
  if (spec.q_dtype == DType::f32) {
    reasons.emplace_back("q_dtype is float32: the kernel multiplies matrices of 16-bit elements");
  }
  if (const std::int64_t rows = limits.q_len * spec.group_size(); rows > tw::kDecodeRows) {
    reasons.push_back(
        fmt::format("limits.q_len is {}: with a group size of {} tiles may have more than {} rows",
                    limits.q_len, spec.group_size(), tw::kDecodeRows));
  }
  if (limits.levels > 1) {
    reasons.push_back(
        fmt::format("limits.levels is {}: a level's rows may have any number of "
                    "query tokens",
                    limits.levels));
  }
  if (limits.determinism == Determinism::batch_invariant) {
    reasons.emplace_back(
        "limits.determinism is batch_invariant: the kernel sums in another order than those of "
        "longer tiles");
  }
  if (limits.block_structures && spec.variant.mask.defined()) {
    reasons.emplace_back("limits.block_structures is true: the kernel does not read them");
  }
  return reasons;
}

PlanUses plan_uses(const AttentionSpec& spec, const Limits& limits) {
  const KernelUse any = limits.block_structures && spec.variant.mask.defined()
                            ? KernelUse::listed_blocks
                            : KernelUse::any_batch;
  return {decode_obstacles(spec, limits).empty() ? KernelUse::decode_only : any, any};
}

std::vector<std::string> hopper_obstacles(const AttentionSpec& spec, CudaTarget target,
                                          KernelUse use) {
  return hopper_obstacles(spec, target, block_form(spec.variant, use));
}

CudaShape cuda_shape(const AttentionSpec& spec, CudaTarget target, KernelUse use) {
  CudaShape shape;
  const bool decode_only = use == KernelUse::decode_only;
  const tw::BlockForm form = block_form(spec.variant, use);
  shape.lists_blocks = form == tw::BlockForm::listed;
  shape.one_interval = form == tw::BlockForm::span;
  if (spec.q_dtype == DType::f32) {
    constexpr int kBlockTokens = 64;
    shape.kind = KernelKind::scalar;
    shape.block_tokens = kBlockTokens;
    shape.decode_stages = 0;
    shape.threads = tw::attention_warps(spec.head_dim, spec.value_dim()) * 32;
    shape.shared_bytes = tw::scalar_shared_bytes(spec.head_dim, spec.value_dim(), form);
    shape.blocks_per_sm = 384 / shape.threads;  // 168 registers a thread, else some spill
    return shape;
  }
  if (!decode_only && hopper_obstacles(spec, target, form).empty()) {
    shape.kind = KernelKind::hopper;
    // With large heads the accumulators and stages of 128 keys do not fit.
    const bool large = spec.head_dim > 192 || spec.value_dim() > 128;
    shape.block_tokens = large ? 64 : 128;
    shape.threads = tw::hopper_threads(spec.head_dim, spec.value_dim());
    shape.shared_bytes =
        tw::hopper_shared_bytes(spec.head_dim, spec.value_dim(), shape.block_tokens);
    return shape;
  }
  const SharedMemory memory = shared_memory(target);
  // Where less fits, blocks of keys are smaller and fewer of them are under way. To rotate takes
  // memory and registers.
  const bool rotates = spec.variant.rope.has_value();
  const bool large = memory.a_block >= 227 * 1024 && !rotates;
  shape.kind = decode_only ? KernelKind::decode : KernelKind::portable;
  shape.block_tokens = large && !decode_only ? 64 : 32;
  shape.decode_stages = large && !decode_only ? 3 : 2;
  shape.threads = tw::attention_warps(spec.head_dim, spec.value_dim()) * 32;
  const bool narrow =
      dtype_bytes(spec.kv_dtype) == 1 && dtype_bytes(spec.value_dtype()) == 1 && !rotates;
  shape.shared_bytes = tw::attention_shared_bytes(
      spec.head_dim, spec.value_dim(), shape.block_tokens, shape.decode_stages,
      rotates ? rope_dim(*spec.variant.rope, spec.head_dim) : 0, form, decode_only, narrow);
  constexpr int kReserved = 1024;  // by the system, a block
  // More blocks would leave a thread too few registers; of decoding ones, more keys would be under
  // way than memory is served by (seen on a Hopper GPU), but where all of them take half as much.
  const int most = shape.threads > 128 ? 1 : decode_only && narrow ? 3 : 2;
  shape.blocks_per_sm = std::clamp(memory.an_sm / (shape.shared_bytes + kReserved), 1, most);
  // Their keys lie beside each other in most caches. More than eight are slower on an H200, and a
  // hundredth faster on an H100 (docs/kernel_log.md).
  if (decode_only) shape.heads_together = std::gcd(spec.num_kv_heads, 8);
  return shape;
}

Support cuda_supports(const AttentionSpec& spec, CudaTarget target) {
  const auto no = [](std::string reason) { return Support{false, std::move(reason)}; };
  const auto is_fp8 = [](DType dtype) { return dtype == DType::f8e4m3 || dtype == DType::f8e5m2; };
  if (spec.q_dtype != DType::f32 && spec.q_dtype != DType::f16 && spec.q_dtype != DType::bf16) {
    return no(fmt::format("q_dtype is {}: CUDA kernels take float32, float16 and bfloat16",
                          dtype_name(spec.q_dtype)));
  }
  for (const DType dtype : {spec.kv_dtype, spec.value_dtype()}) {
    if (dtype == spec.q_dtype || is_fp8(dtype) || spec.q_dtype == DType::f32) continue;
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

// Boxes fill the rows that eight of a swizzled matrix repeat.
int box_tokens(std::int64_t page_size) {
  const auto size = static_cast<std::uint64_t>(std::max<std::int64_t>(page_size, 0));
  const bool has_boxes = size >= 8 && std::has_single_bit(size);
  return has_boxes ? static_cast<int>(std::min<std::uint64_t>(size, 64)) : 0;
}

KernelChoices choose_kernels(const AttentionSpec& spec, const Limits& limits,
                             const std::string& arch) {
  supports({}, spec);  // an Error for what no device could run
  require_limits(limits);
  const std::string named = arch == "sm_90" ? "sm_90a" : arch;  // as compile_kernels() takes it
  const CudaTarget target = CudaTarget::of_arch(named);
  if (const Support support = cuda_supports(spec, target); !support) {
    raise(ErrorCode::not_supported, "{}: {}", named, support.reason);
  }
  const PlanUses uses = plan_uses(spec, limits);
  return {choice_of(spec, target, named, uses.requests, limits),
          choice_of(spec, target, named, uses.rows, limits)};
}

}  // namespace tilewright
