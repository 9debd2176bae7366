// SPDX-License-Identifier: Apache-2.0
// Typical-p (Meister et al., arXiv 2202.00666) keeps the tokens whose exponents are nearest to the
// mean one: the bits of src/sampling/typical_passes.h.
#pragma once

#include "arch/thread.h"
#include "sampling/row.h"
#include "sampling/wide.h"

namespace tw {

template <typename Scale>
struct Typicality {
  Scale scale;
  float mean;

  // The larger, the earlier a token is kept; at most 0.
  TW_DEVICE float score(float logit) const {
    return subtract_exact(0.0F, abs_of(subtract_exact(token_exponent(logit, scale), mean)));
  }
};

// (dividend + divisor / 2) / divisor, which is below 2^23; divisor is below 2^63.
TW_DEVICE u32 rounded_quotient(Wide dividend, u64 divisor) {
  dividend.add(0, divisor / 2);
  u32 quotient = 0;
#pragma unroll 1
  for (i32 bit = 22; bit >= 0; --bit) {
    const u64 low = divisor << bit;
    const u64 high = bit == 0 ? 0 : divisor >> (64 - bit);
    if (dividend.high < high || (dividend.high == high && dividend.low < low)) continue;
    dividend.high -= high + (dividend.low < low ? 1 : 0);
    dividend.low -= low;
    quotient |= 1U << bit;
  }
  return quotient;
}

// The mean exponent of the tokens that pass(id, value), weighted, as a whole number of 2^-16.
template <typename Row, typename Pass>
TW_DEVICE float mean_exponent(const Row& row, const Pass& pass, const typename Row::Scale& scale,
                              SampleMemory& memory) {
  Wide sum{0, 0};
  u64 mass = 0;
  row.for_all([&](i32 id, float value) {
    if (!pass(id, value)) return;
    const u64 weight = token_weight(value, scale);
    const u64 fixed =
        static_cast<u32>(round_even(multiply_exact(token_exponent(value, scale), -0x1.0p16F)));
    mass += weight;
    sum.add(0, weight * fixed);  // below 2^56
  });
  mass = sum_of_warp(mass);
#pragma unroll
  for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2)
    sum.add(shuffle_xor(sum.high, mask), shuffle_xor(sum.low, mask));
  u64* const of_warps = memory.histogram;  // three numbers a warp
  const i32 warp = warp_of_thread();
  if (lane_id() == 0) {
    of_warps[warp * 3] = mass;
    of_warps[warp * 3 + 1] = sum.high;
    of_warps[warp * 3 + 2] = sum.low;
  }
  sync_block();
  Wide total{0, 0};
  mass = 0;
#pragma unroll 1
  for (i32 w = 0; w < num_threads() / kWarpSize; ++w) {
    mass += of_warps[w * 3];
    total.add(of_warps[w * 3 + 1], of_warps[w * 3 + 2]);
  }
  sync_block();
  const float quotient = static_cast<float>(rounded_quotient(total, mass));
  return -multiply_exact(quotient, 0x1.0p-16F);
}

// The largest value of the tokens that pass(id, value).
template <typename Row, typename Pass>
TW_DEVICE float largest_of(const Row& row, const Pass& pass, SampleMemory& memory) {
  float largest = -kInfinity;
  row.for_all([&](i32 id, float value) {
    if (value > largest && pass(id, value)) largest = value;
  });
#pragma unroll
  for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2)
    largest = max_of(largest, shuffle_xor(largest, mask));
  if (lane_id() == 0) memory.of_warps[warp_of_thread()] = order_key(largest);
  sync_block();
  u32 key = 0;
#pragma unroll 1
  for (i32 w = 0; w < num_threads() / kWarpSize; ++w) {
    const u32 other = static_cast<u32>(memory.of_warps[w]);
    if (other > key) key = other;
  }
  sync_block();
  return of_order_key(key);
}

}  // namespace tw
