// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/dlpack.h>
#include <tilewright/error.h>

#include <array>
#include <cstddef>

#include "base/dlpack_abi.h"

namespace tilewright {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

// The layout that other libraries were compiled with.
static_assert(sizeof(DLTensor) == 48 && offsetof(DLTensor, shape) == 24);
static_assert(sizeof(DLManagedTensor) == 64 && offsetof(DLManagedTensor, deleter) == 56);
static_assert(offsetof(DLManagedTensorVersioned, manager_ctx) == 8 &&
              offsetof(DLManagedTensorVersioned, flags) == 24 &&
              offsetof(DLManagedTensorVersioned, dl_tensor) == 32);

struct Foreign {
  float data[24] = {};
  std::int64_t shape[3] = {2, 3, 4};
  std::int64_t strides[3] = {1, 8, 2};
  DLManagedTensor tensor{};

  Foreign() { tensor.dl_tensor = {data, {kDLCPU, 0}, 3, {kDLFloat, 32, 1}, shape, strides, 0}; }
};

TEST(DLPack, ImportsStridesAndOffset) {
  Foreign foreign;
  foreign.tensor.dl_tensor.byte_offset = 8;
  const TensorView view = from_dlpack(&foreign.tensor);
  EXPECT_EQ(view.data, foreign.data + 2);
  EXPECT_EQ(view.rank, 3);
  EXPECT_EQ(view.shape[2], 4);
  EXPECT_EQ(view.strides[1], 8);
  EXPECT_EQ(view.dtype, DType::f32);
}

TEST(DLPack, NullStridesAreContiguous) {
  Foreign foreign;
  foreign.tensor.dl_tensor.strides = nullptr;
  const TensorView view = from_dlpack(&foreign.tensor);
  EXPECT_TRUE(view.is_contiguous());
  EXPECT_EQ(view.strides[0], 12);
}

TEST(DLPack, ImportsDevices) {
  Foreign foreign;
  foreign.tensor.dl_tensor.device = {kDLCUDAHost, 1};
  EXPECT_EQ(from_dlpack(&foreign.tensor).device, (Device{DeviceType::cpu, 0}));
  foreign.tensor.dl_tensor.device = {kDLCUDA, 3};
  EXPECT_EQ(from_dlpack(&foreign.tensor).device, (Device{DeviceType::cuda, 3}));
}

TEST(DLPack, RoundTripsEveryDType) {
  std::int64_t data[6] = {};
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2,
                            DType::i8, DType::i32, DType::i64, DType::u8}) {
    const TensorView view(data, dtype, {2, 3}, {1, 2});
    DLManagedTensor* old_form = to_dlpack(view, nullptr, nullptr);
    DLManagedTensorVersioned* new_form = to_dlpack_versioned(view, nullptr, nullptr, true);
    EXPECT_EQ(new_form->version.major, 1U);
    EXPECT_EQ(new_form->flags, kDLPackFlagReadOnly);
    for (const TensorView& back : {from_dlpack(old_form), from_dlpack(new_form)}) {
      EXPECT_EQ(back.describe(), view.describe());
      EXPECT_EQ(back.data, view.data);
    }
    old_form->deleter(old_form);
    new_form->deleter(new_form);
  }
}

TEST(DLPack, DTypeCodesAreDLPacks) {
  std::int64_t data[1] = {};
  const auto code_of = [&](DType dtype) {
    DLManagedTensor* managed = to_dlpack(TensorView(data, dtype, {1}), nullptr, nullptr);
    const int code = managed->dl_tensor.dtype.code * 100 + managed->dl_tensor.dtype.bits;
    managed->deleter(managed);
    return code;
  };
  EXPECT_EQ(code_of(DType::f16), 216);
  EXPECT_EQ(code_of(DType::bf16), 416);
  EXPECT_EQ(code_of(DType::f8e4m3), 1008);
  EXPECT_EQ(code_of(DType::f8e5m2), 1208);
  EXPECT_EQ(code_of(DType::u8), 108);
  EXPECT_EQ(code_of(DType::i64), 64);
}

