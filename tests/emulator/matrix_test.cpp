// SPDX-License-Identifier: Apache-2.0
// Matrix products through ldmatrix and mma.sync against float64, and a pipeline of asynchronous
// copies that is right, or broken in one of three ways that some seed must find.
#include "arch/matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "arch/memory.h"
#include "arch/numeric.h"
#include "arch/thread.h"
#include "random_elements.h"
#include "runtime/launch.h"

namespace tw {
namespace {

using emulator::fill_random;
using emulator::GuardedBuffer;
using emulator::launch;

enum class Broken { nothing, wait, barrier_before_use, barrier_before_refill };

struct ProductParams {
  const void* a;  // [64, depth]
  const void* b;  // [depth, 32]
  float* d;       // [64, 32]
  i32 depth;      // a multiple of 32
  Broken broken;
};

constexpr i32 kStages = 3;
constexpr i32 kStep = 32;              // of depth, a stage
constexpr i32 kRowA = kStep * 2 + 16;  // bytes, with padding against bank conflicts
constexpr i32 kRowB = 32 * 2 + 16;
constexpr i32 kStageBytes = 64 * kRowA + kStep * kRowB;
constexpr i32 kSharedBytes = kStages * kStageBytes;

TW_DEVICE void load_stage(const ProductParams& p, i32 step) {
  char* stage = shared_memory() + step % kStages * kStageBytes;
  const bool valid = step * kStep < p.depth;
  for (i32 i = thread_id(); i < 64 * 4; i += num_threads()) {
    const i64 element = i64{i / 4} * p.depth + step * kStep + i % 4 * 8;
    copy_async_16(shared_place(stage + i / 4 * kRowA + i % 4 * 16),
                  static_cast<const u16*>(p.a) + element, valid);
  }
  for (i32 i = thread_id(); i < kStep * 4; i += num_threads()) {
    const i64 element = i64{step * kStep + i / 4} * 32 + i % 4 * 8;
    copy_async_16(shared_place(stage + 64 * kRowA + i / 4 * kRowB + i % 4 * 16),
                  static_cast<const u16*>(p.b) + element, valid);
  }
  copy_async_commit();
}

// 128 threads: a warp computes 16 rows.
template <typename T>
TW_DEVICE void product(const ProductParams& p) {
  const i32 lane = lane_id();
  const i32 warp = warp_id();
  float d[4][4] = {};
  const bool refills_at_once = p.broken == Broken::barrier_before_refill;
  for (i32 step = 0; step < kStages - 1; ++step) load_stage(p, step);
  if (refills_at_once) load_stage(p, kStages - 1);
  const i32 steps = (p.depth + kStep - 1) / kStep;
  for (i32 step = 0; step < steps; ++step) {
    if (p.broken == Broken::wait || refills_at_once) {
      copy_async_wait<kStages - 1>();
    } else {
      copy_async_wait<kStages - 2>();
    }
    if (p.broken != Broken::barrier_before_use) sync_block();
    // Refills the stage that was read in the step before this one.
    if (!refills_at_once) load_stage(p, step + kStages - 1);
    const char* stage = shared_memory() + step % kStages * kStageBytes;
    const char* row_a = stage + (warp * 16 + lane % 16) * kRowA + lane / 16 * 16;
    const char* row_b = stage + 64 * kRowA + lane % 16 * kRowB + lane / 16 * 16;
#pragma unroll
    for (i32 k = 0; k < kStep / 16; ++k) {
      u32 a[4];
      load_matrix_x4(a, row_a + k * 32);
#pragma unroll
      for (i32 n = 0; n < 2; ++n) {
        u32 b[4];
        load_matrix_x4_transposed(b, row_b + k * 16 * kRowB + n * 32);
        multiply_16x8x16<T>(d[2 * n], a, b[0], b[1]);
        multiply_16x8x16<T>(d[2 * n + 1], a, b[2], b[3]);
      }
    }
    if (refills_at_once) load_stage(p, step + kStages);
  }
  float* row = p.d + (warp * 16 + lane / 4) * 32 + lane % 4 * 2;
  for (i32 n = 0; n < 4; ++n) {
    for (i32 i = 0; i < 4; ++i) row[i / 2 * 8 * 32 + n * 8 + i % 2] = d[n][i];
  }
}

TW_KERNEL TW_LAUNCH_BOUNDS(128, 1) product_bf16(TW_PARAMETER ProductParams p) {
  product<bf16>(p);
}
TW_KERNEL TW_LAUNCH_BOUNDS(128, 1) product_f16(TW_PARAMETER ProductParams p) {
  product<f16>(p);
}

struct MatricesParams {
  u16* to;  // [4][8][8]
};

// Matrix i, row j, column k is 64 i + 8 j + k.
TW_KERNEL TW_LAUNCH_BOUNDS(32, 1) store_matrices(TW_PARAMETER MatricesParams p) {
  const u32 lane = static_cast<u32>(lane_id());
  u32 r[4];
  for (u32 i = 0; i < 4; ++i) {
    const u32 first = 64 * i + lane / 4 * 8 + lane % 4 * 2;
    r[i] = first | (first + 1) << 16;
  }
  store_matrix_x4(shared_place(shared_memory() + lane * 16), r);
  sync_warp();
  for (u32 i = lane; i < 256; i += 32) p.to[i] = reinterpret_cast<const u16*>(shared_memory())[i];
}

template <typename T>
class Product {
 public:
  explicit Product(i32 depth)
      : depth_(depth),
        a_("a", 64 * depth * 2),
        b_("b", depth * 32 * 2),
        d_("d", 64 * 32 * sizeof(float)),
        expected_(64 * 32),
        bounds_(64 * 32) {
    const std::vector<float> a = fill_random<T>(a_, 1);
    const std::vector<float> b = fill_random<T>(b_, 2);
    for (i32 i = 0; i < 64 * 32; ++i) {
      double magnitude = 0;
      for (i32 k = 0; k < depth; ++k) {
        const double term = double{a[i / 32 * depth + k]} * b[k * 32 + i % 32];
        expected_[i] += term;
        magnitude += std::fabs(term);
      }
      bounds_[i] = 1e-5 * magnitude;
    }
  }

