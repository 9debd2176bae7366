// SPDX-License-Identifier: Apache-2.0
// Products of a warp group from swizzled stages that another one fills by asynchronous copies,
// against float64; and broken in ways that some seed must find.
#include "arch/wgmma.h"

#include <gtest/gtest.h>

#include <cmath>
#include <type_traits>
#include <vector>

#include "arch/bulk.h"
#include "arch/thread.h"
#include "random_elements.h"
#include "runtime/launch.h"

namespace tw {
namespace {

using emulator::fill_random;
using emulator::GuardedBuffer;
using emulator::launch;

enum class Broken { nothing, wait_for_copies, fence, wait_for_product, refill };

struct WarpGroupParams {
  const void* a;  // [64, depth]
  const void* b;  // [n, depth]; where A is in registers [depth, n]
  float* d;       // [64, n]
  i32 depth;      // a multiple of 64
  Broken broken;
};

constexpr i32 kStages = 2;
constexpr i32 kBlockBytes = 64 * 128;  // 64 rows of one block of columns
struct alignas(1024) WarpGroupMemory {
  char a[kStages][kBlockBytes];
  char b[kStages][2][kBlockBytes];
  Mbarrier full[kStages];
  Mbarrier empty[kStages];
};

// 64 rows of `elements` elements, from column 0 of `from` on.
TW_DEVICE void load_matrix(char* to, const u16* from, i64 pitch, i32 elements) {
  const i32 thread = thread_id() - 128;
  for (i32 i = thread; i < 64 * (elements / 8); i += 128) {
    const i32 row = i / (elements / 8);
    const i32 unit = i % (elements / 8);
    const SharedPlace place =
        shared_place(to + unit / 8 * kBlockBytes + row * 128 + (unit % 8) * 16);
    copy_async_16(flip(place, static_cast<u32>(row % 8 * 16)), from + row * pitch + unit * 8);
  }
}

// 256 threads: the first warp group multiplies, the second one loads.
template <typename T, i32 n, bool kFromRegisters>
TW_DEVICE void product(const WarpGroupParams& p) {
  auto& memory = *reinterpret_cast<WarpGroupMemory*>(aligned_shared_memory());
  if (thread_id() == 0) {
    for (i32 i = 0; i < kStages; ++i) {
      mbarrier_init(&memory.full[i], 128);
      mbarrier_init(&memory.empty[i], 128);
    }
  }
  sync_block();
  const auto* const a = static_cast<const u16*>(p.a);
  const auto* const b = static_cast<const u16*>(p.b);
  const i32 steps = p.depth / 64;
  if (thread_id() >= 128) {
    for (i32 step = 0; step < steps; ++step) {
      const i32 stage = step % kStages;
      if (p.broken != Broken::refill) {
        mbarrier_wait(&memory.empty[stage], (step / kStages & 1) ^ 1);
      }
      load_matrix(memory.a[stage], a + step * 64, p.depth, 64);
      if (kFromRegisters) {
        load_matrix(memory.b[stage][0], b + i64{step} * 64 * n, n, n);
      } else {
        load_matrix(memory.b[stage][0], b + step * 64, p.depth, 64);
      }
      copy_async_commit();
      if (p.broken != Broken::wait_for_copies) copy_async_wait<0>();
      if (p.broken != Broken::fence) fence_async_proxy();
      mbarrier_arrive(&memory.full[stage]);
    }
    return;
  }
  float d[n / 2] = {};
  const i32 row = thread_id() / 32 * 16 + lane_id() / 4;
  for (i32 step = 0; step < steps; ++step) {
    const i32 stage = step % kStages;
    mbarrier_wait(&memory.full[stage], step / kStages & 1);
    wgmma_fence();
    const SharedMatrix left = shared_matrix(memory.a[stage], kBlockBytes);
    const SharedMatrix right = shared_matrix(memory.b[stage][0], kBlockBytes);
    u32 registers[4][4];
    for (i32 i = 0; i < 4; ++i) {
      if constexpr (kFromRegisters) {
        for (i32 j = 0; j < 4; ++j) {
          const u16* const at = a + i64{row + j % 2 * 8} * p.depth + step * 64 + i * 16 +
                                j / 2 * 8 + lane_id() % 4 * 2;
          registers[i][j] = at[0] | static_cast<u32>(at[1]) << 16;
        }
        WarpGroupMultiply<T, n>::registers(d, registers[i], right.at(i * 16 * 128));
      } else {
        WarpGroupMultiply<T, n>::shared(d, left.at(i * 32), right.at(i * 32), step + i > 0);
      }
    }
    wgmma_commit();
    if (p.broken != Broken::wait_for_product) wgmma_wait<0>();
    hold_registers(d);
    mbarrier_arrive(&memory.empty[stage]);
  }
  for (i32 i = 0; i < n / 2; ++i) {
    p.d[(row + i / 2 % 2 * 8) * n + i / 4 * 8 + lane_id() % 4 * 2 + i % 2] = d[i];
  }
  wgmma_wait<0>();
}

TW_KERNEL from_shared(TW_PARAMETER WarpGroupParams p) {
  product<bf16, 64, false>(p);
}
TW_KERNEL from_registers(TW_PARAMETER WarpGroupParams p) {
  product<f16, 80, true>(p);
}

// How often of six seeds something is wrong.
template <typename T, i32 n, bool kFromRegisters>
i32 times_wrong(i32 depth, Broken broken) {
  GuardedBuffer a("a", 64 * depth * 2);
  GuardedBuffer b("b", n * depth * 2);
  GuardedBuffer d("d", 64 * n * sizeof(float));
  const std::vector<float> left = fill_random<T>(a, 1);
  const std::vector<float> right = fill_random<T>(b, 2);
  i32 wrong = 0;
  for (u64 seed = 0; seed < 6; ++seed) {
    d.fill(0xFF);
    try {
      launch(kFromRegisters ? from_registers : from_shared,
             {.block = 256, .shared_bytes = sizeof(WarpGroupMemory), .seed = seed},
             {a.data(), b.data(), d.as<float>(), depth, broken});
    } catch (const emulator::Failure& failure) {
      EXPECT_NE(broken, Broken::nothing) << failure.what();
      ++wrong;
      continue;
    }
    bool right_everywhere = d.intact();
    for (i32 i = 0; i < 64 * n; ++i) {
      double sum = 0;
      double magnitude = 0;
      for (i32 k = 0; k < depth; ++k) {
        const double term = double{left[i / n * depth + k]} *
                            right[kFromRegisters ? k * n + i % n : i % n * depth + k];
        sum += term;
        magnitude += std::fabs(term);
      }
      // A NaN is not within any bound.
      right_everywhere = right_everywhere && std::fabs(d.as<float>()[i] - sum) <= 1e-5 * magnitude;
    }
    wrong += right_everywhere ? 0 : 1;
  }
  return wrong;
}

TEST(EmulatedWarpGroup, ProductsAreRightInEveryOrder) {
  EXPECT_EQ((times_wrong<bf16, 64, false>(320, Broken::nothing)), 0);
  EXPECT_EQ((times_wrong<f16, 80, true>(320, Broken::nothing)), 0);
}
TEST(EmulatedWarpGroup, MissingWaitsAreFound) {
  EXPECT_GE((times_wrong<bf16, 64, false>(320, Broken::wait_for_copies)), 5);
  EXPECT_GE((times_wrong<f16, 80, true>(320, Broken::wait_for_copies)), 5);
  EXPECT_EQ((times_wrong<bf16, 64, false>(320, Broken::fence)), 6);
  EXPECT_EQ((times_wrong<f16, 80, true>(320, Broken::fence)), 6);
  EXPECT_GE((times_wrong<bf16, 64, false>(320, Broken::wait_for_product)), 5);
}
TEST(EmulatedWarpGroup, RefillBeforeAProductHasReadIsFound) {
  EXPECT_GE((times_wrong<bf16, 64, false>(640, Broken::refill)), 5);
}

}  // namespace
}  // namespace tw
