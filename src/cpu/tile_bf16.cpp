// SPDX-License-Identifier: Apache-2.0
#include "cpu/tile_bf16.h"

#include <hwy/highway.h>

#include <atomic>

#include "cpu/tile.h"

#if HWY_ARCH_X86_64 && HWY_COMPILER_GCC_ACTUAL >= 1200 && defined(__linux__)
#define TILEWRIGHT_X86_BF16 1
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define TILEWRIGHT_X86_BF16 0
#endif

#if TILEWRIGHT_X86_BF16

// GCC's own headers leave what their masked intrinsics do not read undefined.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

// Attributes instead of compiler flags: nothing that other files share is compiled for this CPU.
HWY_PUSH_ATTRIBUTES(
    "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512bf16,amx-tile,amx-bf16,avx2,fma")
namespace tilewright::cpu {
namespace {

constexpr std::int64_t kRowBytes = 4 * kSubTileRows;  // of b and c
constexpr int kStep = 16;                             // pairs of one tile product
static_assert(kBlockTokens == 64 && kSubTileRows == 2 * kRowGroup);

// ---- products with AMX tiles: 16 rows of 64 bytes each ----

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Static: the intrinsic tells the compiler of its first bytes only.
constexpr TileConfig kTileConfig;

void amx_begin() {
  _tile_loadconfig(&kTileConfig);
}

void amx_end() {
  _tile_release();
}

// The compiler does not know that tile loads read memory.
inline void memory_barrier() {
  asm volatile("" ::: "memory");
}

// Operands of one product of 32 rows of a; those of a sum lie a_step apart.
struct Operands {
  const std::uint16_t* a;
  int pairs;
  std::int64_t a_step;
  const std::uint32_t* b;
  int blocks;

