// SPDX-License-Identifier: Apache-2.0
#include "engine/few_rows.h"

#include <algorithm>
#include <cstddef>
#include <functional>

#include "engine/numeric.h"
#include "engine/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "engine/few_rows.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#ifndef TILEWRIGHT_ENGINE_FEW_ROWS_CALL
#define TILEWRIGHT_ENGINE_FEW_ROWS_CALL
namespace tilewright::engine {
namespace {

// Threads share half blocks: many layers have so few whole ones that the shares would differ much.
constexpr std::int64_t kHalf = PackedWeight::kColumns / 2;

struct FewRowsCall {
  std::int64_t rows;
  const float* x;
  std::int64_t x_stride;  // elements
  PackedWeight weight;
  void* y;
  DType y_dtype;
};

}  // namespace
}  // namespace tilewright::engine
#endif

HWY_BEFORE_NAMESPACE();
namespace tilewright::engine {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::CappedTag<float, 16>;
using U32 = hn::RebindToUnsigned<F32>;
using Vec = hn::Vec<F32>;
using HalfSums = float[kMostFewRows * kHalf];  // [rows, kHalf]

// Rows and vectors of columns whose sums are in registers.
constexpr int kGroupRows = 8;
constexpr int kVecs = 2;
// Both halves of a block and all groups of rows take so many inputs in turn: their weights stay in
// the first cache meanwhile, and the next ones are fetched all the time.
constexpr std::int64_t kTurn = 32;
// How far ahead they are fetched: nearer and they come late, farther and they are gone again.
constexpr std::int64_t kAheadBytes = 6144;
// From one input, or one pair of bf16 inputs, to the next in a block.
constexpr std::int64_t kInputBytes = PackedWeight::kColumns * 4;

std::int64_t lanes() {
  return static_cast<std::int64_t>(hn::Lanes(F32()));
}

// sums[r][column] += x[r][i] * weight[i][column] for kRows rows and kVecs vectors of columns.
template <int kRows, int kPacked>
void add_inputs(const float* x, std::int64_t x_stride, const std::byte* weight, std::int64_t inputs,
                float* sums) {
  Vec sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) sum[r][v] = hn::LoadU(F32(), sums + r * kHalf + v * lanes());
  }
  for (std::int64_t i = 0; i < inputs; i += kPacked, weight += kInputBytes) {
    Vec w[kPacked][kVecs];
    for (int v = 0; v < kVecs; ++v) {
      const std::byte* const from = weight + v * lanes() * 4;
      hwy::Prefetch(from + kAheadBytes);
      if constexpr (kPacked == 1) {
        w[0][v] = hn::LoadU(F32(), reinterpret_cast<const float*>(from));
      } else {
        const auto both = hn::LoadU(U32(), reinterpret_cast<const std::uint32_t*>(from));
        w[0][v] = hn::BitCast(F32(), hn::ShiftLeft<16>(both));
        w[1][v] = hn::BitCast(F32(), hn::And(both, hn::Set(U32(), 0xFFFF0000U)));
      }
    }
    for (int p = 0; p < kPacked; ++p) {
      for (int r = 0; r < kRows; ++r) {
        const Vec x_r = hn::Set(F32(), x[r * x_stride + i + p]);
        for (int v = 0; v < kVecs; ++v) sum[r][v] = hn::MulAdd(x_r, w[p][v], sum[r][v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) hn::StoreU(sum[r][v], F32(), sums + r * kHalf + v * lanes());
  }
}

// As many rows as there are, kRows at most.
template <int kRows, int kPacked>
void add_rows(std::int64_t rows, const float* x, std::int64_t x_stride, const std::byte* weight,
              std::int64_t inputs, float* sums) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return add_rows<kRows - 1, kPacked>(rows, x, x_stride, weight, inputs, sums);
    }
  }
  for (std::int64_t column = 0; column < kHalf; column += kVecs * lanes()) {
    add_inputs<kRows, kPacked>(x, x_stride, weight + column * 4, inputs, sums + column);
  }
}

