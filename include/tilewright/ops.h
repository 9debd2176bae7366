// SPDX-License-Identifier: Apache-2.0
// The small operators around attention. Floating-point tensors are f32, f16 or bf16, arithmetic is
// f32; the last dimension is contiguous, other strides are free. Outputs may be the input they
// replace (in place), else must not overlap it. Errors: invalid_argument naming the tensor.
//
// All tensors of a call are on one device. On CUDA a call only launches a kernel on its stream:
// what tensors hold there is not read by the host, so where below it is an Error on the CPU, it is
// handled as said there, and never an access outside of a tensor. The first call for some dtypes
// compiles.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/kv_cache.h>
#include <tilewright/variant.h>

#include <array>
#include <cstdint>

namespace tilewright {

// Writes k, v [tokens, kv_heads, dim] (any strides) into the cache: token t goes to page slot /
// page_size, row slot % page_size, where slot = slot_mapping[t], i32 or i64; -1 skips. Converts to
// the cache's dtype; for fp8 caches values are divided by k_scale / v_scale and saturated. Scales
// are those that RunArgs multiplies by: a number, or f32 [1], [1, kv_heads], [requests, 1] or
// [requests, kv_heads]; also [kv_heads]. With more than one request token_indptr says whose the
// tokens are: i32 or i64 [requests + 1], ascending from 0, request r has the tokens
// [token_indptr[r], token_indptr[r + 1]); tokens behind the last request's must be skipped. A slot
// outside the cache or below -1 is an Error and nothing is written. Of two tokens with one slot the
// later one stays. On CUDA: such slots and tokens that are no request's are skipped, scales are not
// checked, and which of two tokens with one slot stays is not determined.
TILEWRIGHT_API void write_kv_cache(const TensorView& k, const TensorView& v, const KvCache& cache,
                                   const TensorView& slot_mapping, const Scale& k_scale = {},
                                   const Scale& v_scale = {}, const TensorView& token_indptr = {},
                                   Stream stream = {});

// out = x / sqrt(mean(x^2) + eps) * (weight + weight_offset); x, out [..., dim] of rank 1 to 3,
// weight [dim] (arXiv 1910.07467). weight_offset = 1 is Gemma's form. out may also be f8e4m3:
// values are divided by out_scale, a number or f32 [1], and saturated, as write_kv_cache does it.
TILEWRIGHT_API void rms_norm(const TensorView& x, const TensorView& weight, const TensorView& out,
                             float eps, float weight_offset = 0, const Scale& out_scale = {},
                             Stream stream = {});
// residual += x, then out = rms_norm(residual): one read of both. residual is updated; out may be
// x.
TILEWRIGHT_API void fused_add_rms_norm(const TensorView& x, const TensorView& residual,
                                       const TensorView& weight, const TensorView& out, float eps,
                                       float weight_offset = 0, const Scale& out_scale = {},
                                       Stream stream = {});

// out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias, of each row (arXiv 1607.06450), with
// the mean of squared differences for var. bias [dim] may be undefined; all else as rms_norm.
TILEWRIGHT_API void layer_norm(const TensorView& x, const TensorView& weight,
                               const TensorView& bias, const TensorView& out, float eps,
                               const Scale& out_scale = {}, Stream stream = {});

// Positions with several axes (multi-axis RoPE): how many pairs of a head turn by each of them.
// They sum to dim / 2.
struct RopeSections {
  static constexpr int kMaxAxes = 4;
  std::array<int, kMaxAxes> pairs{};  // all 0: one axis
  // False (Qwen2-VL): the first pairs[0] pairs turn by axis 0, the next pairs[1] by axis 1, ...
  // True (Qwen3-VL): with n axes pair i turns by axis i % n where i < n * pairs[i % n], else by
  // axis 0.
  bool interleaved = false;
};

// Rotates x [tokens, heads, head_dim] by positions i32 or i64 into out (may be x). positions:
// [tokens], or [axes, tokens] with sections. On CUDA up to 768 elements of a head are rotated, else
// not_supported.
TILEWRIGHT_API void apply_rope(const TensorView& x, const TensorView& positions,
                               const TensorView& out, const RopeSpec& rope,
                               const RopeSections& sections = {}, Stream stream = {});

// The same with cosines and sines from a table [positions, dim] of f32, f16 or bf16, as vLLM's
// cos_sin_cache: a position's row holds dim / 2 cosines, then dim / 2 sines. The first dim elements
// of a head are rotated. A position outside the table is an Error and nothing is written; on CUDA
// it counts as the nearest one inside.
TILEWRIGHT_API void apply_rope_with_cos_sin_cache(const TensorView& x, const TensorView& positions,
                                                  const TensorView& cos_sin_cache,
                                                  const TensorView& out, bool interleaved = false,
                                                  const RopeSections& sections = {},
                                                  Stream stream = {});

// RMSNorm of each head of queries and keys before they are rotated, as Qwen3's. Weights
// [head_dim] of one dtype; an undefined one: these are not normed.
struct QkNorm {
  TensorView q_weight;
  TensorView k_weight;
  float eps = 1e-6F;
  float weight_offset = 0;
};

// How apply_rope_and_write_kv_cache does what rms_norm, apply_rope and write_kv_cache do.
struct RopeAndCacheArgs {
  RopeSpec rope;
  TensorView cos_sin_cache;  // where it is defined, of `rope` only `interleaved` counts
  RopeSections sections;
  QkNorm qk_norm;
  Scale k_scale;
  Scale v_scale;
  TensorView token_indptr;
  Stream stream;
};
// From the projection of q [tokens, qo_heads, head_dim], k [tokens, kv_heads, head_dim] and
// v [tokens, kv_heads, dim] to what attention reads, in one kernel: q is normed and rotated into
// q_out (may be q), k into the cache's slots, and v is written there. q, k, v and q_out have one
// dtype and contiguous last dimensions, as slices of one tensor have. The bits are those of
// rms_norm (dimensions that are no multiple of 8: but for the order of its sum), apply_rope and
// write_kv_cache one after another, each rounded to that dtype. Tokens with slot -1 are rotated
// into q_out alone. On CUDA up to 1024 heads, else not_supported; on the CPU k is copied once.
TILEWRIGHT_API void apply_rope_and_write_kv_cache(const TensorView& q, const TensorView& k,
                                                  const TensorView& v, const TensorView& positions,
                                                  const TensorView& q_out, const KvCache& cache,
                                                  const TensorView& slot_mapping,
                                                  const RopeAndCacheArgs& args = {});

enum class Activation : std::uint8_t { silu, gelu, gelu_tanh };
// out [tokens, dim] = act(x[:, :dim]) * x[:, dim:] for x [tokens, 2 * dim].
TILEWRIGHT_API void act_and_mul(const TensorView& x, const TensorView& out, Activation activation,
                                Stream stream = {});

// out[i] = x[indices[i]], as an embedding lookup: x [n, dim], indices [m], i32 or i64, out [m,
// dim], apart from x. x and out may both be i32, too. An index outside [0, n) is an Error and
// nothing is written; on CUDA its row becomes zeros.
TILEWRIGHT_API void gather_rows(const TensorView& x, const TensorView& indices,
                                const TensorView& out, Stream stream = {});

// Bytes that are 0 or not, u8 [n] or [rows, n], into bits, u8 [ceil(n / 8)] or [rows, ceil(n / 8)],
// as numpy.packbits: eight to a byte, of which the first is the highest (big) or the lowest
// (little) bit; bits behind the last element are 0.
enum class BitOrder : std::uint8_t { big, little };
TILEWRIGHT_API void pack_bits(const TensorView& x, const TensorView& out,
                              BitOrder order = BitOrder::big, Stream stream = {});

// The same of segments of x [n], each of which begins a byte (FlashInfer's segment_packbits):
// segment s is x[indptr[s] : indptr[s + 1]] and becomes out[out_indptr[s] : out_indptr[s + 1]].
// indptr [segments + 1], i32 or i64, ascends within [0, n]. out_indptr, i32 or i64, is written,
// from 0 on. out may have more bytes than the segments, n / 8 + segments always suffice; those
// behind the last segment are left alone. On CUDA: an indptr that does not ascend gives segments
// within x, and what has no room in out is not written.
TILEWRIGHT_API void segment_pack_bits(const TensorView& x, const TensorView& indptr,
                                      const TensorView& out, const TensorView& out_indptr,
                                      BitOrder order = BitOrder::big, Stream stream = {});

// Joins N partial attentions of the same queries over disjoint keys (arXiv 2501.01005,
// section 2.2): values [tokens, states, heads, dim] and lse f32 [tokens, states, heads] (natural
// log) -> out [tokens, heads, dim] and, optionally, lse_out f32 [tokens, heads]. In order of
// states; a state with lse -inf does not count, whatever its values.
TILEWRIGHT_API void merge_states(const TensorView& values, const TensorView& lse,
                                 const TensorView& out, const TensorView& lse_out = {},
                                 Stream stream = {});

}  // namespace tilewright
