// SPDX-License-Identifier: Apache-2.0
// Matrix products of bf16 with f32 sums, and what stands between them in attention: kernels of the
// CPU's own bf16 instructions, AMX tiles or AVX512_BF16 dot products. Wide tiles of bf16 and fp8
// use them; weights are rounded to bf16 before they meet the values, as FlashAttention does.
//
// Operands of one sub-tile (kSubTileRows query rows against kBlockTokens keys):
//   a: rows of `pairs` pairs of bf16, one after the other: keys [key][dim] or values [dim][key]
//   b: [pair][kSubTileRows], a pair in 32 bits: queries [dim pair][row], weights [key pair][row]
//   c: f32 [a's row][kSubTileRows]: scores [key][row] or outputs [dim][row]
#pragma once

#include <cstdint>

namespace tilewright::cpu {

// Query rows lie in the lanes, in groups of this many.
inline constexpr int kRowGroup = 16;
// Query rows that are computed at a time, sharing a loaded block of keys with the others of their
// tile: few, so that queries, scores and weights stay in the L1 cache.
inline constexpr int kSubTileRows = 32;
// Blocks of keys that are loaded together: outputs are read and written once for all of them.
inline constexpr int kBf16Blocks = 4;
// Rows of `a` and the dims of a pair come in whole multiples of this.
constexpr int tile_dim(int dim) {
  return (dim + 31) / 32 * 32;
}

struct Bf16Kernels {
  // Around all calls of a thread: loads and releases its tile configuration.
  void (*begin)();
  void (*end)();
  // c = a b, or c += a b, summed over `blocks` pairs of operands that lie one after the other.
  // `a_rows` is a multiple of 32, `pairs` of 16; `groups` row groups.
  void (*multiply)(const std::uint16_t* a, int a_rows, int pairs, const std::uint32_t* b,
                   int groups, int blocks, bool add, float* c);
  // Online softmax of one row group in base 2: the scores s [key][row], times `scale` (not
  // negative, with log2(e) in it), become the weights p [key pair][row] of the keys [first, last),
  // zeros around them; first is a multiple of 4. m (in units of log2) and l advance. A row's m
  // stays as it is until a score exceeds it by 2^8, so that what was summed before seldom needs its
  // `factor`; returns whether some factor is not 1.
  bool (*softmax)(const float* s, int first, int last, const float* scale, float* m, float* l,
                  float* factor, std::uint32_t* p);
  // The same without softmax: scores are weights but for -inf, which is 0; m is 0 in rows that have
  // seen a key.
  void (*plain_weights)(const float* s, int first, int last, float* m, std::uint32_t* p);
  // out [dim][kBlockTokens] = the transpose of kBlockTokens rows, of which `dim` (a multiple of 32)
  // elements are read.
  void (*transpose_values)(const std::uint16_t* const* rows, int dim, std::uint16_t* out);
};

// The best that this machine has; null where it has no such instructions, or none that are faster
// than f32.
const Bf16Kernels* bf16_kernels();

// All that this machine has, for tests.
struct Bf16KernelList {
  const Bf16Kernels* amx = nullptr;
  const Bf16Kernels* avx512 = nullptr;
  const Bf16Kernels* best = nullptr;
};
Bf16KernelList list_bf16_kernels();

// Whether attention may use bf16_kernels(). For tests, which run the portable kernels too.
enum class Bf16Choice : std::uint8_t { best, avx512, none };
void choose_bf16_kernels(Bf16Choice choice);

}  // namespace tilewright::cpu
