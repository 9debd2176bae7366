// SPDX-License-Identifier: Apache-2.0
// Dequantisation against decoders that take one element at a time, straight from the formats'
// definitions, in float64; and against blocks worked out by hand.
#include "engine/dequantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>

#include "engine/expect_error.h"
#include "engine/gguf_writer.h"
#include "engine/numeric.h"
#include "support/random.h"

namespace tilewright::test {
namespace {

using Bytes = std::vector<std::uint8_t>;

double half_at(const Bytes& block, std::size_t at) {
  const int bits = block[at] | block[at + 1] << 8;
  const int exponent = (bits >> 10) & 31;
  const double mantissa = bits & 1023;
  const double value =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(mantissa + 1024, exponent - 25);
  return (bits & 0x8000) != 0 ? -value : value;
}

int bit_at(const Bytes& block, std::size_t at, int bit) {
  return (block[at] >> bit) & 1;
}
int half_byte(const Bytes& block, std::size_t at, bool high) {
  return high ? block[at] / 16 : block[at] % 16;
}

// Scale (or minimum) `j` of a K block: bits 0 to 3 and bits 4 to 5 from where the format has them.
int k_scale(const Bytes& block, int j, bool minimum) {
  const std::size_t s = 4;
  if (j < 4) return block[s + (minimum ? 4 : 0) + j] % 64;
  const int low = half_byte(block, s + 4 + j, minimum);
  const int top = block[s + (minimum ? j : j - 4)] / 64;
  return low + 16 * top;
}

struct Format {
  std::string name;
  std::uint32_t number;
  std::vector<std::size_t> halves;  // where the block has f16 numbers
  std::function<double(const Bytes&, int)> element;
};

double k_element(const Bytes& block, int i, int quant) {
  return half_at(block, 0) * k_scale(block, i / 32, false) * quant -
         half_at(block, 2) * k_scale(block, i / 32, true);
}

std::vector<Format> formats() {
  return {
      {"F16", 1, {0}, [](const Bytes& b, int) { return half_at(b, 0); }},
      {"Q4_0",
       2,
       {0},
       [](const Bytes& b, int i) {
         return half_at(b, 0) * (half_byte(b, 2 + i % 16, i >= 16) - 8);
       }},
      {"Q4_1",
       3,
       {0, 2},
       [](const Bytes& b, int i) {
         return half_at(b, 0) * half_byte(b, 4 + i % 16, i >= 16) + half_at(b, 2);
       }},
      {"Q8_0",
       8,
       {0},
       [](const Bytes& b, int i) { return half_at(b, 0) * static_cast<std::int8_t>(b[2 + i]); }},
      {"Q4_K",
       12,
       {0, 2},
       [](const Bytes& b, int i) {
         return k_element(b, i, half_byte(b, 16 + i / 64 * 32 + i % 32, i % 64 >= 32));
       }},
      {"Q5_K",
       13,
       {0, 2},
       [](const Bytes& b, int i) {
         const int low = half_byte(b, 48 + i / 64 * 32 + i % 32, i % 64 >= 32);
         return k_element(b, i, low + 16 * bit_at(b, 16 + i % 32, i / 32));
       }},
      {"Q6_K",
       14,
       {208},
       [](const Bytes& b, int i) {
         const int half = i / 128;
         const int low = half_byte(b, half * 64 + i % 64, i % 128 >= 64);
         const int shift = i % 128 / 32 * 2;
         const std::size_t high = 128 + half * 32 + i % 32;
         const int quant =
             low + 16 * (bit_at(b, high, shift) + 2 * bit_at(b, high, shift + 1)) - 32;
         return half_at(b, 208) * static_cast<std::int8_t>(b[192 + i / 16]) * quant;
       }},
  };
}

Bytes random_block(Random& random, const Format& format, std::int64_t bytes) {
  Bytes block(static_cast<std::size_t>(bytes));
  for (auto& byte : block) byte = static_cast<std::uint8_t>(random.bits());
  for (const std::size_t at : format.halves) {  // finite, subnormals included
    if ((block[at + 1] & 0x7C) == 0x7C) block[at + 1] &= 0xBF;
  }
  return block;
}

std::vector<float> decode(std::uint32_t number, const Bytes& data) {
  const auto& type = *engine::find_ggml_type(number);
  std::vector<float> out(data.size() / static_cast<std::size_t>(type.block_bytes) *
                         static_cast<std::size_t>(type.block_elements));
  engine::dequantize(type, std::as_bytes(std::span(data)), out);
  return out;
}

TEST(Dequantize, AgreesWithTheDefinitionOfEveryFormat) {
  Random random(7);
  for (const Format& format : formats()) {
    const auto& type = *engine::find_ggml_type(format.number);
    ASSERT_EQ(type.name, format.name);
    for (int round = 0; round < 50; ++round) {
      const Bytes block = random_block(random, format, type.block_bytes);
      const auto out = decode(format.number, block);
      for (int i = 0; i < type.block_elements; ++i) {
        const double expected = format.element(block, i);
        // Scale, minimum and their difference are rounded once each: at most a few units of the
        // largest term, which is below 65504 * 63 * 63.
        const double scale = std::fabs(half_at(block, format.halves[0])) * 63 * 63 +
                             std::fabs(half_at(block, format.halves.back())) * 63 * 63;
        ASSERT_NEAR(out[i], expected, scale * 0x1p-22) << format.name << " element " << i;
      }
    }
  }
}

TEST(Dequantize, BlocksWorkedOutByHand) {
  Bytes q4_0(18);
  q4_0[1] = 0x40;  // d = 2
  q4_0[2] = 0x9F;  // element 0 is 15, element 16 is 9
  auto out = decode(2, q4_0);
  EXPECT_EQ(out[0], 14.0F);
  EXPECT_EQ(out[16], 2.0F);
  EXPECT_EQ(out[1], -16.0F);

  Bytes q4_1(20);
  q4_1[1] = 0x38;  // d = 0.5
  q4_1[3] = 0xBC;  // m = -1
  q4_1[4 + 15] = 0xF1;
  out = decode(3, q4_1);
  EXPECT_EQ(out[0], -1.0F);
  EXPECT_EQ(out[15], -0.5F);
  EXPECT_EQ(out[31], 6.5F);

  Bytes q8_0(34);
  q8_0[1] = 0x3C;  // d = 1
  q8_0[2] = 0x80;
  q8_0[33] = 0x7F;
  out = decode(8, q8_0);
  EXPECT_EQ(out[0], -128.0F);
  EXPECT_EQ(out[31], 127.0F);

  Bytes bf16 = {0xC0, 0x3F};
  EXPECT_EQ(decode(30, bf16)[0], 1.5F);
  Bytes f32 = {0, 0, 0x20, 0xC0};
  EXPECT_EQ(decode(0, f32)[0], -2.5F);
}

TEST(Dequantize, EveryF16) {
  for (int bits = 0; bits < 65536; ++bits) {
    const Bytes half = {static_cast<std::uint8_t>(bits), static_cast<std::uint8_t>(bits >> 8)};
    const float value = engine::f16_to_f32(static_cast<std::uint16_t>(bits));
    if ((bits & 0x7FFF) > 0x7C00) {
      EXPECT_TRUE(std::isnan(value));
    } else if ((bits & 0x7FFF) == 0x7C00) {
      EXPECT_EQ(value, bits == 0x7C00 ? INFINITY : -INFINITY);
    } else {
      EXPECT_EQ(value, half_at(half, 0));
      EXPECT_EQ(std::signbit(value), bits >= 0x8000);
    }
  }
}

TEST(Dequantize, Bf16RoundsToNearestEven) {
  EXPECT_EQ(engine::f32_to_bf16(1.0F), 0x3F80);
  EXPECT_EQ(engine::f32_to_bf16(1.0F + 0x1p-8F), 0x3F80);            // a tie, to even
  EXPECT_EQ(engine::f32_to_bf16(1.0F + 0x1p-7F + 0x1p-8F), 0x3F82);  // a tie, to even
  EXPECT_EQ(engine::f32_to_bf16(1.0F + 0x1p-8F + 0x1p-20F), 0x3F81);
  EXPECT_EQ(engine::f32_to_bf16(3.4e38F), 0x7F80);  // beyond the largest: infinity
  EXPECT_TRUE(std::isnan(engine::bf16_to_f32(engine::f32_to_bf16(NAN))));
}

TEST(Dequantize, RowsAndWholeTensorsAgree) {
  Random random(3);
  constexpr std::int64_t kRows = 70;
  constexpr std::int64_t kColumns = 1024;  // so that the tensor takes more than one chunk
  std::string data;
  for (std::int64_t i = 0; i < kRows * kColumns / 32; ++i) {
    const Bytes block = random_block(random, formats()[2], 20);
    data.append(block.begin(), block.end());
  }
  const TemporaryFile temporary(
      GgufWriter().add_tensor("weight", {kRows, kColumns}, 3, data).bytes());
  const engine::GgufFile file(temporary.path());
  const auto& tensor = file.tensors()[0];
  const auto whole = engine::dequantize(tensor);
  std::vector<float> row(kColumns);
  for (std::int64_t r = 0; r < kRows; ++r) {
    engine::dequantize_row(tensor, r, row);
    ASSERT_EQ(std::memcmp(row.data(), whole.data() + r * kColumns, kColumns * sizeof(float)), 0);
  }
  expect_error([&] { engine::dequantize_row(tensor, kRows, row); }, {"row 70", "'weight'"});
  expect_error([&] { engine::dequantize_row(tensor, -1, row); }, {"row -1", "'weight'"});
  row.pop_back();
  expect_error([&] { engine::dequantize_row(tensor, 0, row); }, {"1023 elements"});
}

TEST(Dequantize, NamesTypesThatItDoesNotRead) {
  const TemporaryFile temporary(
      GgufWriter().add_tensor("weight", {256}, 10, std::string(84, 'x')).bytes());
  const engine::GgufFile file(temporary.path());
  expect_error([&] { engine::dequantize(file.tensors()[0]); }, {"Q2_K", "Q4_K"},
               ErrorCode::not_supported);
  std::vector<float> out(32);
  const Bytes odd(19);
  expect_error(
      [&] { engine::dequantize(*engine::find_ggml_type(2), std::as_bytes(std::span(odd)), out); },
      {"Q4_0", "19 bytes", "32 elements"});
}

}  // namespace
}  // namespace tilewright::test
