// SPDX-License-Identifier: Apache-2.0
#include "engine/dequantize.h"

#include <cstring>

#include "engine/checks.h"
#include "engine/numeric.h"
#include "engine/parallel.h"

namespace tilewright::engine {
namespace {

// The blocks as they lie in the file (ggml-common.h). `d` and `m` are f16 scale and offset.
struct BlockQ40 {
  std::uint16_t d;
  std::uint8_t quants[16];  // element i in the low half of byte i, i + 16 in the high half
};
struct BlockQ41 {
  std::uint16_t d, m;
  std::uint8_t quants[16];
};
struct BlockQ80 {
  std::uint16_t d;
  std::int8_t quants[32];
};
struct BlockQ4K {
  std::uint16_t d, d_min;
  std::uint8_t scales[12];  // eight 6-bit scales and eight 6-bit minima
  std::uint8_t low[128];
};
struct BlockQ5K {
  std::uint16_t d, d_min;
  std::uint8_t scales[12];
  std::uint8_t high[32];  // bit g of byte i: bit 4 of element i of group g
  std::uint8_t low[128];
};
struct BlockQ6K {
  std::uint8_t low[128];
  std::uint8_t high[64];
  std::int8_t scales[16];
  std::uint16_t d;
};
static_assert(sizeof(BlockQ40) == 18 && sizeof(BlockQ41) == 20 && sizeof(BlockQ80) == 34);
static_assert(sizeof(BlockQ4K) == 144 && sizeof(BlockQ5K) == 176 && sizeof(BlockQ6K) == 210);

void decode(const BlockQ40& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<float>((block.quants[i] & 0xF) - 8) * d;
    out[i + 16] = static_cast<float>((block.quants[i] >> 4) - 8) * d;
  }
}

void decode(const BlockQ41& block, float* out) {
  const float d = f16_to_f32(block.d);
  const float m = f16_to_f32(block.m);
  for (int i = 0; i < 16; ++i) {
    out[i] = static_cast<float>(block.quants[i] & 0xF) * d + m;
    out[i + 16] = static_cast<float>(block.quants[i] >> 4) * d + m;
  }
}

void decode(const BlockQ80& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(block.quants[i]) * d;
}

// Scale and minimum of group `group` of 32 elements of a K block: 6 bits each, the upper two of
// groups 4 to 7 kept in the top bits of groups 0 to 3.
struct GroupScale {
  float scale, min;
};
GroupScale group_scale(const std::uint8_t* s, int group, float d, float d_min) {
  int scale = s[group] & 63;
  int min = s[group + 4] & 63;
  if (group >= 4) {
    scale = (s[group + 4] & 0xF) | ((s[group - 4] >> 6) << 4);
    min = (s[group + 4] >> 4) | ((s[group] >> 6) << 4);
  }
  return {d * static_cast<float>(scale), d_min * static_cast<float>(min)};
}

// Two groups share 32 bytes of `low`: the first in the low halves, the second in the high ones.
int low_bits(const std::uint8_t* low, int group, int i) {
  return (low[group / 2 * 32 + i] >> (group % 2 * 4)) & 0xF;
}

// `high`: bit 4 of the elements, where the type has it.
template <typename Block>
void decode_groups(const Block& block, const std::uint8_t* high, float* out) {
  for (int group = 0; group < 8; ++group) {
    const auto [scale, min] =
        group_scale(block.scales, group, f16_to_f32(block.d), f16_to_f32(block.d_min));
    for (int i = 0; i < 32; ++i) {
      const int bit = high == nullptr ? 0 : (high[i] >> group) & 1;
      const int quant = low_bits(block.low, group, i) | bit << 4;
      out[group * 32 + i] = scale * static_cast<float>(quant) - min;
    }
  }
}

void decode(const BlockQ4K& block, float* out) {
  decode_groups(block, nullptr, out);
}
void decode(const BlockQ5K& block, float* out) {
  decode_groups(block, block.high, out);
}

void decode(const BlockQ6K& block, float* out) {
  const float d = f16_to_f32(block.d);
  for (int group = 0; group < 8; ++group) {  // 128 elements: four groups share low and high bytes
    const int half = group / 4;
    const int quarter = group % 4;
    for (int i = 0; i < 32; ++i) {
      const int low = (block.low[half * 64 + quarter % 2 * 32 + i] >> (quarter / 2 * 4)) & 0xF;
      const int high = (block.high[half * 32 + i] >> (quarter * 2)) & 3;
      const int sub_block = group * 2 + i / 16;
      const float scale = d * static_cast<float>(block.scales[sub_block]);
      out[group * 32 + i] = scale * static_cast<float>((low | high << 4) - 32);
    }
  }
}

void decode(const std::uint32_t& bits, float* out) {
  *out = std::bit_cast<float>(bits);
}
template <float (*Convert)(std::uint16_t)>
struct Float16 {
  std::uint16_t bits;
};
template <float (*Convert)(std::uint16_t)>
void decode(const Float16<Convert>& value, float* out) {
  *out = Convert(value.bits);
}

template <typename Block>
void decode_all(std::span<const std::byte> data, float* out, std::int64_t block_elements) {
  for (std::size_t at = 0; at < data.size(); at += sizeof(Block), out += block_elements) {
    Block block;
    std::memcpy(&block, data.data() + at, sizeof(Block));
    decode(block, out);
  }
}

}  // namespace

