// SPDX-License-Identifier: Apache-2.0
// Many threads, streams and processes at once: each gets what it would alone.
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "gpu/gpu_batch.h"
#include "jit/entry_lock.h"
#include "support/simple_batch.h"
#include "support/use_nvrtc.h"

namespace tilewright::test {
namespace {

using Bytes = std::vector<std::uint8_t>;

constexpr Dims kDims{8, 2, 64, 64};
constexpr Limits kLimits{8, 200, 64, 500};

SimpleBatch draw_batch(std::uint64_t seed) {
  Random random(seed);
  Lengths lengths;
  for (std::int64_t r = random.range(1, 8); r > 0; --r) {
    const std::int64_t q_len = random.chance(0.7) ? 1 : random.range(2, 24);
    lengths.emplace_back(q_len, random.range(q_len, 500));
  }
  return {kDims, DType::bf16, lengths, 16, seed};
}

Bytes bits_of(SimpleBatch& batch, Plan& plan, const Attention& attention, Stream stream) {
  batch.tensors.out.refill();
  batch.tensors.lse.refill();
  run_on_gpu(plan, attention, batch.batch(), {KvLevel{batch.table.table, {}, {}, {}, {}}}, {},
             batch.tensors.q.view(), {batch.cache.view()}, batch.tensors.args(), stream);
  Bytes all = batch.tensors.out.snapshot();
  const Bytes logs = batch.tensors.lse.snapshot();
  all.insert(all.end(), logs.begin(), logs.end());
  return all;
}

void expect_right(const SimpleBatch& batch) {
  batch.tensors.expect(batch.requests, causal_semantics(), {}, gpu_arithmetic(DType::bf16));
}

using ThreadsOnGpu = GpuTest;

// One attention that no thread has used before, so that they meet where it is compiled and loaded.
TEST_F(ThreadsOnGpu, ShareAnAttentionOnStreamsOfTheirOwn) {
  constexpr std::size_t kThreads = 8;
  constexpr std::size_t kBatches = 6;
  const Attention attention(make_spec(kDims, DType::bf16, variants::causal(450)), kGpu);
  std::array<std::vector<SimpleBatch>, kThreads> batches;
  std::array<std::vector<Bytes>, kThreads> bits;
  for (std::size_t t = 0; t < kThreads; ++t) {
    for (std::size_t i = 0; i < kBatches; ++i) batches[t].push_back(draw_batch(t * 100 + i));
  }
  std::array<std::string, kThreads> errors;
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      try {
        const cuda::ContextScope scope(0);
        const cuda::OwnedStream stream(cuda::device(0));
        Plan plan({attention}, kLimits);
        for (SimpleBatch& batch : batches[t]) {
          bits[t].push_back(bits_of(batch, plan, attention, stream.get()));
        }
      } catch (const std::exception& error) {
        errors[t] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Plan plan({attention}, kLimits);
  for (std::size_t t = 0; t < kThreads; ++t) {
    EXPECT_EQ(errors[t], "") << "thread " << t;
    ASSERT_EQ(bits[t].size(), kBatches) << "thread " << t;
    for (std::size_t i = 0; i < kBatches; ++i) {
      EXPECT_TRUE(bits[t][i] == bits_of(batches[t][i], plan, attention, {}))
          << "thread " << t << " batch " << i << " has other bits than alone";
    }
  }
}

// The batch, its pages and its queries come from another stream, late.
TEST_F(ThreadsOnGpu, StreamsThatWaitForEvents) {
  const cuda::ContextScope scope(0);
  const cuda::OwnedStream producer(cuda::device(0));
  const cuda::OwnedStream consumer(cuda::device(0));
  const Attention attention(make_spec(kDims, DType::bf16, variants::causal()), kGpu);
  Plan plan({attention}, kLimits);
  plan.prepare();
  SimpleBatch batch = draw_batch(77);
  GpuCopies copies;
  const cuda::DeviceBuffer busy(cuda::device(0), std::size_t{256} << 20);
  // What comes late: a copy of it lies ready, its place holds rubbish.
  struct Late {
    TensorView view, ready;
    std::size_t bytes;
  };
  std::vector<Late> late;
  const auto come_late = [&](const TensorView& host) {
    const TensorView ready = copies(host);
    const TensorView view = copies(host);
    late.push_back({view, ready, static_cast<std::size_t>(host.numel() * dtype_bytes(host.dtype))});
    return view;
  };
  Batch gpu_batch;
  gpu_batch.qo_indptr = come_late(batch.qo_indptr.view());
  gpu_batch.kv_lens = come_late(batch.kv_lens.view());
  PageTable table = batch.table.table;
  table.indices = come_late(table.indices);
  const TensorView q = come_late(batch.tensors.q.view());
  const KvCache cache = copies.cache(batch.cache.view());
  for (int round = 0; round < 5; ++round) {
    batch.tensors.out.refill();
    batch.tensors.lse.refill();
    OnGpu out(batch.tensors.out);
    OnGpu lse(batch.tensors.lse);
    for (const Late& one : late) cuda::fill_bytes(one.view.data, 0xFF, one.bytes, {});
    cuda::synchronize({});
    for (int i = 0; i < 20; ++i) {
      cuda::fill_bytes(busy.data(), static_cast<unsigned char>(i), busy.bytes(), producer.get());
    }
    for (const Late& one : late) {
      cuda::copy_on_device(one.view.data, one.ready.data, one.bytes, producer.get());
    }
    cuda::Event event(cuda::device(0));
    event.record(producer.get());
    event.wait_on(consumer.get());
    plan.update(gpu_batch, {PlanInput(attention, table)}, consumer.get());
    RunArgs args;
    args.out = out.view();
    args.lse = lse.view();
    args.stream = consumer.get();
    attention.run(plan, q, cache, args);
    out.download(consumer.get());
    lse.download(consumer.get());
    for (const std::int32_t word : plan.status()) EXPECT_EQ(word, 0);
    expect_right(batch);
  }
}

// Two plans, on one stream in turn and on two at once.
TEST_F(ThreadsOnGpu, PlansDoNotMeet) {
  const Attention attention(make_spec(kDims, DType::bf16, variants::causal()), kGpu);
  Plan first({attention}, kLimits);
  Plan second({attention}, kLimits);
  SimpleBatch a = draw_batch(5);
  SimpleBatch b = draw_batch(6);
  const Bytes a_bits = bits_of(a, first, attention, {});
  const Bytes b_bits = bits_of(b, second, attention, {});
  EXPECT_TRUE(a_bits == bits_of(a, second, attention, {}));
  EXPECT_TRUE(b_bits == bits_of(b, first, attention, {}));
  expect_right(a);
  expect_right(b);
}

constexpr const char* kChild = "ProcessesOnGpu.DISABLED_OneOfThem";

// Runs this program again with one test only; the kernel cache is under `folder`.
pid_t start_child(const std::string& folder) {
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable) {
    const std::string text = *variable;
    if (text.rfind("GTEST_", 0) != 0 && text.rfind("XDG_CACHE_HOME=", 0) != 0) {
      variables.push_back(text);
    }
  }
  variables.push_back("XDG_CACHE_HOME=" + folder);
  std::vector<std::string> arguments = {"/proc/self/exe", std::string("--gtest_filter=") + kChild,
                                        "--gtest_also_run_disabled_tests", "--gtest_brief=1"};
  const auto pointers = [](std::vector<std::string>& strings) {
    std::vector<char*> list;
    list.reserve(strings.size() + 1);
    for (std::string& text : strings) list.push_back(text.data());
    list.push_back(nullptr);
    return list;
  };
  pid_t child = -1;
  const int failed = posix_spawn(&child, "/proc/self/exe", nullptr, nullptr,
                                 pointers(arguments).data(), pointers(variables).data());
  EXPECT_EQ(failed, 0) << std::strerror(failed);
  return failed == 0 ? child : -1;
}

using ProcessesOnGpu = GpuTest;

// Started by the test below.
TEST_F(ProcessesOnGpu, DISABLED_OneOfThem) {
  const Attention attention(make_spec(kDims, DType::bf16, variants::causal(333)), kGpu);
  Plan plan({attention}, kLimits);
  plan.prepare();
  SimpleBatch batch = draw_batch(9);
  bits_of(batch, plan, attention, {});
  Semantics semantics;
  semantics.mask = [](const Element& at) {
    return at.kv_pos <= at.q_pos && at.kv_pos >= at.q_pos - 333;
  };
  batch.tensors.expect(batch.requests, semantics, {}, gpu_arithmetic(DType::bf16));
}

TEST_F(ProcessesOnGpu, FillOneCacheAtOnce) {
  const TemporaryFolder folder;
  std::vector<pid_t> children;
  children.reserve(3);
  for (int i = 0; i < 3; ++i) children.push_back(start_child(folder.path().string()));
  for (const pid_t child : children) {
    ASSERT_GT(child, 0);
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  }
  set_kernel_cache_path((folder.path() / "tilewright" / "kernels").string());
  const std::vector<KernelCacheEntry> entries = kernel_cache_entries();
  EXPECT_EQ(entries.size(), 2U);  // the attention's kernels, and those that make its plans
  for (const KernelCacheEntry& entry : entries) EXPECT_EQ(entry.damage, "") << entry.file;
  std::vector<std::string> others;  // than whole entries
  for (const auto& file :
       std::filesystem::recursive_directory_iterator(folder.path() / "tilewright" / "kernels")) {
    if (file.path().extension() != ".kernel") others.push_back(file.path().filename().string());
  }
  EXPECT_EQ(others, std::vector<std::string>{jit::kLockFile});  // nothing that is unfinished
  set_kernel_cache_path(first_cache_folder);
}

}  // namespace
}  // namespace tilewright::test
