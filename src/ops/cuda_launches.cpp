// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda_launches.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tilewright {
namespace {

constexpr std::int32_t kWarp = 32;

std::int32_t round_up(std::int64_t count, std::int32_t step) {
  return static_cast<std::int32_t>((count + step - 1) / step) * step;
}

// Threads for `items` that a block takes in turn: whole warps, at most `most`.
std::int32_t threads_for(std::int64_t items, std::int32_t most) {
  return items >= most ? most : std::max(kWarp, round_up(items, kWarp));
}

// Blocks of `block` threads, one for each item.
std::int32_t blocks_for(std::int64_t items, std::int32_t block) {
  return (cuda_count(items, "runs of elements") - 1) / block + 1;
}

tw::RowsOf rows_of(const TensorView& tensor) {
  const int rank = tensor.rank;
  return {tensor.data, rank >= 3 ? tensor.strides[0] : 0, rank >= 2 ? tensor.strides[rank - 2] : 0};
}

bool all_aligned(std::int64_t dim, std::initializer_list<TensorView> tensors) {
  return dim % kCudaRun == 0 && std::all_of(tensors.begin(), tensors.end(), has_aligned_runs);
}

// What norms share: rows, and who has them: a thread has `held` runs, where a block has as many
// threads. Rows of a block need `sums` numbers of each warp.
template <typename Params>
void set_norm_rows(CudaOpLaunch<Params>& launch, const TensorView& x, const TensorView& weight,
                   const TensorView& out, float eps, const Scale& out_scale, bool aligned,
                   std::int32_t held, std::int32_t sums) {
  const std::int64_t dim = weight.shape[0];
  Params& params = launch.params;
  params.x = rows_of(x);
  params.out = rows_of(out);
  params.out_scale = {static_cast<const float*>(out_scale.tensor.data), out_scale.value};
  params.weight = weight.data;
  params.rows = cuda_count(x.numel() / dim, "rows");
  params.inner = x.rank >= 2 ? cuda_count(x.shape[x.rank - 2], "rows") : 1;
  params.dim = cuda_count(dim, "elements of a row");
  params.aligned = aligned ? 1 : 0;
  params.eps = eps;
  if (params.rows == 0) return;
  const std::int64_t runs = aligned ? dim / kCudaRun : dim;
  if (runs <= held * kWarp) {
    constexpr std::int32_t kWarps = 4;
    params.row_threads = kWarp;
    launch.block = kWarps * kWarp;
    launch.grid = (params.rows - 1) / kWarps + 1;
  } else {
    launch.block = threads_for((runs - 1) / held + 1, 512);
    params.row_threads = launch.block;
    launch.grid = params.rows;
    launch.shared_bytes = sums * launch.block / kWarp * static_cast<std::int32_t>(sizeof(float));
  }
  params.held = static_cast<std::int32_t>((runs - 1) / params.row_threads + 1);
}

}  // namespace

CudaOpLaunch<tw::RmsNormParams> rms_norm_launch(const TensorView& x, const TensorView& residual,
                                                const TensorView& weight, const TensorView& out,
                                                float eps, float weight_offset,
                                                const Scale& out_scale) {
  const bool fused = residual.defined();
  CudaOpLaunch<tw::RmsNormParams> launch;
  launch.kernel = fused ? CudaOpKernel{CudaOp::fused_add_rms_norm,
                                       {x.dtype, residual.dtype, weight.dtype, out.dtype}}
                        : CudaOpKernel{CudaOp::rms_norm, {x.dtype, weight.dtype, out.dtype}};
  const bool aligned = all_aligned(weight.shape[0], {x, fused ? residual : x, weight, out});
  tw::RmsNormParams& params = launch.params;
  if (fused) params.residual = rows_of(residual);
  params.weight_offset = weight_offset;
  set_norm_rows(launch, x, weight, out, eps, out_scale, aligned, tw::kRmsNormRuns, 1);
  return launch;
}

