// SPDX-License-Identifier: Apache-2.0
// Memory, copies, events, streams and graphs, against the test double of libcuda.
#include "cuda/memory.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "cuda/box_map.h"
#include "support/expect_error.h"
#include "support/use_fake_cuda.h"

namespace tilewright {
namespace {

using test::expect_error_of;
using test::fake_cuda;

TEST(DeviceBuffer, IsFreedOnceOnItsOwnGpu) {
  test::FakeCuda& fake = fake_cuda();
  const cuda::Device& device = cuda::device(1);
  {
    cuda::DeviceBuffer buffer(device, 1000);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 256, 0U);
    cuda::DeviceBuffer moved(std::move(buffer));
    cuda::DeviceBuffer assigned;
    assigned = std::move(moved);
    EXPECT_EQ(assigned.bytes(), 1000U);
    EXPECT_EQ(fake.bytes_allocated, 1000U);
  }
  EXPECT_EQ(fake.bytes_allocated, 0U);
  EXPECT_EQ(fake.calls["cuMemAlloc"], 1);
  EXPECT_EQ(fake.calls["cuMemFree"], 1);
  EXPECT_EQ(fake.contexts_on_stack, 0);
  EXPECT_EQ(cuda::DeviceBuffer(device, 0).data(), nullptr);
}

TEST(DeviceBuffer, NoMemoryIsAnErrorThatSaysHowMuchWasAsked) {
  const cuda::Device& device = (fake_cuda(), cuda::device(0));
  fake_cuda().failures["cuMemAlloc"] = 2;
  expect_error_of(ErrorCode::out_of_memory, {"cuda:0", "123456 bytes"},
                  [&] { cuda::DeviceBuffer(device, 123456); });
}

TEST(DeviceBuffer, ADeadContextIsNoReasonToEndTheProcess) {
  const cuda::Device& device = (fake_cuda(), cuda::device(0));
  cuda::DeviceBuffer buffer(device, 16);
  fake_cuda().failures["cuMemFree"] = 700;
  buffer = cuda::DeviceBuffer();
}

TEST(BoxMap, TakesTensorsAsTheDriverDoes) {
  const cuda::Device& device = (fake_cuda(), cuda::device(0));
  const cuda::DeviceBuffer buffer(device, 1 << 16);
  // Of K in pages of 16 tokens, two heads of 80 elements side by side.
  const cuda::BoxTensor good{buffer.data(), {80, 16, 2, 7}, {2, 320, 160, 5120}, 16};
  alignas(64) std::array<std::uint64_t, 16> map{};
  EXPECT_TRUE(cuda::encode_box_map(good, map.data()));
  EXPECT_NE(map[15], 0U);
  cuda::BoxTensor odd = good;
  odd.strides[1] = 328;
  EXPECT_FALSE(cuda::encode_box_map(odd, map.data()));
  // The stride of one head alone may be anything.
  odd = good;
  odd.shape[2] = 1;
  odd.strides[2] = 3;
  EXPECT_TRUE(cuda::encode_box_map(odd, map.data()));
  odd = good;
  odd.strides[3] = std::int64_t{1} << 40;
  EXPECT_FALSE(cuda::encode_box_map(odd, map.data()));
  EXPECT_EQ(fake_cuda().calls["cuTensorMapEncodeTiled"], 2);
}

// Writes down what it is asked for.
int encoded = 0;
bool encode_first_words(const cuda::BoxTensor& tensor, void* map) {
  ++encoded;
  std::memset(map, 0, 128);
  std::memcpy(map, &tensor, sizeof tensor);
  return tensor.strides[3] < std::int64_t{1} << 40;
}

TEST(BoxMaps, EncodeATensorOnce) {
  encoded = 0;
  cuda::BoxMaps maps(encode_first_words);
  alignas(64) std::array<std::byte, 128> map{};
  const auto expect_map_of = [&](const cuda::BoxTensor& tensor) {
    map.fill(std::byte{0xFF});
    EXPECT_TRUE(maps.write(tensor, map.data()));
    EXPECT_EQ(std::memcmp(map.data(), &tensor, sizeof tensor), 0);
    EXPECT_EQ(map[127], std::byte{0});
  };
  // K and V of 80 layers, step after step.
  std::vector<cuda::BoxTensor> layers;
  char* address = nullptr;
  for (int layer = 0; layer < 160; ++layer) {
    address += 5120 * 7;
    layers.push_back({address, {80, 16, 2, 7}, {2, 320, 160, 5120}, 16});
  }
  for (int step = 0; step < 3; ++step) {
    for (const cuda::BoxTensor& layer : layers) expect_map_of(layer);
  }
  EXPECT_EQ(encoded, 160);
  // Other tensors where one was: they differ in one number.
  std::vector<cuda::BoxTensor> others(10, layers[0]);
  for (std::size_t dim = 0; dim < 4; ++dim) {
    others[dim].shape[dim] += 16;
    others[4 + dim].strides[dim] += 16;
  }
  others[8].box_tokens = 8;
  others[9].data = address + 16;
  for (const cuda::BoxTensor& other : others) expect_map_of(other);
  EXPECT_EQ(encoded, 170);
}

TEST(BoxMaps, KeepAFixedNumber) {
  encoded = 0;
  cuda::BoxMaps maps(encode_first_words);
  alignas(64) std::array<std::byte, 128> map{};
  cuda::BoxTensor tensor{nullptr, {80, 16, 2, 7}, {2, 320, 160, 5120}, 16};
  const int many = 4 * static_cast<int>(cuda::BoxMaps::kPlaces);
  for (int i = 0; i < many; ++i) {
    tensor.data = static_cast<const char*>(nullptr) + 4096 * i;
    EXPECT_TRUE(maps.write(tensor, map.data()));
    EXPECT_TRUE(maps.write(tensor, map.data()));
    EXPECT_EQ(std::memcmp(map.data(), &tensor, sizeof tensor), 0);
  }
  EXPECT_EQ(encoded, many);
  // What the encoder does not take is nothing to keep.
  tensor.strides[3] = std::int64_t{1} << 40;
  EXPECT_FALSE(maps.write(tensor, map.data()));
  EXPECT_FALSE(maps.write(tensor, map.data()));
  EXPECT_EQ(encoded, many + 2);
}

TEST(Memory, CopiesAndFills) {
  const cuda::Device& device = (fake_cuda(), cuda::device(0));
  const cuda::ContextScope scope(device);
  cuda::DeviceBuffer a(device, 16), b(device, 16);
  cuda::PinnedBuffer host(device, 16);
  const cuda::OwnedStream stream(device);
  const std::array<std::uint32_t, 4> words{1, 2, 3, 4};
  cuda::copy_to_device(a.data(), words.data(), 16, stream.get());
  cuda::fill_words(b.data(), 7, 4, stream.get());
  cuda::copy_on_device(b.data(), a.data(), 8, stream.get());
  cuda::fill_bytes(static_cast<char*>(b.data()) + 4, 0xFF, 4, stream.get());
  cuda::copy_to_host(host.data(), b.data(), 16, stream.get());
  cuda::synchronize(stream.get());
  const auto* got = static_cast<const std::uint32_t*>(host.data());
  EXPECT_EQ(std::vector<std::uint32_t>(got, got + 4),
            (std::vector<std::uint32_t>{1, 0xFFFFFFFF, 7, 7}));
}

TEST(Memory, NothingToDoIsNoCall) {
  test::FakeCuda& fake = fake_cuda();
  cuda::copy_to_device(nullptr, nullptr, 0, {});
  cuda::copy_to_host(nullptr, nullptr, 0, {});
  cuda::copy_on_device(nullptr, nullptr, 0, {});
  cuda::fill_bytes(nullptr, 0, 0, {});
  cuda::fill_words(nullptr, 0, 0, {});
  EXPECT_TRUE(fake.calls.empty());
}

TEST(Event, IsRecordedAskedAndTimed) {
  const cuda::Device& device = (fake_cuda(), cuda::device(0));
  cuda::Event start(device, cuda::Event::Timing::on), end(device, cuda::Event::Timing::on);
  start.record({});
  end.record({});
  end.wait_on({});
  EXPECT_TRUE(end.is_done());
  fake_cuda().failures["cuEventQuery"] = 600;
  EXPECT_FALSE(end.is_done());
  fake_cuda().failures["cuEventQuery"] = 700;
  expect_error_of(ErrorCode::device_error, {"cuEventQuery"}, [&] { end.is_done(); });
  end.synchronize();
  EXPECT_EQ(end.milliseconds_since(start), 1.5F);
}

TEST(Graph, RecordsWorkAndLaunchesIt) {
  test::FakeCuda& fake = fake_cuda();
  const cuda::Device& device = cuda::device(0);
  const cuda::OwnedStream stream(device);
  EXPECT_FALSE(cuda::is_capturing(stream.get()));
  const cuda::Graph graph(device, stream.get(),
                          [&] { EXPECT_TRUE(cuda::is_capturing(stream.get())); });
  EXPECT_FALSE(cuda::is_capturing(stream.get()));
  graph.launch(stream.get());
  EXPECT_EQ(fake.calls["cuGraphLaunch"], 1);
  EXPECT_EQ(fake.calls["cuGraphDestroy"], 1);
}

TEST(Graph, AnErrorWhileRecordingEndsTheRecording) {
  const cuda::Device& device = (fake_cuda(), cuda::device(0));
  const cuda::OwnedStream stream(device);
  EXPECT_THROW(cuda::Graph(device, stream.get(), [] { throw std::runtime_error("x"); }),
               std::runtime_error);
  EXPECT_FALSE(cuda::is_capturing(stream.get()));
}

}  // namespace
}  // namespace tilewright
