// SPDX-License-Identifier: Apache-2.0
// Errors, tensors, DLPack, threads and version of the C API.
#include <atomic>
#include <thread>

#include "base/dlpack_abi.h"
#include "c_api/c_support.h"
#include "c_api/guard.h"

namespace tilewright::test {
namespace {

TEST(CErrors, CodesAndMessages) {
  const auto status_of = [](const auto& body) { return c_api::guarded(body); };
  const std::vector<std::pair<ErrorCode, tw_status>> codes = {
      {ErrorCode::invalid_argument, TW_INVALID_ARGUMENT},
      {ErrorCode::limit_exceeded, TW_LIMIT_EXCEEDED},
      {ErrorCode::not_supported, TW_NOT_SUPPORTED},
      {ErrorCode::invalid_state, TW_INVALID_STATE},
      {ErrorCode::out_of_memory, TW_OUT_OF_MEMORY},
      {ErrorCode::device_error, TW_DEVICE_ERROR},
      {ErrorCode::compile_error, TW_COMPILE_ERROR},
      {ErrorCode::internal, TW_INTERNAL}};
  for (const auto& [code, status] : codes) {
    EXPECT_EQ(status_of([&, c = code] { throw Error(c, "text of an error"); }), status);
    EXPECT_STREQ(tw_last_error(), "text of an error");
  }
  EXPECT_EQ(status_of([] { throw std::bad_alloc(); }), TW_OUT_OF_MEMORY);
  EXPECT_STREQ(tw_last_error(), "out of memory");
  EXPECT_EQ(status_of([] { throw std::runtime_error("of the standard library"); }), TW_INTERNAL);
  EXPECT_STREQ(tw_last_error(), "of the standard library");
  EXPECT_EQ(status_of([] { throw 7; }), TW_INTERNAL);
  EXPECT_STREQ(tw_last_error(), "an exception of an unknown type");
  // A success leaves the message.
  EXPECT_EQ(status_of([] {}), TW_OK);
  EXPECT_STREQ(tw_last_error(), "an exception of an unknown type");
}

TEST(CErrors, EachStatusHasAName) {
  std::vector<std::string> names;
  for (tw_status status = TW_OK; status <= TW_INTERNAL; ++status) {
    names.emplace_back(tw_status_name(status));
  }
  EXPECT_THAT(names, testing::ElementsAre("ok", "invalid argument", "limit exceeded",
                                          "not supported", "invalid state", "out of memory",
                                          "device error", "compile error", "internal error"));
  EXPECT_STREQ(tw_status_name(-1), "unknown status");
  EXPECT_STREQ(tw_status_name(99), "unknown status");
}

TEST(CErrors, AreThoseOfTheirThread) {
  expect_invalid(tw_set_num_threads(-5), {"threads is -5"});
  std::string at_start = "?";
  std::string after = "?";
  std::thread([&] {
    at_start = tw_last_error();
    tw_set_num_threads(-6);
    after = tw_last_error();
  }).join();
  EXPECT_EQ(at_start, "");
  EXPECT_THAT(after, testing::HasSubstr("threads is -6"));
  EXPECT_THAT(tw_last_error(), testing::HasSubstr("threads is -5"));
}

TEST(CErrors, ManyThreadsAtOnce) {
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      const std::string expected = "threads is " + std::to_string(-100 - i) + ":";
      for (int n = 0; n < 500; ++n) {
        if (tw_set_num_threads(-100 - i) != TW_INVALID_ARGUMENT ||
            std::string(tw_last_error()).rfind(expected, 0) != 0) {
          ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(CLibrary, VersionFeaturesThreads) {
  EXPECT_STREQ(tw_version(), TILEWRIGHT_VERSION);
  const char* features = nullptr;
  ASSERT_OK(tw_cpu_features(&features));
  EXPECT_EQ(features, cpu_features());
  const int before = num_threads();
  ASSERT_OK(tw_set_num_threads(3));
  EXPECT_EQ(num_threads(), 3);
  std::int32_t threads = 0;
  ASSERT_OK(tw_num_threads(&threads));
  EXPECT_EQ(threads, 3);
  set_num_threads(before);
}

TEST(CTensor, Dtypes) {
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2,
                            DType::i8, DType::i32, DType::i64, DType::u8}) {
    std::int32_t bytes = 0;
    const char* name = nullptr;
    ASSERT_OK(tw_dtype_bytes(to_c(dtype), &bytes));
    ASSERT_OK(tw_dtype_name(to_c(dtype), &name));
    EXPECT_EQ(bytes, dtype_bytes(dtype));
    EXPECT_STREQ(name, dtype_name(dtype));
  }
  std::int32_t bytes = 0;
  for (const tw_dtype wrong : {-1, 0, 10, 1 << 30}) {
    expect_invalid(tw_dtype_bytes(wrong, &bytes), {"dtype is " + std::to_string(wrong)});
  }
}

TEST(CTensor, InitAndViews) {
  std::vector<float> memory(48);
  const std::array<std::int64_t, 3> shape = {2, 3, 4};
  const TensorView view(memory.data(), DType::f32, {2, 3, 4});
  tw_tensor tensor{};
  ASSERT_OK(tw_tensor_init(memory.data(), TW_F32, 3, shape.data(), nullptr, tw_device{}, &tensor));
  EXPECT_TRUE(same_tensor(tensor, view));
  const std::array<std::int64_t, 3> strides = {24, 8, 1};
  tw_tensor strided{};
  ASSERT_OK(tw_tensor_init(memory.data(), TW_F32, 3, shape.data(), strides.data(), {TW_CUDA, 2},
                           &strided));
  EXPECT_TRUE(same_tensor(strided, TensorView(memory.data(), DType::f32, {2, 3, 4}, {24, 8, 1},
                                              {DeviceType::cuda, 2})));
  tw_tensor got{};
  ASSERT_OK(tw_tensor_slice(&tensor, 1, 1, 3, &got));
  EXPECT_TRUE(same_tensor(got, view.slice(1, 1, 3)));
  ASSERT_OK(tw_tensor_select(&tensor, 0, 1, &got));
  EXPECT_TRUE(same_tensor(got, view.select(0, 1)));
  ASSERT_OK(tw_tensor_transpose(&tensor, 0, 2, &got));
  EXPECT_TRUE(same_tensor(got, view.transpose(0, 2)));
  ASSERT_OK(tw_tensor_unsqueeze(&tensor, 1, &got));
  EXPECT_TRUE(same_tensor(got, view.unsqueeze(1)));
  // In place; and what fails changes nothing.
  ASSERT_OK(tw_tensor_transpose(&tensor, 0, 1, &tensor));
  EXPECT_TRUE(same_tensor(tensor, view.transpose(0, 1)));
  expect_invalid(tw_tensor_slice(&tensor, 5, 0, 1, &tensor), {"dim is 5"});
  expect_invalid(tw_tensor_select(&tensor, 0, 3, &tensor), {"index 3"});
  expect_invalid(tw_tensor_transpose(&tensor, -1, 0, &tensor), {"dim is -1"});
  expect_invalid(tw_tensor_unsqueeze(&tensor, 4, &tensor), {"dim 4"});
  EXPECT_TRUE(same_tensor(tensor, view.transpose(0, 1)));
}

// What cannot be a tensor is refused before anything computes with it.
TEST(CTensor, Malformed) {
  alignas(8) std::array<float, 24> memory{};
  const TensorView view(memory.data(), DType::f32, {2, 3, 4});
  tw_tensor out{};
  const auto refused = [&](const std::vector<std::string>& words, const auto& change) {
    tw_tensor tensor = to_c(view);
    change(tensor);
    expect_invalid(tw_tensor_unsqueeze(&tensor, 0, &out), words);
  };
  refused({"tensor.rank is 7", "[0, 6]"}, [](tw_tensor& t) { t.rank = 7; });
  refused({"tensor.rank is -1"}, [](tw_tensor& t) { t.rank = -1; });
  refused({"tensor.dtype is 0"}, [](tw_tensor& t) { t.dtype = TW_DEFAULT_DTYPE; });
  refused({"tensor.dtype is 10"}, [](tw_tensor& t) { t.dtype = 10; });
  refused({"tensor.device.type is 5"}, [](tw_tensor& t) { t.device.type = 5; });
  refused({"tensor.device.index is -2"}, [](tw_tensor& t) { t.device = {TW_CUDA, -2}; });
  refused({"tensor.device.index is 1"}, [](tw_tensor& t) { t.device.index = 1; });
  refused({"tensor.shape[1] is -3"}, [](tw_tensor& t) { t.shape[1] = -3; });
  refused({"tensor.shape"}, [](tw_tensor& t) { t.shape[0] = t.shape[1] = INT64_C(1) << 32; });
  refused({"tensor.shape"}, [](tw_tensor& t) {
    t.shape[0] = 0;
    t.shape[1] = t.shape[2] = INT64_C(1) << 40;
  });
  refused({"tensor.strides"}, [](tw_tensor& t) { t.strides[0] = INT64_MAX; });
  refused({"tensor.strides"}, [](tw_tensor& t) { t.strides[1] = INT64_MIN; });
  refused({"tensor.data is NULL", "24 elements"}, [](tw_tensor& t) { t.data = nullptr; });
  refused({"tensor.data is 0x", "multiple of the 4 bytes"},
          [](tw_tensor& t) { t.data = static_cast<char*>(t.data) + 2; });
  // Memory is not needed where there are no elements.
  tw_tensor empty = to_c(view);
  empty.shape[2] = 0;
  empty.data = nullptr;
  EXPECT_OK(tw_tensor_unsqueeze(&empty, 0, &out));

  const std::array<std::int64_t, 2> shape = {2, -1};
  expect_invalid(tw_tensor_init(memory.data(), TW_F32, 2, shape.data(), nullptr, {}, &out),
                 {"tensor.shape[1] is -1"});
  expect_invalid(tw_tensor_init(memory.data(), TW_F32, 0, shape.data(), nullptr, {}, &out),
                 {"rank is 0"});
  expect_invalid(tw_tensor_init(memory.data(), TW_F32, 7, shape.data(), nullptr, {}, &out),
                 {"rank is 7"});
}

TEST(CTensor, ToAndFromDLPack) {
  std::array<float, 24> memory{};
  const TensorView view(memory.data(), DType::f32, {2, 3}, {12, 2});
  const tw_tensor tensor = to_c(view);
  int released = 0;
  const auto release = [](void* context) { ++*static_cast<int*>(context); };

  DLManagedTensor* managed = nullptr;
  ASSERT_OK(tw_tensor_to_dlpack(&tensor, release, &released, &managed));
  EXPECT_EQ(managed->dl_tensor.data, memory.data());
  tw_tensor back{};
  ASSERT_OK(tw_tensor_from_dlpack(managed, &back));
  EXPECT_TRUE(same_tensor(back, view));
  EXPECT_EQ(released, 0);
  managed->deleter(managed);
  EXPECT_EQ(released, 1);

  DLManagedTensorVersioned* versioned = nullptr;
  for (const std::int32_t read_only : {0, 1}) {
    ASSERT_OK(tw_tensor_to_dlpack_versioned(&tensor, nullptr, nullptr, read_only, &versioned));
    EXPECT_EQ(versioned->version.major, 1);
    EXPECT_EQ(versioned->flags, read_only != 0 ? kDLPackFlagReadOnly : 0);
    back = {};
    ASSERT_OK(tw_tensor_from_dlpack_versioned(versioned, &back));
    EXPECT_TRUE(same_tensor(back, view));
    versioned->version.major = 2;
    expect_invalid(tw_tensor_from_dlpack_versioned(versioned, &back), {"version is 2"});
    versioned->deleter(versioned);
  }
  expect_invalid(tw_tensor_to_dlpack_versioned(&tensor, nullptr, nullptr, 2, &versioned),
                 {"read_only is 2"});
}

}  // namespace
}  // namespace tilewright::test
