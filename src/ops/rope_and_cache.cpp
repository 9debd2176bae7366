// SPDX-License-Identifier: Apache-2.0
// From the projection of queries, keys and values to attention's inputs. On the CPU: the three
// operators, one after another.
#include <cstddef>
#include <vector>

#include "ops/cuda_run.h"
#include "ops/op_common.h"
#include "ops/rope_checks.h"

namespace tilewright {
namespace {

void check_weight(std::string_view name, const TensorView& weight, const TensorView& q) {
  if (!weight.defined()) return;
  require_operand(name, weight, {1}, q.device);
  require_shape(name, weight, {q.shape[2]});
}

void check_heads(const TensorView& q, const TensorView& k, const TensorView& v,
                 const TensorView& q_out) {
  require_operand("q", q, {3}, q.device);
  require_operand("k", k, {3}, q.device);
  require_operand("v", v, {3}, q.device);
  require_dtype("k", k, {q.dtype});
  require_dtype("v", v, {q.dtype});
  require_shape("k", k, {q.shape[0], -1, q.shape[2]});
  require_operand("q_out", q_out, {3}, q.device);
  require_dtype("q_out", q_out, {q.dtype});
  require_same_shape("q_out", q_out, "q", q);
  require_writable("q_out", q_out);
  require_in_place_or_apart("q_out", q_out, "q", q);
  require_apart("q_out", q_out, "k", k);
  require_apart("q_out", q_out, "v", v);
}

void check_norm(const QkNorm& norm, const TensorView& q) {
  check_weight("qk_norm.q_weight", norm.q_weight, q);
  check_weight("qk_norm.k_weight", norm.k_weight, q);
  require(!norm.q_weight.defined() || !norm.k_weight.defined() ||
              norm.q_weight.dtype == norm.k_weight.dtype,
          "qk_norm.k_weight is {}: its dtype must be that of qk_norm.q_weight, {}", norm.k_weight,
          norm.q_weight);
  require(norm.eps >= 0, "qk_norm.eps is {}: it must not be negative", norm.eps);
}

// x, normed where there is a weight, rotated into `to`.
void rotate(const TensorView& x, const TensorView& weight, const TensorView& positions,
            const TensorView& to, const RopeAndCacheArgs& args) {
  if (weight.defined()) {
    rms_norm(x, weight, to, args.qk_norm.eps, args.qk_norm.weight_offset);
  }
  const TensorView& from = weight.defined() ? to : x;
  if (args.cos_sin_cache.defined()) {
    apply_rope_with_cos_sin_cache(from, positions, args.cos_sin_cache, to, args.rope.interleaved,
                                  args.sections);
  } else {
    apply_rope(from, positions, to, args.rope, args.sections);
  }
}

}  // namespace

void apply_rope_and_write_kv_cache(const TensorView& q, const TensorView& k, const TensorView& v,
                                   const TensorView& positions, const TensorView& q_out,
                                   const KvCache& cache, const TensorView& slot_mapping,
                                   const RopeAndCacheArgs& args) {
  check_heads(q, k, v, q_out);
  check_norm(args.qk_norm, q);
  const TensorView& table = args.cos_sin_cache;
  if (!table.defined()) check_rope(args.rope);
  const std::int64_t dim = table.defined() ? check_cos_sin_cache(table, q.shape[2], q.device)
                                           : rope_dim(args.rope, q.shape[2]);
  const RopeAxes axes = axes_of_pairs(args.sections, static_cast<std::size_t>(dim) / 2);
  const TensorView of_axes = positions_of_axes(positions, axes.count, q.shape[0], q.device);
  check_cache_write(k, v, cache, slot_mapping, args.k_scale, args.v_scale, args.token_indptr);
  if (on_cuda(q.device)) {
    RopeTurns turns{{}, 1, table, axes.of_pair, args.rope.interleaved};
    if (!table.defined()) {
      const RopeFrequencies& frequencies = cached_frequencies(args.rope, static_cast<int>(dim));
      turns.frequencies = frequencies.values;
      turns.amplitude = frequencies.amplitude;
    }
    run_on_cuda(rope_and_cache_launch(q, k, v, of_axes, q_out, cache, slot_mapping, turns, args,
                                      rope_and_cache_block_tokens(q.shape[0])),
                q.device, args.stream);
    return;
  }
  if (table.defined()) check_positions_in_table(of_axes, table);
  std::vector<std::byte> keys(static_cast<std::size_t>(k.numel() * dtype_bytes(k.dtype)));
  const TensorView rotated(keys.data(), k.dtype, {k.shape[0], k.shape[1], k.shape[2]});
  rotate(k, args.qk_norm.k_weight, positions, rotated, args);
  rotate(q, args.qk_norm.q_weight, positions, q_out, args);
  write_kv_cache(rotated, v, cache, slot_mapping, args.k_scale, args.v_scale, args.token_indptr);
}

}  // namespace tilewright