  // What is multiplied after `block`. It is asked for early: a is read once, from the L2 cache.
  const std::uint16_t* after(int block) const {
    return block + 1 < blocks ? a + (block + 1) * a_step : a + std::int64_t{64} * pairs;
  }
};

inline void prefetch_step(const std::uint16_t* a) {
  for (int line = 0; line < 32; ++line) _mm_prefetch(a + 32 * line, _MM_HINT_T0);
}

// Two row groups.
inline void amx_2x2(const Operands& in, bool add, float* c) {
  const std::int64_t a_bytes = 4 * in.pairs;
  float* const c_low = c + 16 * kSubTileRows;
  if (add) {
    _tile_loadd(0, c, kRowBytes);
    _tile_loadd(1, c + kRowGroup, kRowBytes);
    _tile_loadd(2, c_low, kRowBytes);
    _tile_loadd(3, c_low + kRowGroup, kRowBytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const std::uint32_t* b = in.b;
  for (int block = 0; block < in.blocks; ++block) {
    const std::uint16_t* a = in.a + block * in.a_step;
    const std::uint16_t* a_low = a + 32 * in.pairs;
    const std::uint16_t* next = in.after(block);
    for (int pair = 0; pair < in.pairs; pair += kStep) {
      _tile_loadd(6, b, kRowBytes);
      _tile_loadd(4, a, a_bytes);
      _tile_loadd(7, b + kRowGroup, kRowBytes);
      _tile_loadd(5, a_low, a_bytes);
      prefetch_step(next);
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
      a += 2 * kStep;
      a_low += 2 * kStep;
      b += kStep * kSubTileRows;
      next += 64 * kStep;
    }
  }
  _tile_stored(0, c, kRowBytes);
  _tile_stored(1, c + kRowGroup, kRowBytes);
  _tile_stored(2, c_low, kRowBytes);
  _tile_stored(3, c_low + kRowGroup, kRowBytes);
}

// One row group.
inline void amx_2x1(const Operands& in, bool add, float* c) {
  const std::int64_t a_bytes = 4 * in.pairs;
  float* const c_low = c + 16 * kSubTileRows;
  if (add) {
    _tile_loadd(0, c, kRowBytes);
    _tile_loadd(2, c_low, kRowBytes);
  } else {
    _tile_zero(0);
    _tile_zero(2);
  }
  const std::uint32_t* b = in.b;
  for (int block = 0; block < in.blocks; ++block) {
    const std::uint16_t* a = in.a + block * in.a_step;
    const std::uint16_t* a_low = a + 32 * in.pairs;
    for (int pair = 0; pair < in.pairs; pair += kStep) {
      _tile_loadd(6, b, kRowBytes);
      _tile_loadd(4, a, a_bytes);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, a_low, a_bytes);
      _tile_dpbf16ps(2, 5, 6);
      a += 2 * kStep;
      a_low += 2 * kStep;
      b += kStep * kSubTileRows;
    }
  }
  _tile_stored(0, c, kRowBytes);
  _tile_stored(2, c_low, kRowBytes);
}

void amx_multiply(const std::uint16_t* a, int a_rows, int pairs, const std::uint32_t* b, int groups,
                  int blocks, bool add, float* c) {
  memory_barrier();
  const std::int64_t a_step = std::int64_t{2} * a_rows * pairs;
  for (int row = 0; row < a_rows; row += 32) {
    const std::uint16_t* const a_here = a + std::int64_t{2} * row * pairs;
    float* const c_here = c + static_cast<std::int64_t>(row) * kSubTileRows;
    int group = 0;
    for (; group + 2 <= groups; group += 2) {
      amx_2x2({a_here, pairs, a_step, b + group * kRowGroup, blocks}, add,
              c_here + group * kRowGroup);
    }
    if (group < groups) {
      amx_2x1({a_here, pairs, a_step, b + group * kRowGroup, blocks}, add,
              c_here + group * kRowGroup);
    }
  }
  memory_barrier();
}

// ---- products with AVX512_BF16 dot products ----

void nothing() {}

template <int kGroups>
void dot_multiply_groups(const std::uint16_t* a, int a_rows, int pairs, const std::uint32_t* b,
                         int blocks, bool add, float* c) {
  constexpr int kRows = 8;
  for (int row = 0; row < a_rows; row += kRows) {
    __m512 sum[kRows][kGroups];
    float* const c_here = c + static_cast<std::int64_t>(row) * kSubTileRows;
    for (int i = 0; i < kRows; ++i) {
      for (int g = 0; g < kGroups; ++g) {
        sum[i][g] =
            add ? _mm512_load_ps(c_here + i * kSubTileRows + g * kRowGroup) : _mm512_setzero_ps();
      }
    }
    for (int block = 0; block < blocks; ++block) {
      const auto* const a_here = reinterpret_cast<const std::int32_t*>(a) +
                                 (static_cast<std::int64_t>(block) * a_rows + row) * pairs;
      const std::uint32_t* const b_here = b + block * pairs * kSubTileRows;
      for (int pair = 0; pair < pairs; ++pair) {
        __m512bh b_pair[kGroups];
        for (int g = 0; g < kGroups; ++g) {
          b_pair[g] = (__m512bh)_mm512_load_si512(b_here + pair * kSubTileRows + g * kRowGroup);
        }
        for (int i = 0; i < kRows; ++i) {
          const __m512bh a_pair = (__m512bh)_mm512_set1_epi32(a_here[i * pairs + pair]);
          for (int g = 0; g < kGroups; ++g) {
            sum[i][g] = _mm512_dpbf16_ps(sum[i][g], a_pair, b_pair[g]);
          }
        }
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int g = 0; g < kGroups; ++g) {
        _mm512_store_ps(c_here + i * kSubTileRows + g * kRowGroup, sum[i][g]);
      }
    }
  }
}

void dot_multiply(const std::uint16_t* a, int a_rows, int pairs, const std::uint32_t* b, int groups,
                  int blocks, bool add, float* c) {
  if (groups == 1) return dot_multiply_groups<1>(a, a_rows, pairs, b, blocks, add, c);
  dot_multiply_groups<2>(a, a_rows, pairs, b, blocks, add, c);
}

// ---- what both share ----

// 2^x within 3e-6, for any x: 0 for -inf, NaN for NaN.
inline __m512 exp2_of(__m512 x) {
  const __m512 fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
  __m512 p = _mm512_fmadd_ps(fraction, _mm512_set1_ps(0.013534168F), _mm512_set1_ps(0.05201146F));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.24144275F));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(0.69300383F));
  p = _mm512_fmadd_ps(p, fraction, _mm512_set1_ps(1.0000026F));
  return _mm512_scalef_ps(p, x);  // by 2^floor(x)
}

// Two vectors of f32 as pairs of bf16, `first` in the lower halves.
inline __m512i to_pairs(__m512 first, __m512 second) {
  const __m512i in_order = (__m512i)_mm512_cvtne2ps_pbh(second, first);
  const __m512i interleave =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                       21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(interleave, in_order);
}