CudaOpLaunch<tw::LayerNormParams> layer_norm_launch(const TensorView& x, const TensorView& weight,
                                                    const TensorView& bias, const TensorView& out,
                                                    float eps, const Scale& out_scale) {
  CudaOpLaunch<tw::LayerNormParams> launch;
  launch.kernel = bias.defined()
                      ? CudaOpKernel{CudaOp::layer_norm_with_bias,
                                     {x.dtype, weight.dtype, bias.dtype, out.dtype}}
                      : CudaOpKernel{CudaOp::layer_norm, {x.dtype, weight.dtype, out.dtype}};
  launch.params.bias = bias.data;
  const bool aligned =
      all_aligned(weight.shape[0], {x, weight, bias.defined() ? bias : weight, out});
  set_norm_rows(launch, x, weight, out, eps, out_scale, aligned, tw::kLayerNormRuns, 2);
  return launch;
}

CudaOpLaunch<tw::ActivationParams> activation_launch(const TensorView& x, const TensorView& out,
                                                     Activation activation) {
  CudaOpLaunch<tw::ActivationParams> launch;
  launch.kernel = {CudaOp::act_and_mul, {x.dtype, out.dtype}, activation};
  const std::int64_t dim = out.shape[1];
  const bool aligned = all_aligned(dim, {x, out});
  launch.params = {x.data,
                   out.data,
                   x.strides[0],
                   out.strides[0],
                   cuda_count(out.shape[0], "rows"),
                   cuda_count(dim, "elements of a row"),
                   aligned ? 1 : 0};
  if (out.numel() == 0) return launch;
  launch.block = 256;
  launch.grid = blocks_for(out.numel() / (aligned ? kCudaRun : 1), launch.block);
  return launch;
}

CudaOpLaunch<tw::GatherRowsParams> gather_rows_launch(const TensorView& x,
                                                      const TensorView& indices,
                                                      const TensorView& out) {
  CudaOpLaunch<tw::GatherRowsParams> launch;
  // Rows of one dtype are copied bit by bit, so that integers need no kernel of their own.
  const auto type_of = [](const TensorView& tensor) {
    return tensor.dtype == DType::i32 ? DType::f32 : tensor.dtype;
  };
  launch.kernel = {CudaOp::gather_rows, {type_of(x), type_of(out)}};
  const std::int64_t dim = out.shape[1];
  const bool aligned = all_aligned(dim, {x, out});
  tw::GatherRowsParams& params = launch.params;
  params.x = x.data;
  params.indices = indices.data;
  params.out = out.data;
  params.x_rows = x.shape[0];
  params.x_stride = x.strides[0];
  params.indices_stride = indices.strides[0];
  params.out_stride = out.strides[0];
  params.indices_64 = indices.dtype == DType::i64 ? 1 : 0;
  params.rows = cuda_count(out.shape[0], "rows");
  params.dim = cuda_count(dim, "elements of a row");
  params.aligned = aligned ? 1 : 0;
  if (out.numel() == 0) return launch;
  launch.block = 256;
  launch.grid = blocks_for(out.numel() / (aligned ? kCudaRun : 1), launch.block);
  return launch;
}

CudaOpLaunch<tw::PackBitsParams> pack_bits_launch(const TensorView& x, const TensorView& out,
                                                  BitOrder order) {
  CudaOpLaunch<tw::PackBitsParams> launch;
  launch.kernel.op = CudaOp::pack_bits;
  tw::PackBitsParams& params = launch.params;
  params.x = static_cast<const tw::u8*>(x.data);
  params.out = static_cast<tw::u8*>(out.data);
  params.columns = x.shape[x.rank - 1];
  params.rows = 1;
  if (x.rank == 2) {
    params.rows = cuda_count(x.shape[0], "rows");
    params.x_stride = x.strides[0];
    params.out_stride = out.strides[0];
  }
  params.row_bytes = cuda_count(out.shape[out.rank - 1], "bytes of a row");
  params.little = order == BitOrder::little ? 1 : 0;
  if (out.numel() == 0) return launch;
  launch.block = 256;
  launch.grid = blocks_for(out.numel(), launch.block);
  return launch;
}