void dequantize(const GgmlTypeInfo& type, std::span<const std::byte> data, std::span<float> out) {
  const auto blocks = static_cast<std::int64_t>(data.size()) / type.block_bytes;
  require(static_cast<std::int64_t>(data.size()) == blocks * type.block_bytes &&
              static_cast<std::int64_t>(out.size()) == blocks * type.block_elements,
          "{} data of {} bytes does not fit {} elements: blocks of {} elements have {} bytes",
          type.name, data.size(), out.size(), type.block_elements, type.block_bytes);
  switch (type.type) {
    case GgmlType::f32:
      return decode_all<std::uint32_t>(data, out.data(), 1);
    case GgmlType::f16:
      return decode_all<Float16<f16_to_f32>>(data, out.data(), 1);
    case GgmlType::bf16:
      return decode_all<Float16<bf16_to_f32>>(data, out.data(), 1);
    case GgmlType::q4_0:
      return decode_all<BlockQ40>(data, out.data(), 32);
    case GgmlType::q4_1:
      return decode_all<BlockQ41>(data, out.data(), 32);
    case GgmlType::q8_0:
      return decode_all<BlockQ80>(data, out.data(), 32);
    case GgmlType::q4_k:
      return decode_all<BlockQ4K>(data, out.data(), 256);
    case GgmlType::q5_k:
      return decode_all<BlockQ5K>(data, out.data(), 256);
    case GgmlType::q6_k:
      return decode_all<BlockQ6K>(data, out.data(), 256);
  }
  raise(ErrorCode::not_supported,
        "type {} is not supported: tensors must be F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K "
        "or Q6_K",
        type.name);
}

std::vector<float> dequantize(const GgufTensor& tensor) {
  const GgmlTypeInfo& type = *tensor.type;
  std::vector<float> out(static_cast<std::size_t>(tensor.numel()));
  const std::int64_t blocks = tensor.numel() / type.block_elements;
  parallel_shares(blocks, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t count = end - begin;
    dequantize(type, tensor.data.subspan(begin * type.block_bytes, count * type.block_bytes),
               std::span(out).subspan(begin * type.block_elements, count * type.block_elements));
  });
  return out;
}

void dequantize_row(const GgufTensor& tensor, std::int64_t row, std::span<float> out) {
  require(tensor.shape.size() == 2 && row >= 0 && row < tensor.shape[0] &&
              static_cast<std::int64_t>(out.size()) == tensor.shape[1],
          "row {} of {} elements: tensor {} must be a matrix that has it", row, out.size(),
          quoted(tensor.name));
  const std::int64_t bytes =
      tensor.shape[1] / tensor.type->block_elements * tensor.type->block_bytes;
  dequantize(*tensor.type, tensor.data.subspan(row * bytes, bytes), out);
}

}  // namespace tilewright::engine