// Zeros for pairs of the keys [begin, end).
inline void clear_weights(std::uint32_t* p, int begin, int end) {
  for (int key = begin; key < end; key += 2) {
    _mm512_store_si512(p + key / 2 * kSubTileRows, _mm512_setzero_si512());
  }
}

bool softmax(const float* s, int first, int last, const float* scale, float* m, float* l,
             float* factor, std::uint32_t* p) {
  const __m512 lowest = _mm512_set1_ps(-__builtin_inff());
  __m512 largest[4] = {lowest, lowest, lowest, lowest};
  int key = first;
  for (; key + 4 <= last; key += 4) {
    for (int i = 0; i < 4; ++i) {
      largest[i] = _mm512_max_ps(_mm512_load_ps(s + (key + i) * kSubTileRows), largest[i]);
    }
  }
  for (; key < last; ++key) {
    largest[0] = _mm512_max_ps(_mm512_load_ps(s + key * kSubTileRows), largest[0]);
  }
  const __m512 scales = _mm512_load_ps(scale);
  const __m512 top = _mm512_mul_ps(
      _mm512_max_ps(_mm512_max_ps(largest[0], largest[1]), _mm512_max_ps(largest[2], largest[3])),
      scales);
  const __m512 before = _mm512_load_ps(m);
  const __mmask16 moves =
      _mm512_cmp_ps_mask(top, _mm512_add_ps(before, _mm512_set1_ps(8.0F)), _CMP_GT_OQ);
  const __m512 now = _mm512_mask_mov_ps(before, moves, top);
  const __m512 shift = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(now, lowest, _CMP_NEQ_UQ), now);
  const __m512 rescale = exp2_of(_mm512_maskz_sub_ps(moves, before, shift));
  const __m512 factors = _mm512_mask_mov_ps(_mm512_set1_ps(1.0F), moves, rescale);
  _mm512_store_ps(m, now);
  _mm512_store_ps(factor, factors);
  __m512 sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  clear_weights(p, 0, first);
  for (key = first; key + 2 <= last; key += 2) {
    const float* const at = s + key * kSubTileRows;
    const __m512 even = exp2_of(_mm512_fmsub_ps(_mm512_load_ps(at), scales, shift));
    const __m512 odd = exp2_of(_mm512_fmsub_ps(_mm512_load_ps(at + kSubTileRows), scales, shift));
    sum[0] = _mm512_add_ps(sum[0], even);
    sum[1] = _mm512_add_ps(sum[1], odd);
    _mm512_store_si512(p + key / 2 * kSubTileRows, to_pairs(even, odd));
  }
  if (key < last) {
    const __m512 even =
        exp2_of(_mm512_fmsub_ps(_mm512_load_ps(s + key * kSubTileRows), scales, shift));
    sum[0] = _mm512_add_ps(sum[0], even);
    _mm512_store_si512(p + key / 2 * kSubTileRows, to_pairs(even, _mm512_setzero_ps()));
    key += 2;
  }
  clear_weights(p, key, kBlockTokens);
  _mm512_store_ps(l, _mm512_fmadd_ps(_mm512_load_ps(l), factors, _mm512_add_ps(sum[0], sum[1])));
  return moves != 0;
}

void plain_weights(const float* s, int first, int last, float* m, std::uint32_t* p) {
  const __m512 masked = _mm512_set1_ps(-__builtin_inff());
  __m512 seen = _mm512_load_ps(m);
  for (int key = 0; key < kBlockTokens; key += 2) {
    __m512 weights[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int i = 0; i < 2 && key + i >= first && key + i < last; ++i) {
      const __m512 score = _mm512_load_ps(s + (key + i) * kSubTileRows);
      const __mmask16 attends = _mm512_cmp_ps_mask(score, masked, _CMP_NEQ_UQ);
      weights[i] = _mm512_maskz_mov_ps(attends, score);
      seen = _mm512_mask_mov_ps(seen, attends, _mm512_setzero_ps());
    }
    _mm512_store_si512(p + key / 2 * kSubTileRows, to_pairs(weights[0], weights[1]));
  }
  _mm512_store_ps(m, seen);
}

