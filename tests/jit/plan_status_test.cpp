// SPDX-License-Identifier: Apache-2.0
// Copies of status words and debug mode, against the test double of libcuda: kernels do not run
// there, so the words are written by the test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/plan.h>
#include <tilewright/variants.h>

#include <cstdlib>
#include <cstring>
#include <optional>

#include "attention/plan_impl.h"
#include "attention/update_kernel.h"
#include "support/expect_error.h"
#include "support/use_fake_cuda.h"
#include "support/use_nvrtc.h"

namespace tilewright::test {
namespace {

using testing::ElementsAre;

constexpr Device kGpu{DeviceType::cuda, 0};
constexpr std::int64_t kRequests = 3;
constexpr auto kKvLen = static_cast<std::int32_t>(RequestStatus::kv_len);
constexpr auto kPage = static_cast<std::int32_t>(RequestStatus::page);

AttentionSpec spec() {
  AttentionSpec spec;
  spec.num_qo_heads = spec.num_kv_heads = 1;
  spec.head_dim = 64;
  return spec;
}

class PlanStatus : public SharedNvrtcFixture {
 protected:
  PlanStatus()
      : device_((fake_cuda(), cuda::device(0))),
        scope_(device_),
        attention_(spec(), kGpu),
        limits_{5, 5, 1, 100},
        memory_(device_, Plan::workspace_bytes({attention_}, limits_)),
        ints_(device_, 256),
        plan_({attention_}, limits_, gpu(memory_, DType::u8, memory_.bytes())) {}

  static TensorView gpu(const cuda::DeviceBuffer& buffer, DType dtype, std::size_t size) {
    return TensorView(buffer.data(), dtype, {static_cast<std::int64_t>(size)}, kGpu);
  }

  void update() {
    Batch batch;
    batch.qo_indptr = gpu(ints_, DType::i32, kRequests + 1);
    const TensorView indptr = gpu(ints_, DType::i32, kRequests + 1);
    plan_.update(batch, {PlanInput(attention_, PageTable::ragged(indptr))}, stream_);
  }
  // What the update's kernel would have written.
  void write_words(int turn, const std::vector<std::int32_t>& words) {
    header().status_turn = turn;
    // The first thing of a workspace.
    auto* const first = static_cast<std::int32_t*>(memory_.data());
    std::copy(words.begin(), words.end(), first + turn * (limits_.requests + 1));
  }
  plan::Header& header() { return *plan_.impl().cuda->part(attention_).memory.schedule.header; }
  void run() {
    TensorView q(memory_.data(), DType::bf16, {1, 1, 64}, kGpu);
    const TensorView keys(memory_.data(), DType::bf16, {1, 1, 1, 64}, kGpu);
    RunArgs args;
    args.out = q;
    args.stream = stream_;
    attention_.run(plan_, q, KvCache::separate(keys, keys), args);
  }
  int waits() const { return fake_cuda().calls["cuStreamSynchronize"]; }