// Inputs [first, last) of halves [begin, end), which are of one block.
template <int kPacked>
void add_block(const FewRowsCall& call, std::int64_t first, std::int64_t last, std::int64_t begin,
               std::int64_t end, HalfSums* sums) {
  const auto* const block =
      static_cast<const std::byte*>(call.weight.data) + begin / 2 * call.weight.block_bytes;
  for (std::int64_t i = first; i < last; i += kTurn) {
    const std::byte* const weight = block + i / kPacked * kInputBytes;
    for (std::int64_t half = begin; half < end; ++half) {
      for (std::int64_t row = 0; row < call.rows; row += kGroupRows) {
        add_rows<kGroupRows, kPacked>(std::min<std::int64_t>(call.rows - row, kGroupRows),
                                      call.x + row * call.x_stride + i, call.x_stride,
                                      weight + half % 2 * kHalf * 4, std::min(last - i, kTurn),
                                      sums[half - begin] + row * kHalf);
      }
    }
  }
}

void store_half(const FewRowsCall& call, const float* sums, std::int64_t half) {
  const std::int64_t columns = std::min(call.weight.out - half * kHalf, kHalf);
  for (std::int64_t row = 0; row < call.rows; ++row, sums += kHalf) {
    const std::int64_t at = row * call.weight.out + half * kHalf;
    if (call.y_dtype == DType::f32) {
      std::copy_n(sums, columns, static_cast<float*>(call.y) + at);
    } else {
      std::transform(sums, sums + columns, static_cast<std::uint16_t*>(call.y) + at, f32_to_bf16);
    }
  }
}

// Halves [begin, end) of one block.
template <int kPacked>
void multiply_block(const FewRowsCall& call, std::int64_t begin, std::int64_t end) {
  alignas(64) HalfSums totals[2];
  alignas(64) HalfSums parts[2];
  const std::int64_t elements = call.rows * kHalf;
  for (HalfSums& total : totals) std::fill_n(total, elements, 0.0F);
  for (std::int64_t first = 0; first < call.weight.in; first += call.weight.summed_apart) {
    for (HalfSums& part : parts) std::fill_n(part, elements, 0.0F);
    const std::int64_t last = std::min(call.weight.in, first + call.weight.summed_apart);
    add_block<kPacked>(call, first, last, begin, end, parts);
    for (int h = 0; h < 2; ++h) {
      std::transform(totals[h], totals[h] + elements, parts[h], totals[h], std::plus());
    }
  }
  for (std::int64_t half = begin; half < end; ++half) store_half(call, totals[half - begin], half);
}

void multiply_halves(const FewRowsCall& call, std::int64_t begin, std::int64_t end) {
  for (std::int64_t next; begin < end; begin = next) {
    next = std::min(end, begin / 2 * 2 + 2);
    if (call.weight.dtype == DType::f32) {
      multiply_block<1>(call, begin, next);
    } else {
      multiply_block<2>(call, begin, next);
    }
  }
}

// Rows of `to` have zeros behind the inputs.
void widen(std::int64_t rows, std::int64_t in, const std::uint16_t* x, std::int64_t stride,
           float* to) {
  for (std::int64_t row = 0; row < rows; ++row, x += in, to += stride) {
    std::fill(std::transform(x, x + in, to, bf16_to_f32), to + stride, 0.0F);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright::engine
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright::engine {
namespace {

HWY_EXPORT(multiply_halves);
HWY_EXPORT(widen);

}  // namespace

void multiply_few_rows(std::int64_t rows, const void* x, DType x_dtype, const PackedWeight& weight,
                       void* y, DType y_dtype, std::vector<float>& widened) {
  FewRowsCall call{rows, static_cast<const float*>(x), weight.in, weight, y, y_dtype};
  if (x_dtype == DType::bf16) {
    call.x_stride = weight.in + weight.in % 2;
    widened.resize(static_cast<std::size_t>(rows * call.x_stride));
    HWY_DYNAMIC_DISPATCH(widen)
    (rows, weight.in, static_cast<const std::uint16_t*>(x), call.x_stride, widened.data());
    call.x = widened.data();
  }
  parallel_shares((weight.out + kHalf - 1) / kHalf, [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(multiply_halves)(call, begin, end);
  });
}

}  // namespace tilewright::engine
#endif