TEST(DLPack, DeleterReleasesOnce) {
  int released = 0;
  float data[2] = {};
  const auto release = [](void* context) { ++*static_cast<int*>(context); };
  DLManagedTensor* managed = to_dlpack(TensorView(data, DType::f32, {2}), release, &released);
  EXPECT_EQ(released, 0);
  managed->deleter(managed);
  EXPECT_EQ(released, 1);
  DLManagedTensorVersioned* versioned =
      to_dlpack_versioned(TensorView(data, DType::f32, {2}), release, &released);
  EXPECT_EQ(versioned->flags, 0U);
  versioned->deleter(versioned);
  EXPECT_EQ(released, 2);
}

TEST(DLPack, Errors) {
  const auto expect_error = [](const auto& change, const char* text) {
    Foreign foreign;
    change(foreign.tensor.dl_tensor);
    EXPECT_THAT([&] { from_dlpack(&foreign.tensor); }, ThrowsMessage<Error>(HasSubstr(text)));
  };
  expect_error([](DLTensor& t) { t.ndim = 0; }, "rank is 0");
  expect_error([](DLTensor& t) { t.ndim = 7; }, "rank is 7");
  expect_error([](DLTensor& t) { t.shape = nullptr; }, "shape is a null pointer");
  expect_error([](DLTensor& t) { t.data = nullptr; },
               "float32[2, 3, 4] strides [1, 8, 2] with a null");
  expect_error([](DLTensor& t) { t.shape[1] = -3; }, "extent 1 is -3");
  expect_error([](DLTensor& t) { t.shape[0] = std::int64_t{1} << 62; },
               "more than memory can hold");
  expect_error([](DLTensor& t) { t.strides[1] = -(std::int64_t{1} << 61); },
               "more than memory can hold");
  expect_error([](DLTensor& t) { t.strides[1] = std::int64_t{1} << 60; },
               "more than memory can hold");
  expect_error([](DLTensor& t) { t.byte_offset = ~std::uint64_t{3}; }, "more than memory can hold");
  expect_error(
      [](DLTensor& t) {
        t.shape[0] = t.shape[1] = std::int64_t{1} << 40;
        t.shape[2] = 0;
      },
      "more than memory can hold");
  expect_error([](DLTensor& t) { t.byte_offset = 2; }, "no multiple of its 4 bytes");
  expect_error([](DLTensor& t) { t.dtype.bits = 64; }, "code 2, 64 bits");
  expect_error([](DLTensor& t) { t.dtype.lanes = 4; }, "4 lanes");
  expect_error([](DLTensor& t) { t.device.device_type = static_cast<DLDeviceType>(10); },
               "device type is 10");
  EXPECT_THAT([] { from_dlpack(static_cast<const DLManagedTensor*>(nullptr)); },
              ThrowsMessage<Error>(HasSubstr("null pointer")));
  EXPECT_THAT([] { from_dlpack(static_cast<const DLManagedTensorVersioned*>(nullptr)); },
              ThrowsMessage<Error>(HasSubstr("null pointer")));
  EXPECT_THAT([] { to_dlpack({}, nullptr, nullptr); },
              ThrowsMessage<Error>(HasSubstr("view is missing")));
  Foreign foreign;
  DLManagedTensorVersioned future{};
  future.version = {2, 0};
  future.dl_tensor = foreign.tensor.dl_tensor;
  EXPECT_THAT([&] { from_dlpack(&future); }, ThrowsMessage<Error>(HasSubstr("version is 2.0")));
}

TEST(DLPack, StridesThatAreNeverTakenMayBeAnything) {
  Foreign foreign;
  foreign.shape[1] = 1;
  foreign.strides[1] = std::int64_t{1} << 62;
  EXPECT_EQ(from_dlpack(&foreign.tensor).strides, (std::array<std::int64_t, 6>{1, 4, 2}));
  foreign.shape[0] = 0;
  foreign.strides[2] = -(std::int64_t{1} << 62);
  EXPECT_TRUE(from_dlpack(&foreign.tensor).is_contiguous());
}

TEST(DLPack, EmptyTensorsMayBeNull) {
  Foreign foreign;
  foreign.shape[0] = 0;
  foreign.tensor.dl_tensor.data = nullptr;
  EXPECT_EQ(from_dlpack(&foreign.tensor).numel(), 0);
}

}  // namespace
}  // namespace tilewright
