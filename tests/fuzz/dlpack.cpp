// SPDX-License-Identifier: Apache-2.0
// DLPack tensors with any fields: from_dlpack tells exactly what they say, or raises, and computes
// no address outside of memory.
#include <gtest/gtest.h>
#include <tilewright/dlpack.h>
#include <tilewright/error.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include "base/dlpack_abi.h"
#include "fuzz/targets.h"

namespace tilewright::fuzz {
namespace {

__extension__ using Wide = __int128;

struct Case {
  std::array<std::int64_t, 8> shape{};
  std::array<std::int64_t, 8> strides{};
  DLManagedTensorVersioned managed{};
};

void fill(Case& c, std::byte* memory, Draw& draw) {
  DLTensor& tensor = c.managed.dl_tensor;
  c.managed.version = {draw.chance(0.95) ? 1 : static_cast<std::uint32_t>(draw.range(0, 3)), 0};
  tensor.data = draw.chance(0.95) ? memory : nullptr;
  tensor.device = {static_cast<DLDeviceType>(draw.chance(0.9) ? 1 : draw.range(-1, 15)), 0};
  tensor.ndim = static_cast<std::int32_t>(draw.chance(0.9) ? draw.range(1, 6) : draw.range(-1, 8));
  tensor.dtype = {draw.pick<std::uint8_t>({0, 0, 1, 2, 2, 4, 10, 12, 3}),
                  draw.pick<std::uint8_t>({8, 8, 16, 16, 32, 32, 64}),
                  static_cast<std::uint16_t>(draw.chance(0.95) ? 1 : draw.range(0, 4))};
  for (std::size_t dim = 0; dim < c.shape.size(); ++dim) {
    c.shape[dim] = draw.chance(0.9) ? draw.range(0, 5) : draw.extreme();
    c.strides[dim] = draw.chance(0.8) ? draw.range(-10, 30) : draw.extreme();
  }
  tensor.shape = draw.chance(0.98) ? c.shape.data() : nullptr;
  tensor.strides = draw.chance(0.8) ? c.strides.data() : nullptr;
  tensor.byte_offset = static_cast<std::uint64_t>(draw.chance(0.8)   ? 8 * draw.range(0, 2)
                                                  : draw.chance(0.5) ? draw.range(0, 15)
                                                                     : draw.extreme());
}

std::optional<int> bytes_of(DLDataType type) {
  const bool known =
      (type.code == kDLInt && (type.bits == 8 || type.bits == 32 || type.bits == 64)) ||
      (type.code == kDLUInt && type.bits == 8) ||
      (type.code == kDLFloat && (type.bits == 16 || type.bits == 32)) ||
      (type.code == kDLBfloat && type.bits == 16) ||
      ((type.code == kDLFloat8_e4m3fn || type.code == kDLFloat8_e5m2) && type.bits == 8);
  return known && type.lanes == 1 ? std::optional(type.bits / 8) : std::nullopt;
}

// What must be taken, in arithmetic that cannot overflow.
bool is_well_formed(const Case& c) {
  constexpr Wide kEnd = std::numeric_limits<std::int64_t>::max();
  const DLTensor& tensor = c.managed.dl_tensor;
  const std::optional<int> bytes = bytes_of(tensor.dtype);
  const auto device = static_cast<int>(tensor.device.device_type);
  if (c.managed.version.major != 1 || tensor.ndim < 1 || tensor.ndim > TensorView::kMaxRank ||
      tensor.shape == nullptr || !bytes || device < 1 || device > 3) {
    return false;
  }
  Wide count = *bytes;
  bool empty = false;
  for (int dim = 0; dim < tensor.ndim; ++dim) {
    const std::int64_t extent = tensor.shape[dim];
    if (extent < 0) return false;
    empty = empty || extent == 0;
    count *= std::max<std::int64_t>(extent, 1);
    if (count > kEnd) return false;
  }
  if (empty) return true;
  if (tensor.data == nullptr) return false;
  Wide first =
      static_cast<Wide>(reinterpret_cast<std::uintptr_t>(tensor.data)) + tensor.byte_offset;
  if (first > kEnd || first % *bytes != 0) return false;
  Wide last = first;
  Wide row_major = 1;
  for (int dim = tensor.ndim - 1; dim >= 0; --dim) {
    const Wide stride = tensor.strides != nullptr ? Wide{tensor.strides[dim]} : row_major;
    row_major *= tensor.shape[dim];
    if (tensor.shape[dim] <= 1) continue;
    const Wide step = stride * *bytes;
    if (step > kEnd || step < -kEnd - 1) return false;
    const Wide reach = step * (tensor.shape[dim] - 1);
    if (reach > kEnd || reach < -kEnd - 1) return false;
    (reach < 0 ? first : last) += reach;
  }
  return first >= 0 && last + *bytes <= kEnd;
}

void expect_same(const Case& c, const TensorView& view) {
  const DLTensor& tensor = c.managed.dl_tensor;
  ASSERT_EQ(view.rank, tensor.ndim);
  for (int dim = 0; dim < view.rank; ++dim) {
    ASSERT_EQ(view.shape[dim], tensor.shape[dim]);
    if (tensor.strides != nullptr && view.numel() > 0 && view.shape[dim] > 1) {
      ASSERT_EQ(view.strides[dim], tensor.strides[dim]);
    }
  }
  if (view.numel() > 0) {
    ASSERT_EQ(view.data, static_cast<std::byte*>(tensor.data) + tensor.byte_offset);
  }
  ASSERT_EQ(dtype_bytes(view.dtype) * 8, tensor.dtype.bits);
}

// The arithmetic on views that operators do, for the sanitizers; and what is exported comes back.
void use(const TensorView& view) {
  for (int dim = 0; dim < view.rank; ++dim) {
    const std::int64_t extent = view.shape[dim];
    EXPECT_EQ(view.slice(dim, extent / 2, extent).shape[dim], extent - extent / 2);
    if (extent > 0) {
      EXPECT_EQ(view.select(dim, extent - 1).rank, view.rank - 1);
    }
    EXPECT_EQ(view.transpose(0, dim).numel(), view.numel());
  }
  EXPECT_FALSE(view.describe().empty());
  DLManagedTensor* exported = to_dlpack(view, nullptr, nullptr);
  const TensorView back = from_dlpack(exported);
  EXPECT_EQ(back.describe(), view.describe());
  exported->deleter(exported);
}

}  // namespace

bool fuzz_dlpack(Draw& draw) {
  alignas(64) static std::byte memory[64];
  Case c;
  fill(c, memory, draw);
  std::optional<TensorView> view;
  try {
    view = from_dlpack(&c.managed);
  } catch (const Error& error) {
    check(error.code() == ErrorCode::invalid_argument && !is_well_formed(c), error.what());
    return false;
  }
  check(is_well_formed(c), "taken: " + view->describe());
  expect_same(c, *view);
  use(*view);
  return true;
}

}  // namespace tilewright::fuzz