CudaOpLaunch<tw::SegmentPackBitsParams> segment_pack_bits_launch(const TensorView& x,
                                                                 const TensorView& indptr,
                                                                 const TensorView& out,
                                                                 const TensorView& out_indptr,
                                                                 BitOrder order) {
  CudaOpLaunch<tw::SegmentPackBitsParams> launch;
  launch.kernel.op = CudaOp::segment_pack_bits;
  tw::SegmentPackBitsParams& params = launch.params;
  params.x = static_cast<const tw::u8*>(x.data);
  params.out = static_cast<tw::u8*>(out.data);
  params.indptr = indptr.data;
  params.out_indptr = out_indptr.data;
  params.elements = x.shape[0];
  params.out_bytes = out.shape[0];
  params.segments = indptr.shape[0] - 1;
  params.indptr_stride = indptr.strides[0];
  params.out_indptr_stride = out_indptr.strides[0];
  params.indptr_64 = indptr.dtype == DType::i64 ? 1 : 0;
  params.out_indptr_64 = out_indptr.dtype == DType::i64 ? 1 : 0;
  params.little = order == BitOrder::little ? 1 : 0;
  launch.block = 256;
  launch.shared_bytes = launch.block / kWarp * static_cast<std::int32_t>(sizeof(tw::i64));
  // Without segments there is still the first entry of out_indptr to write.
  const std::int64_t segments = std::max<std::int64_t>(1, params.segments);
  // Lengths are not known here: as many blocks as equal segments would keep busy, 16 bytes a
  // thread.
  constexpr std::int64_t kElementsOfBlock = 256 * 16 * 8;
  params.parts = static_cast<std::int32_t>(
      std::clamp<std::int64_t>(params.elements / segments / kElementsOfBlock, 1, 1024));
  launch.grid = cuda_count(segments * params.parts, "blocks");
  return launch;
}

CudaOpLaunch<tw::MergeParams> merge_launch(const TensorView& values, const TensorView& lse,
                                           const TensorView& out, const TensorView& lse_out) {
  CudaOpLaunch<tw::MergeParams> launch;
  launch.kernel = {CudaOp::merge_states, {values.dtype, out.dtype}};
  tw::MergeParams& params = launch.params;
  params.values = values.data;
  params.lse = static_cast<const float*>(lse.data);
  params.out = out.data;
  params.lse_out = static_cast<float*>(lse_out.data);
  std::copy_n(values.strides.begin(), 3, params.values_stride);
  std::copy_n(lse.strides.begin(), 3, params.lse_stride);
  std::copy_n(out.strides.begin(), 2, params.out_stride);
  std::copy_n(lse_out.strides.begin(), 2, params.lse_out_stride);
  params.tokens = cuda_count(out.shape[0], "tokens");
  params.states = cuda_count(values.shape[1], "states");
  params.heads = cuda_count(out.shape[1], "heads");
  params.dim = cuda_count(out.shape[2], "elements of a head");
  const bool aligned = all_aligned(params.dim, {values, out});
  params.aligned = aligned ? 1 : 0;
  if (out.numel() == 0) return launch;
  launch.block = 128;
  launch.grid = blocks_for(out.numel() / (aligned ? kCudaRun : 1), launch.block);
  return launch;
}