// Transposes 16 x 16 elements of 32 bits.
inline void transpose_16x16(__m512i (&rows)[16]) {
  __m512i other[16];
  for (int i = 0; i < 16; i += 2) {
    other[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    other[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    rows[i] = _mm512_unpacklo_epi64(other[i], other[i + 2]);
    rows[i + 1] = _mm512_unpackhi_epi64(other[i], other[i + 2]);
    rows[i + 2] = _mm512_unpacklo_epi64(other[i + 1], other[i + 3]);
    rows[i + 3] = _mm512_unpackhi_epi64(other[i + 1], other[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    other[i] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0x88);
    other[i + 4] = _mm512_shuffle_i32x4(rows[i], rows[i + 4], 0xdd);
    other[i + 8] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0x88);
    other[i + 12] = _mm512_shuffle_i32x4(rows[i + 8], rows[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    rows[i] = _mm512_shuffle_i32x4(other[i], other[i + 8], 0x88);
    rows[i + 8] = _mm512_shuffle_i32x4(other[i], other[i + 8], 0xdd);
  }
}

void transpose_values(const std::uint16_t* const* rows, int dim, std::uint16_t* out) {
  for (int key = 0; key < kBlockTokens; key += 32) {
    for (int d = 0; d < dim; d += 32) {
      // Dims d + 8 i + (0 .. 3) of a pair of keys are in `low`, d + 8 i + (4 .. 7) in `high`.
      __m512i low[16];
      __m512i high[16];
      for (int pair = 0; pair < 16; ++pair) {
        const __m512i even = _mm512_loadu_si512(rows[key + 2 * pair] + d);
        const __m512i odd = _mm512_loadu_si512(rows[key + 2 * pair + 1] + d);
        low[pair] = _mm512_unpacklo_epi16(even, odd);
        high[pair] = _mm512_unpackhi_epi16(even, odd);
      }
      transpose_16x16(low);
      transpose_16x16(high);
      std::uint16_t* const to = out + static_cast<std::int64_t>(d) * kBlockTokens + key;
      for (int i = 0; i < 16; ++i) {
        const int row = i / 4 * 8 + i % 4;
        _mm512_store_si512(to + row * kBlockTokens, low[i]);
        _mm512_store_si512(to + (row + 4) * kBlockTokens, high[i]);
      }
    }
  }
}

constexpr Bf16Kernels kAmx = {amx_begin, amx_end,       amx_multiply,
                              softmax,   plain_weights, transpose_values};
constexpr Bf16Kernels kDot = {nothing, nothing,       dot_multiply,
                              softmax, plain_weights, transpose_values};

}  // namespace
}  // namespace tilewright::cpu
HWY_POP_ATTRIBUTES

#endif  // TILEWRIGHT_X86_BF16

namespace tilewright::cpu {
namespace {

#if TILEWRIGHT_X86_BF16
// Linux wants a process to ask before it uses tiles, whose state is large; threads inherit the
// permission.
bool may_use_tiles() {
  constexpr long kRequestPermission = 0x1023;
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

// Intel's cores since Sapphire Rapids, the first with AVX512_FP16, leave bf16 to AMX: they begin a
// dot product every other cycle, so that f32 multiply-adds reach twice as much. Virtual machines
// may hide AMX.
bool dot_products_are_slow() {
  return __builtin_cpu_is("intel") != 0 && __builtin_cpu_supports("avx512fp16") != 0;
}
#endif

Bf16KernelList find_kernels() {
  Bf16KernelList list;
#if TILEWRIGHT_X86_BF16
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") == 0 || __builtin_cpu_supports("avx512bw") == 0 ||
      __builtin_cpu_supports("avx512dq") == 0 || __builtin_cpu_supports("avx512vl") == 0 ||
      __builtin_cpu_supports("avx512bf16") == 0) {
    return list;
  }
  list.avx512 = &kDot;
  if (__builtin_cpu_supports("amx-tile") != 0 && __builtin_cpu_supports("amx-bf16") != 0 &&
      may_use_tiles()) {
    list.amx = &kAmx;
  }
  if (list.amx != nullptr) {
    list.best = list.amx;
  } else if (!dot_products_are_slow()) {
    list.best = list.avx512;
  }
#endif
  return list;
}

std::atomic<Bf16Choice> chosen{Bf16Choice::best};

}  // namespace

Bf16KernelList list_bf16_kernels() {
  static const Bf16KernelList list = find_kernels();
  return list;
}

const Bf16Kernels* bf16_kernels() {
  const Bf16KernelList list = list_bf16_kernels();
  switch (chosen.load(std::memory_order_relaxed)) {
    case Bf16Choice::none:
      return nullptr;
    case Bf16Choice::avx512:
      return list.avx512;
    default:
      return list.best;
  }
}

void choose_bf16_kernels(Bf16Choice choice) {
  chosen.store(choice, std::memory_order_relaxed);
}

}  // namespace tilewright::cpu