  const cuda::Device& device_;
  const cuda::ContextScope scope_;
  Attention attention_;
  Limits limits_;
  cuda::DeviceBuffer memory_, ints_;
  Plan plan_;
  int stream_object_ = 0;
  Stream stream_{&stream_object_};
};

// An update and a run may start while what is before them on the stream ends.
TEST_F(PlanStatus, ItsPlansLaunchesStartEarly) {
  const std::size_t before = fake_cuda().launches.size();
  update();
  run();
  ASSERT_EQ(fake_cuda().launches.size(), before + 2);
  for (std::size_t i = before; i < before + 2; ++i) {
    EXPECT_TRUE(fake_cuda().launches[i].programmatic) << fake_cuda().launches[i].kernel;
    EXPECT_EQ(fake_cuda().launches[i].cluster, 0);
  }
}

TEST_F(PlanStatus, IsCopiedByALaunchOnTheStream) {
  const cuda::PinnedBuffer pinned(device_, 64);
  auto* const words = static_cast<std::int32_t*>(pinned.data()) + 2;
  const TensorView view(words, DType::i32, {5});
  expect_error_of(ErrorCode::invalid_state, {"plan has no batch"},
                  [&] { plan_.copy_status(view, stream_); });
  update();
  const int waited = waits();
  const std::size_t before = fake_cuda().launches.size();
  int other = 0;
  plan_.copy_status(view, Stream{&other});
  EXPECT_EQ(waits(), waited);
  ASSERT_EQ(fake_cuda().launches.size(), before + 1);
  const FakeLaunch& launch = fake_cuda().launches.back();
  EXPECT_EQ(launch.kernel, kCopyStatusName);
  EXPECT_EQ(launch.grid, 1U);
  EXPECT_EQ(launch.stream, &other);
  // It must not begin before the update has ended.
  EXPECT_FALSE(launch.programmatic);
  plan::StatusCopy copy;
  ASSERT_EQ(launch.params.size(), sizeof copy);
  std::memcpy(static_cast<void*>(&copy), launch.params.data(), sizeof copy);
  EXPECT_EQ(static_cast<const void*>(copy.words), memory_.data());
  EXPECT_EQ(copy.turn, &header().status_turn);
  EXPECT_EQ(copy.stride, limits_.requests + 1);
  EXPECT_EQ(copy.count, kRequests);
  EXPECT_EQ(copy.to, words);
}

TEST_F(PlanStatus, CopiesGoToPinnedMemoryThatIsLargeEnough) {
  update();
  const cuda::PinnedBuffer pinned(device_, 64);
  std::vector<std::int32_t> pageable(5);
  const auto refused = [&](const TensorView& words, const std::vector<std::string>& text) {
    expect_error_of(ErrorCode::invalid_argument, text, [&] { plan_.copy_status(words, stream_); });
  };
  refused(TensorView(pageable.data(), DType::i32, {5}),
          {"words is at", "page-locked", "pin_memory"});
  refused(TensorView(pinned.data(), DType::i32, {2}), {"words is", "3 requests"});
  refused(TensorView(pinned.data(), DType::i64, {5}), {"words is int64", "int32"});
  refused(TensorView(pinned.data(), DType::i32, {5}, kGpu),
          {"words is int32[5] on cuda:0", "must be on cpu"});
  refused(TensorView(), {"words"});
}

TEST_F(PlanStatus, OfAnUpdateThatOnlyACaptureHasSeen) {
  update();
  header().status_turn = 12345;  // memory that no kernel has written
  EXPECT_THAT(plan_.status(), ElementsAre(0, 0, 0));
}

TEST_F(PlanStatus, DebugModeRaisesAtTheNextRun) {
  EXPECT_FALSE(plan_.debug());
  plan_.set_debug(true);
  EXPECT_TRUE(plan_.debug());
  for (const int turn : {0, 1}) {
    update();
    write_words(turn, {0, kKvLen | kPage, 0});
    write_words(turn ^ 1, {0, 0, 0});
    header().status_turn = turn;
    expect_error_of(ErrorCode::invalid_argument,
                    {"last update", "request 1: kv_len (the length must be", "page (page ids"},
                    [&] { run(); });
    // The words are still there to be read, but nothing more is computed for such a batch.
    EXPECT_THAT(plan_.status(), ElementsAre(0, kKvLen | kPage, 0));
    expect_error_of(ErrorCode::invalid_state, {"plan has no batch"}, [&] { run(); });
    write_words(turn, {0, 0, 0});
  }
  update();
}

TEST_F(PlanStatus, DebugModeRaisesAtTheNextUpdateOnce) {
  plan_.set_debug(true);
  update();
  write_words(1, {1, 2, 4});
  expect_error_of(ErrorCode::invalid_argument,
                  {"request 0: q_range", "request 1: kv_len", "request 2: page"},
                  [&] { update(); });
  update();  // of the bad batch has been told
  write_words(1, {0, 0, 0});
  update();
  plan_.set_debug(false);
  write_words(1, {1, 2, 4});
  const int waited = waits();
  update();
  EXPECT_EQ(waits(), waited);
}

TEST_F(PlanStatus, DebugModeDoesNotLookUnderCapture) {
  plan_.set_debug(true);
  update();
  write_words(0, {1, 0, 0});
  const int waited = waits();
  const Stream first = stream_;
  int captured = 0;
  stream_ = Stream{&captured};
  {
    // Of the call.
    const cuda::Graph graph(device_, stream_, [&] { update(); });
  }
  {
    // Of the last update.
    const cuda::Graph graph(device_, stream_, [&] {
      update();
      stream_ = first;
      update();
    });
  }
  EXPECT_EQ(waits(), waited);
  expect_error_of(ErrorCode::invalid_argument, {"request 0"}, [&] { update(); });
}

TEST_F(PlanStatus, TheEnvironmentAsksForDebugMode) {
  const std::vector<std::pair<const char*, bool>> cases = {{"1", true}, {"0", false}, {"", false}};
  for (const auto& [value, expected] : cases) {
    setenv("TILEWRIGHT_DEBUG", value, 1);
    EXPECT_EQ(Plan({attention_}, limits_).debug(), expected) << value;
  }
  unsetenv("TILEWRIGHT_DEBUG");
  EXPECT_FALSE(Plan({attention_}, limits_).debug());
}

TEST(DescribeStatus, HasEveryBit) {
  EXPECT_EQ(describe_status(0), "well");
  const std::vector<std::string> names = {"q_range",    "kv_len",       "page",  "position",
                                          "level_rows", "num_requests", "blocks"};
  for (std::size_t i = 0; i < names.size(); ++i) {
    EXPECT_THAT(describe_status(1 << i), testing::StartsWith(names[i] + " ("));
  }
  EXPECT_EQ(describe_status(3), describe_status(1) + ", " + describe_status(2));
  EXPECT_EQ(describe_status(256), "256 (no bit of this version)");
}

// Tiles of decoding have few rows, and so have their partial results.
TEST(PlanWorkspace, OfDecodingAlone) {
  fake_cuda();
  AttentionSpec of_llama;
  of_llama.num_qo_heads = 32;
  of_llama.num_kv_heads = 8;
  of_llama.head_dim = 128;
  const Attention attention(of_llama, kGpu);
  const auto bytes = [&](std::int64_t q_len) {
    return Plan::workspace_bytes({attention}, Limits{64, 64 * q_len, q_len, 4096});
  };
  EXPECT_GT(bytes(1), std::size_t{1} << 20);
  EXPECT_LT(bytes(1), std::size_t{20} << 20);
  EXPECT_GT(bytes(64), bytes(1));
}

}  // namespace
}  // namespace tilewright::test