CudaOpLaunch<tw::RopeParams> rope_launch(const TensorView& x, const TensorView& positions,
                                         const TensorView& out, const RopeTurns& turns) {
  CudaOpLaunch<tw::RopeParams> launch;
  launch.kernel = turns.table.defined() ? CudaOpKernel{CudaOp::apply_rope_with_table,
                                                       {x.dtype, out.dtype, turns.table.dtype}}
                                        : CudaOpKernel{CudaOp::apply_rope, {x.dtype, out.dtype}};
  tw::RopeParams& params = launch.params;
  const auto pairs = static_cast<std::int64_t>(turns.axis_of_pair.size());
  if (pairs > tw::RopeParams::kMaxPairs) {
    raise(ErrorCode::not_supported, "x is {}: on CUDA up to {} elements of a head are rotated", x,
          2 * tw::RopeParams::kMaxPairs);
  }
  params.x = rows_of(x);
  params.out = rows_of(out);
  params.positions = positions.data;
  std::copy_n(positions.strides.begin(), 2, params.positions_stride);
  params.positions_64 = positions.dtype == DType::i64 ? 1 : 0;
  params.table = turns.table.data;
  params.table_stride = turns.table.strides[0];
  params.table_rows = turns.table.shape[0];
  params.tokens = cuda_count(x.shape[0], "tokens");
  params.heads = cuda_count(x.shape[1], "heads");
  params.head_dim = cuda_count(x.shape[2], "elements of a head");
  params.pairs = static_cast<std::int32_t>(pairs);
  params.interleaved = turns.interleaved ? 1 : 0;
  params.amplitude = turns.amplitude;
  const bool aligned = all_aligned(pairs, {x, out}) && x.shape[2] % kCudaRun == 0;
  params.aligned = aligned ? 1 : 0;
  std::copy(turns.axis_of_pair.begin(), turns.axis_of_pair.end(), params.axis_of_pair);
  if (!turns.table.defined()) {
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
      const double each =
          turns.frequencies[static_cast<std::size_t>(pair)] / (2 * std::numbers::pi);
      // Below 1 by as much as a double can say, so the product is below 2^64.
      params.turns[pair] = static_cast<tw::u64>((each - std::floor(each)) * 0x1.0p64);
    }
  }
  if (x.numel() == 0) return launch;
  launch.grid = params.tokens;
  launch.block =
      threads_for(std::max(params.heads * (aligned ? pairs / kCudaRun : pairs), pairs), 256);
  launch.shared_bytes = 2 * tw::RopeParams::kMaxPairs * static_cast<std::int32_t>(sizeof(float));
  return launch;
}

namespace {

tw::CacheSide cache_side(const TensorView& from, const TensorView& to, const Scale& scale) {
  tw::CacheSide side{};
  side.from = from.data;
  side.to = to.data;
  std::copy_n(from.strides.begin(), 3, side.from_stride);
  std::copy_n(to.strides.begin(), 3, side.to_stride);
  const TensorView& tensor = scale.tensor;
  side.scale_value = scale.value;
  if (tensor.defined()) {
    const int last = tensor.rank - 1;
    side.scale = static_cast<const float*>(tensor.data);
    side.scale_stride[0] = tensor.rank == 2 && tensor.shape[0] > 1 ? tensor.strides[0] : 0;
    side.scale_stride[1] = tensor.shape[last] > 1 ? tensor.strides[last] : 0;
  }
  side.dim = cuda_count(from.shape[2], "elements of a head");
  side.aligned = all_aligned(side.dim, {from, to}) ? 1 : 0;
  return side;
}

}  // namespace

CudaOpLaunch<tw::CacheWriteParams> cache_write_launch(const TensorView& k, const TensorView& v,
                                                      const KvCache& cache,
                                                      const TensorView& slot_mapping,
                                                      const Scale& k_scale, const Scale& v_scale,
                                                      const TensorView& token_indptr) {
  CudaOpLaunch<tw::CacheWriteParams> launch;
  launch.kernel = {CudaOp::write_kv_cache, {k.dtype, cache.k.dtype, v.dtype, cache.v.dtype}};
  tw::CacheWriteParams& params = launch.params;
  params.keys = cache_side(k, cache.k, k_scale);
  params.values = cache_side(v, cache.v, v_scale);
  params.slots = slot_mapping.data;
  params.slots_stride = slot_mapping.strides[0];
  params.slots_64 = slot_mapping.dtype == DType::i64 ? 1 : 0;
  params.slots_end = cuda_count(cache.k.shape[0] * cache.k.shape[1], "slots of a cache");
  params.requests = 1;
  if (token_indptr.defined()) {
    params.token_indptr = token_indptr.data;
    params.token_indptr_stride = token_indptr.strides[0];
    params.token_indptr_64 = token_indptr.dtype == DType::i64 ? 1 : 0;
    params.requests = cuda_count(token_indptr.shape[0] - 1, "requests");
  }
  params.page_size = cuda_count(cache.k.shape[1], "tokens of a page");
  params.tokens = cuda_count(k.shape[0], "tokens");
  params.heads = cuda_count(k.shape[1], "heads");
  if (params.tokens == 0 || params.heads == 0 || params.slots_end == 0) return launch;
  launch.grid = params.tokens;
  const auto items = [&](const tw::CacheSide& side) {
    return static_cast<std::int64_t>(params.heads) *
           (side.aligned != 0 ? side.dim / kCudaRun : side.dim);
  };
  launch.block = threads_for(std::max(items(params.keys), items(params.values)), 256);
  return launch;
}