  bool right(u64 seed, Broken broken) {
    d_.fill(0xFF);
    void (*kernel)(ProductParams) =
        sizeof(T) == 2 && std::is_same_v<T, bf16> ? product_bf16 : product_f16;
    try {
      launch(kernel, {.block = 128, .shared_bytes = kSharedBytes, .seed = seed},
             {a_.data(), b_.data(), d_.as<float>(), depth_, broken});
    } catch (const emulator::Failure& failure) {
      EXPECT_NE(broken, Broken::nothing) << failure.what();
      return false;
    }
    EXPECT_TRUE(d_.intact());
    for (i32 i = 0; i < 64 * 32; ++i) {
      // A NaN is not within any bound.
      if (!(std::fabs(d_.as<float>()[i] - expected_[i]) <= bounds_[i])) return false;
    }
    return true;
  }

  i32 times_wrong(Broken broken) {
    i32 wrong = 0;
    for (u64 seed = 0; seed < 10; ++seed) wrong += right(seed, broken) ? 0 : 1;
    return wrong;
  }

 private:
  i32 depth_;
  GuardedBuffer a_;
  GuardedBuffer b_;
  GuardedBuffer d_;
  std::vector<double> expected_;
  std::vector<double> bounds_;
};

TEST(EmulatedProduct, Bf16IsRightInEveryOrder) {
  EXPECT_EQ(Product<bf16>(160).times_wrong(Broken::nothing), 0);
}
TEST(EmulatedProduct, F16IsRightInEveryOrder) {
  EXPECT_EQ(Product<f16>(160).times_wrong(Broken::nothing), 0);
}
TEST(EmulatedProduct, LongLoop) {
  EXPECT_TRUE(Product<bf16>(16 * 250).right(1, Broken::nothing));
}
TEST(EmulatedMatrices, AreStoredRowByRow) {
  GuardedBuffer to("to", 256 * sizeof(u16));
  launch(store_matrices, {.block = 32, .shared_bytes = 512}, {to.as<u16>()});
  EXPECT_TRUE(to.intact());
  for (i32 i = 0; i < 256; ++i) EXPECT_EQ(to.as<u16>()[i], i);
}
TEST(EmulatedPipeline, MissingWaitIsFound) {
  EXPECT_GE(Product<bf16>(160).times_wrong(Broken::wait), 5);
}
TEST(EmulatedPipeline, MissingBarrierBeforeUseIsFound) {
  EXPECT_GE(Product<bf16>(160).times_wrong(Broken::barrier_before_use), 5);
}
TEST(EmulatedPipeline, RefillBeforeOthersHaveReadIsFound) {
  EXPECT_GE(Product<bf16>(160).times_wrong(Broken::barrier_before_refill), 5);
}

}  // namespace
}  // namespace tw
