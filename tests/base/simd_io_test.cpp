// SPDX-License-Identifier: Apache-2.0
// SIMD loads and stores against the scalar conversions of base/numeric.h, on every SIMD target.
#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "base/numeric.h"
#include "base/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "base/simd_io_test.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "base/simd_io-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {

template <typename T>
void load_all(const void* from, float* to, std::size_t count) {
  const hwy::HWY_NAMESPACE::ScalableTag<float> d;
  const std::size_t lanes = hwy::HWY_NAMESPACE::Lanes(d);
  const T* source = static_cast<const T*>(from);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) store(d, load(d, source + i), to + i);
  if (i < count) store_first(d, load_first(d, source + i, count - i), to + i, count - i);
}

template <typename T>
void store_all(const float* from, void* to, std::size_t count) {
  const hwy::HWY_NAMESPACE::ScalableTag<float> d;
  const std::size_t lanes = hwy::HWY_NAMESPACE::Lanes(d);
  T* target = static_cast<T*>(to);
  std::size_t i = 0;
  for (; i + lanes <= count; i += lanes) store(d, load(d, from + i), target + i);
  if (i < count) store_first(d, load_first(d, from + i, count - i), target + i, count - i);
}

HWY_NOINLINE void load_elements(DType dtype, const void* from, float* to, std::size_t count) {
  visit_float(dtype, [&](auto zero) { load_all<decltype(zero)>(from, to, count); });
}

HWY_NOINLINE void store_elements(DType dtype, const float* from, void* to, std::size_t count) {
  visit_float(dtype, [&](auto zero) { store_all<decltype(zero)>(from, to, count); });
}

}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {
namespace {

HWY_EXPORT(load_elements);
HWY_EXPORT(store_elements);

constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2};

TEST(SimdIo, LoadsEveryPattern) {
  for_each_simd_target([] {
    for (const DType dtype : {DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2}) {
      const bool wide = dtype_bytes(dtype) == 2;
      const std::size_t count = wide ? 65536 : 256;
      std::vector<std::uint16_t> patterns16(count);
      std::vector<std::uint8_t> patterns8(count);
      for (std::size_t i = 0; i < count; ++i) {
        patterns16[i] = static_cast<std::uint16_t>(i);
        patterns8[i] = static_cast<std::uint8_t>(i);
      }
      const void* data = wide ? static_cast<void*>(patterns16.data()) : patterns8.data();
      std::vector<float> values(count);
      HWY_DYNAMIC_DISPATCH(load_elements)(dtype, data, values.data(), count);
      for (std::size_t i = 0; i < count; ++i) {
        const float expected = load_element(data, dtype, static_cast<std::int64_t>(i));
        if (std::isnan(expected)) {
          ASSERT_TRUE(std::isnan(values[i])) << dtype_name(dtype) << " " << i;
        } else {
          ASSERT_EQ(std::bit_cast<std::uint32_t>(values[i]), std::bit_cast<std::uint32_t>(expected))
              << dtype_name(dtype) << " " << i;
        }
      }
    }
  });
}

// Random bit patterns of f32, and the neighbourhoods of all rounding boundaries of the narrow
// formats.
std::vector<float> hard_values() {
  std::vector<float> values = {0.0F,       -0.0F,    INFINITY, -INFINITY, NAN,      1e-45F,
                               448.0F,     464.0F,   480.0F,   57344.0F,  61440.0F, 65504.0F,
                               65519.996F, 65520.0F, 65536.0F, 3.4e38F};
  std::mt19937 generator(7);
  const auto random = [&] { return static_cast<std::uint32_t>(generator()); };
  for (int i = 0; i < 100000; ++i) values.push_back(std::bit_cast<float>(random()));
  for (int shift : {13, 16, 20, 21}) {
    for (int i = 0; i < 50000; ++i) {
      const std::uint32_t exponent = 90 + random() % 60;
      const std::uint32_t top = random() & (0x7FFFFFU >> shift << shift);
      const std::uint32_t middle = top | 1U << (shift - 1);
      const std::uint32_t pattern = (random() & 0x80000000U) | exponent << 23 | middle;
      values.push_back(std::bit_cast<float>(pattern + random() % 3 - 1));
    }
  }
  for (int i = -2048; i < 2048; ++i) {  // subnormals of every format and their middles
    for (const int scale : {-26, -25, -18, -17, -11, -10}) {
      values.push_back(std::ldexp(static_cast<float>(i), scale));
    }
  }
  return values;
}

TEST(SimdIo, StoresAsScalarConversions) {
  std::vector<float> values = hard_values();
  values.resize(values.size() / 64 * 64 + 5);
  const std::size_t count = values.size();
  for_each_simd_target([&] {
    for (const DType dtype : kDTypes) {
      std::vector<std::uint8_t> actual(count * 4);
      std::vector<std::uint8_t> expected(4);
      HWY_DYNAMIC_DISPATCH(store_elements)(dtype, values.data(), actual.data(), count);
      const auto bytes = static_cast<std::size_t>(dtype_bytes(dtype));
      for (std::size_t i = 0; i < count; ++i) {
        if (std::isnan(values[i])) {
          ASSERT_TRUE(std::isnan(load_element(actual.data(), dtype, static_cast<std::int64_t>(i))));
          continue;
        }
        store_element(expected.data(), dtype, 0, values[i]);
        ASSERT_EQ(std::memcmp(actual.data() + i * bytes, expected.data(), bytes), 0)
            << dtype_name(dtype) << " " << values[i] << " #" << i;
      }
    }
  });
}

TEST(SimdIo, EndsTouchOnlyTheirElements) {
  for_each_simd_target([] {
    for (std::size_t count = 0; count < 40; ++count) {
      std::vector<float> values(count, 1.5F);
      std::vector<std::uint16_t> out(count + 1, 0xABCD);
      HWY_DYNAMIC_DISPATCH(store_elements)(DType::bf16, values.data(), out.data(), count);
      EXPECT_EQ(out[count], 0xABCD);
      for (std::size_t i = 0; i < count; ++i) EXPECT_EQ(out[i], 0x3FC0);
    }
  });
}

}  // namespace
}  // namespace tilewright
#endif  // HWY_ONCE