std::int32_t rope_and_cache_block_tokens(std::int64_t tokens) {
  constexpr std::int64_t kBlocks = 1024;
  std::int32_t of_block = tw::RopeAndCacheParams::kBlockTokens;
  while (of_block > 1 && tokens < of_block * kBlocks) of_block /= 2;
  return of_block;
}

CudaOpLaunch<tw::RopeAndCacheParams> rope_and_cache_launch(
    const TensorView& q, const TensorView& k, const TensorView& v, const TensorView& positions,
    const TensorView& q_out, const KvCache& cache, const TensorView& slot_mapping,
    const RopeTurns& turns, const RopeAndCacheArgs& args, std::int32_t block_tokens) {
  constexpr std::int64_t kMaxHeads = 1024;  // whose factors are in shared memory
  const TensorView& q_weight = args.qk_norm.q_weight;
  const TensorView& k_weight = args.qk_norm.k_weight;
  const TensorView& weight = q_weight.defined() ? q_weight : k_weight;
  CudaOpLaunch<tw::RopeAndCacheParams> launch;
  launch.kernel = {
      CudaOp::rope_and_cache,
      {q.dtype, cache.k.dtype, cache.v.dtype, weight.defined() ? weight.dtype : q.dtype,
       turns.table.defined() ? turns.table.dtype : DType::f32}};
  tw::RopeAndCacheParams& params = launch.params;
  params.rope = rope_launch(q, positions, q_out, turns).params;
  params.cache =
      cache_write_launch(k, v, cache, slot_mapping, args.k_scale, args.v_scale, args.token_indptr)
          .params;
  params.q_weight = q_weight.data;
  params.k_weight = k_weight.data;
  params.eps = args.qk_norm.eps;
  params.weight_offset = args.qk_norm.weight_offset;
  const std::int64_t heads = static_cast<std::int64_t>(params.rope.heads) + params.cache.heads;
  if (heads > kMaxHeads) {
    raise(ErrorCode::not_supported, "q and k have {} heads: on CUDA there may be up to {}", heads,
          kMaxHeads);
  }
  const auto runs_of = [](const TensorView& tensor) {
    return !tensor.defined() || has_aligned_runs(tensor);
  };
  const bool aligned = params.rope.aligned != 0 && params.cache.keys.aligned != 0 &&
                       params.cache.values.aligned != 0 && runs_of(q_weight) && runs_of(k_weight);
  params.aligned = aligned ? 1 : 0;
  if (params.rope.tokens == 0 || heads == 0) return launch;
  params.block_tokens = block_tokens;
  launch.grid = (params.rope.tokens - 1) / block_tokens + 1;
  const std::int64_t pairs = params.rope.pairs;
  // Threads that all have the same number of runs, but for a warp; so many that an SM has registers
  // for three to four blocks.
  const std::int64_t run = aligned ? kCudaRun : 1;
  const std::int64_t items = block_tokens * heads * (pairs / run);
  constexpr std::int32_t kThreads = 224;
  const std::int64_t of_thread = (items - 1) / kThreads + 1;
  launch.block = threads_for((items - 1) / of_thread + 1, kThreads);
  const auto head_runs = [&](std::int64_t of_token, std::int64_t elements) {
    const auto runs = static_cast<std::int32_t>(elements / run);
    const std::int32_t divisor = std::max(runs, 1);
    return tw::HeadRuns{static_cast<std::int32_t>(of_token), runs, launch.block / divisor,
                        launch.block % divisor};
  };
  params.pairs = head_runs(heads, pairs);
  params.rest = head_runs(heads, params.rope.head_dim - 2 * pairs);
  params.values = head_runs(params.cache.heads, params.cache.values.dim);
  const std::int64_t numbers = 2 * pairs + (weight.defined() ? heads : 0);
  launch.shared_bytes =
      tw::RopeAndCacheParams::kSlotBytes +
      static_cast<std::int32_t>(block_tokens * numbers * static_cast<std::int64_t>(sizeof(float)));
  return launch;
}

}  // namespace tilewright
