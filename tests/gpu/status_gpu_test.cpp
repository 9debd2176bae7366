// SPDX-License-Identifier: Apache-2.0
// Lengths, ranges and pages that only the GPU knows to be wrong: the status word of that request
// says so, its outputs are zeros, and nothing else is touched.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "gpu/gpu_batch.h"
#include "support/expect_error.h"
#include "support/shared_prefix.h"
#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

constexpr Dims kDims{8, 2, 64, 64};
constexpr DType kDType = DType::bf16;
constexpr std::int32_t kMax = std::numeric_limits<std::int32_t>::max();

constexpr auto kQRange = static_cast<std::int32_t>(RequestStatus::q_range);
constexpr auto kKvLen = static_cast<std::int32_t>(RequestStatus::kv_len);
constexpr auto kPage = static_cast<std::int32_t>(RequestStatus::page);
constexpr auto kPosition = static_cast<std::int32_t>(RequestStatus::position);
constexpr auto kLevelRows = static_cast<std::int32_t>(RequestStatus::level_rows);
constexpr auto kNumRequests = static_cast<std::int32_t>(RequestStatus::num_requests);

using Words = std::vector<std::int32_t>;
using Rows = std::set<std::int64_t>;  // query tokens

Rows tokens_between(std::int64_t begin, std::int64_t end) {
  Rows tokens;
  for (std::int64_t token = begin; token < end; ++token) tokens.insert(token);
  return tokens;
}

// Outputs of one run, to be compared token by token.
struct Outputs {
  Tensor out, lse;

  explicit Outputs(std::int64_t rows)
      : out(kDType, {rows, kDims.qo_heads, kDims.value_dim},
            row_major({rows, kDims.qo_heads, kDims.value_dim}), kSentinel),
        lse(DType::f32, {rows, kDims.qo_heads}, row_major({rows, kDims.qo_heads}), kSentinel) {}

  RunArgs args() const {
    RunArgs args;
    args.out = out.view();
    args.lse = lse.view();
    return args;
  }

  bool equals(const Outputs& other, std::int64_t token) const {
    const auto row =
        static_cast<std::size_t>(kDims.qo_heads * kDims.value_dim * dtype_bytes(kDType));
    const auto logs = static_cast<std::size_t>(kDims.qo_heads) * sizeof(float);
    const auto at = static_cast<std::size_t>(token);
    const auto bytes_of = [](const Tensor& tensor) {
      return static_cast<const std::uint8_t*>(tensor.view().data);
    };
    return std::memcmp(bytes_of(out) + at * row, bytes_of(other.out) + at * row, row) == 0 &&
           std::memcmp(bytes_of(lse) + at * logs, bytes_of(other.lse) + at * logs, logs) == 0;
  }
  bool is_zero(std::int64_t token) const {
    for (std::int64_t head = 0; head < kDims.qo_heads; ++head) {
      if (lse.get({token, head}) != -INFINITY) return false;
      for (std::int64_t d = 0; d < kDims.value_dim; ++d) {
        if (out.get({token, head, d}) != 0) return false;
      }
    }
    return true;
  }
  bool is_untouched(std::int64_t token) const {
    for (std::int64_t head = 0; head < kDims.qo_heads; ++head) {
      if (!lse.untouched({token, head})) return false;
      for (std::int64_t d = 0; d < kDims.value_dim; ++d) {
        if (!out.untouched({token, head, d})) return false;
      }
    }
    return true;
  }
};

// A prefill, a decode over several blocks, a request without query tokens, an append, a decode.
class StatusOnGpu : public GpuTest {
 protected:
  static constexpr std::int64_t kPageSize = 16;

  StatusOnGpu()
      : batch_(kDims, kDType, Lengths{{70, 70}, {1, 300}, {0, 40}, {9, 200}, {1, 33}}, kPageSize,
               11) {
    limits_ = batch_.limits();
    limits_.requests = 7;
    limits_.q_tokens = 100;
    limits_.kv_len = 310;
  }

  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped()) return;
    attention_.emplace(make_spec(kDims, kDType, variants::causal()), kGpu);
    plan_.emplace(std::vector<Attention>{*attention_}, limits_);
  }

  Outputs outputs() const { return Outputs(batch_.tensors.rows); }
  std::vector<KvLevel> levels() const { return {KvLevel{batch_.table.table, {}, {}, {}, {}}}; }

  Words run(const Batch& batch, const std::vector<KvLevel>& levels, Outputs& into) {
    return run_on_gpu(*plan_, *attention_, batch, levels, {}, batch_.tensors.q.view(),
                      {batch_.cache.view()}, into.args());
  }

  // Runs the wrong batch, and the mended one, whose other tokens must have the same bits. Then a
  // good one: nothing is left behind.
  void expect_like(const Batch& wrong, const std::vector<KvLevel>& wrong_levels,
                   const Batch& mended, const Words& status, const Rows& zeros) {
    Outputs expected = outputs();
    for (const std::int32_t word : run(mended, levels(), expected)) EXPECT_EQ(word, 0);
    Outputs got = outputs();
    EXPECT_EQ(run(wrong, wrong_levels, got), status);
    for (std::int64_t token = 0; token < batch_.tensors.rows; ++token) {
      if (zeros.count(token) > 0) {
        EXPECT_TRUE(got.is_zero(token)) << "token " << token << " is not zero";
      } else {
        EXPECT_TRUE(got.equals(expected, token)) << "token " << token << " has other bits";
      }
    }
    EXPECT_TRUE(got.out.guards_intact());
    EXPECT_TRUE(got.lse.guards_intact());
    expect_good();
  }
  void expect_good() {
    Outputs first = outputs();
    for (const std::int32_t word : run(batch_.batch(), levels(), first)) EXPECT_EQ(word, 0);
    std::swap(batch_.tensors.out, first.out);
    std::swap(batch_.tensors.lse, first.lse);
    batch_.tensors.expect(batch_.requests, causal_semantics(), {}, gpu_arithmetic(kDType));
  }

  SimpleBatch batch_;  // tokens: 0-69, 70, none, 71-79, 80
  Limits limits_;
  std::optional<Attention> attention_;
  std::optional<Plan> plan_;
};

TEST_F(StatusOnGpu, LengthsThatAreNegativeOrOverALimit) {
  Extents mended_lens = kv_lengths(batch_.requests);
  Extents wrong_lens = mended_lens;
  mended_lens[3] = 0;
  const Tensor mended_tensor = int_tensor(mended_lens);
  Batch mended = batch_.batch();
  mended.kv_lens = mended_tensor.view();
  // Over the limit; over what the table's columns hold; below 0.
  for (const std::int64_t length :
       {std::int64_t{311}, std::int64_t{kMax}, std::int64_t{-1}, -std::int64_t{kMax} - 1}) {
    SCOPED_TRACE(length);
    wrong_lens[3] = length;
    const Tensor wrong_tensor = int_tensor(wrong_lens);
    Batch wrong = batch_.batch();
    wrong.kv_lens = wrong_tensor.view();
    expect_like(wrong, levels(), mended, {0, 0, 0, kKvLen, 0}, tokens_between(71, 80));
  }
}

TEST_F(StatusOnGpu, LengthsOverWhatTheTableHolds) {
  Extents lens = kv_lengths(batch_.requests);
  lens[1] = 0;
  const Tensor mended_tensor = int_tensor(lens);
  Batch mended = batch_.batch();
  mended.kv_lens = mended_tensor.view();
  // The second request's 300 tokens need 19 columns.
  std::vector<KvLevel> narrow = levels();
  narrow[0].table.indices = narrow[0].table.indices.slice(1, 0, 18);
  expect_like(batch_.batch(), narrow, mended, {0, kKvLen, 0, 0, 0}, tokens_between(70, 71));
}

TEST_F(StatusOnGpu, PagesBelowZero) {
  const TensorView right = batch_.table.indices.view();
  Tensor pages = int_matrix(right.shape[0], right.shape[1]);
  for (std::int64_t row = 0; row < right.shape[0]; ++row) {
    for (std::int64_t column = 0; column < right.shape[1]; ++column) {
      pages.set({row, column}, batch_.table.indices.get({row, column}));
    }
  }
  // The second request's last page; of the third one, which has no query tokens, nothing is read.
  pages.set({1, 18}, -1);
  pages.set({2, 0}, -5);
  std::vector<KvLevel> wrong = levels();
  wrong[0].table.indices = pages.view();
  expect_like(batch_.batch(), wrong, batch_.batch(), {0, kPage, 0, 0, 0}, tokens_between(70, 71));
}

TEST_F(StatusOnGpu, PagesBeyondACacheThatIsKnown) {
  std::vector<KvLevel> known = levels();
  known[0].table.num_pages = batch_.table.num_pages;
  for (const std::int64_t page : {batch_.table.num_pages, std::int64_t{kMax}, std::int64_t{-1}}) {
    SCOPED_TRACE(page);
    const double was = batch_.table.indices.get({3, 2});
    Outputs expected = outputs();
    EXPECT_EQ(run(batch_.batch(), known, expected), Words(5, 0));
    batch_.table.indices.set({3, 2}, static_cast<double>(page));
    Outputs got = outputs();
    EXPECT_EQ(run(batch_.batch(), known, got), (Words{0, 0, 0, kPage, 0}));
    batch_.table.indices.set({3, 2}, was);
    for (std::int64_t token = 0; token < batch_.tensors.rows; ++token) {
      const bool bad = token >= 71 && token < 80;
      EXPECT_TRUE(bad ? got.is_zero(token) : got.equals(expected, token)) << "token " << token;
    }
    EXPECT_TRUE(got.out.guards_intact());
    EXPECT_TRUE(got.lse.guards_intact());
    expect_good();
  }
}

// Where update() does not know the cache, a run reads nothing outside of it; what the request gets
// counts for nothing.
TEST_F(StatusOnGpu, PagesBeyondACacheThatIsNotKnown) {
  Outputs expected = outputs();
  run(batch_.batch(), levels(), expected);
  for (const std::int64_t page : {batch_.table.num_pages, std::int64_t{kMax}}) {
    SCOPED_TRACE(page);
    const double was = batch_.table.indices.get({3, 2});
    batch_.table.indices.set({3, 2}, static_cast<double>(page));
    Outputs got = outputs();
    EXPECT_EQ(run(batch_.batch(), levels(), got), Words(5, 0));
    batch_.table.indices.set({3, 2}, was);
    for (std::int64_t token = 0; token < batch_.tensors.rows; ++token) {
      if (token >= 71 && token < 80) continue;
      EXPECT_TRUE(got.equals(expected, token)) << "token " << token << " has other bits";
    }
    EXPECT_TRUE(got.out.guards_intact());
    EXPECT_TRUE(got.lse.guards_intact());
    expect_good();
  }
}

TEST_F(StatusOnGpu, RowIdsThatTheTableDoesNotHave) {
  Extents lens = kv_lengths(batch_.requests);
  lens[0] = lens[4] = 0;
  const Tensor mended_tensor = int_tensor(lens);
  Batch mended = batch_.batch();
  mended.kv_lens = mended_tensor.view();
  const Tensor ids = int_tensor({5, 1, 2, 3, -1});
  std::vector<KvLevel> wrong = levels();
  wrong[0].table.row_ids = ids.view();
  Rows zeros = tokens_between(0, 70);
  zeros.insert(80);
  expect_like(batch_.batch(), wrong, mended, {kPage, 0, 0, 0, kPage}, zeros);
}

// What can be kept of ranges that are wrong is kept; the requests whose own range is well have
// their tokens.
TEST_F(StatusOnGpu, QueryRangesThatDecreaseOrAreTooLong) {
  const auto run_indptr = [&](const Extents& indptr, Outputs& got) {
    const Tensor tensor = int_tensor(indptr);
    Batch batch = batch_.batch();
    batch.qo_indptr = tensor.view();
    return run(batch, levels(), got);
  };
  Outputs got = outputs();
  EXPECT_EQ(run_indptr({0, 70, 71, 71, 60, 81}, got), (Words{0, 0, 0, kQRange, kQRange}));
  EXPECT_TRUE(got.out.guards_intact());
  EXPECT_TRUE(got.lse.guards_intact());
  for (std::int64_t token = 71; token < 81; ++token) EXPECT_TRUE(got.is_zero(token)) << token;
  expect_good();
  // Longer than limits.q_len, 70.
  got = outputs();
  EXPECT_EQ(run_indptr({0, 71, 71, 71, 80, 81}, got), (Words{kQRange, 0, 0, 0, 0}));
  for (std::int64_t token = 0; token < 71; ++token) EXPECT_TRUE(got.is_zero(token)) << token;
  EXPECT_FALSE(got.is_zero(80));
  expect_good();
  got = outputs();
  EXPECT_EQ(run_indptr({0, 70, 71, 71, 2'000'000'000, -7}, got),
            (Words{0, 0, 0, kQRange, kQRange}));
  EXPECT_TRUE(got.out.guards_intact());
  EXPECT_FALSE(got.is_zero(70));
  expect_good();
  got = outputs();
  EXPECT_EQ(run_indptr({-3, 70, 71, 71, 80, 81}, got), (Words{kQRange, 0, 0, 0, 0}));
  for (std::int64_t token = 0; token < 70; ++token) EXPECT_TRUE(got.is_zero(token)) << token;
  EXPECT_TRUE(got.out.guards_intact());
  expect_good();
}

TEST_F(StatusOnGpu, MoreRequestsThanThereCanBe) {
  for (const std::int64_t count : {std::int64_t{6}, std::int64_t{kMax}}) {
    const Tensor tensor = int_tensor({count});
    Batch wrong = batch_.batch();
    wrong.num_requests = tensor.view();
    expect_like(wrong, levels(), batch_.batch(), Words(5, kNumRequests), tokens_between(0, 81));
  }
  // Fewer: the rest is not there.
  const Tensor none = int_tensor({-1});
  Batch wrong = batch_.batch();
  wrong.num_requests = none.view();
  Outputs got = outputs();
  run(wrong, levels(), got);
  for (std::int64_t token = 0; token < batch_.tensors.rows; ++token) {
    EXPECT_TRUE(got.is_untouched(token)) << token;
  }
  expect_good();
}

TEST_F(StatusOnGpu, PositionsBeyond32Bits) {
  const Tensor offsets = int_tensor({0, 299, 0, 191, kMax});
  const Tensor mended_offsets = int_tensor({0, 299, 0, kMax - 3, 32});
  // One query token at the last position there is; nine of them are too many.
  Batch wrong = batch_.batch();
  wrong.q_pos_offset = mended_offsets.view();
  Outputs got = outputs();
  EXPECT_EQ(run(wrong, levels(), got), (Words{0, 0, 0, kPosition, 0}));
  for (std::int64_t token = 71; token < 80; ++token) EXPECT_TRUE(got.is_zero(token)) << token;
  wrong.q_pos_offset = offsets.view();
  EXPECT_EQ(run(wrong, levels(), got), Words(5, 0));
  expect_good();
}

TEST_F(StatusOnGpu, MoreTokensThanQHasRows) {
  Outputs expected = outputs();
  run(batch_.batch(), levels(), expected);
  Outputs got = outputs();
  // The last request's token and three of the one before are not there.
  constexpr std::int64_t kRows = 77;
  RunArgs args = got.args();
  args.out = args.out.slice(0, 0, kRows);
  args.lse = args.lse.slice(0, 0, kRows);
  const Words status =
      run_on_gpu(*plan_, *attention_, batch_.batch(), levels(), {},
                 batch_.tensors.q.view().slice(0, 0, kRows), {batch_.cache.view()}, args);
  EXPECT_EQ(status, Words(5, 0));
  for (std::int64_t token = 0; token < batch_.tensors.rows; ++token) {
    EXPECT_TRUE(token < kRows ? got.equals(expected, token) : got.is_untouched(token)) << token;
  }
  EXPECT_TRUE(got.out.guards_intact());
  // The same where only q is short: rows of out behind it are kept.
  Outputs longer = outputs();
  run_on_gpu(*plan_, *attention_, batch_.batch(), levels(), {},
             batch_.tensors.q.view().slice(0, 0, kRows), {batch_.cache.view()}, longer.args());
  for (std::int64_t token = 0; token < batch_.tensors.rows; ++token) {
    EXPECT_TRUE(token < kRows ? longer.equals(expected, token) : longer.is_untouched(token))
        << token;
  }
}

// A row that several requests share: each of them is marked, the others are not touched.
TEST_F(StatusOnGpu, SharedRowsMarkTheirRequests) {
  SharedPrefix shared(kDims, kDType, 100, {{1, 5}, {1, 30}, {4, 20}, {1, 9}}, 3);
  Limits limits = shared.limits();
  limits.kv_len = 150;
  Plan plan({*attention_}, limits);
  const Tensor groups = int_tensor({0, 2, 7});
  const auto run_levels = [&](const Tensor& lens, const Tensor& rows, Outputs& into) {
    std::vector<KvLevel> levels = shared.levels();
    // Both groups read the same prefix.
    const Tensor ids = int_tensor({0, 0});
    Tensor pages = int_matrix(1, 128);
    for (std::int64_t i = 0; i < 128; ++i) {
      pages.set({0, i}, static_cast<double>(std::min<std::int64_t>(i, 99)));
    }
    levels[0].table = PageTable::token_slots(pages.view(), ids.view());
    levels[0].kv_lens = lens.view();
    levels[0].qo_indptr = rows.view();
    const BatchTensors tensors(shared.requests, kDims, kDType);
    return run_on_gpu(plan, *attention_, shared.batch(), levels, {}, tensors.q.view(),
                      shared.caches(), into.args());
  };
  Outputs good(7);
  EXPECT_EQ(run_levels(int_tensor({100, 100}), groups, good), Words(4, 0));
  BatchTensors check(shared.requests, kDims, kDType);
  check.out = std::move(good.out);
  check.lse = std::move(good.lse);
  check.expect(shared.requests, causal_semantics(), {}, gpu_arithmetic(kDType));
  for (const std::int64_t length : {-1, 129, 151}) {
    Outputs got(7);
    EXPECT_EQ(run_levels(int_tensor({100, length}), groups, got), (Words{0, 0, kKvLen, kKvLen}));
    for (std::int64_t token = 0; token < 7; ++token) {
      EXPECT_EQ(got.is_zero(token), token >= 2) << token;
    }
    EXPECT_TRUE(got.out.guards_intact());
  }
  // Rows that are malformed are everybody's.
  for (const Extents& rows : {Extents{-1, 2, 7}, Extents{0, 7, 2}, Extents{0, 2, 8}}) {
    Outputs got(7);
    EXPECT_EQ(run_levels(int_tensor({100, 100}), int_tensor(rows), got), Words(4, kLevelRows));
    for (std::int64_t token = 0; token < 7; ++token) EXPECT_TRUE(got.is_zero(token)) << token;
    EXPECT_TRUE(got.out.guards_intact());
  }
}

// There is no status before there is a batch.
TEST_F(StatusOnGpu, IsEmptyBeforeTheFirstUpdate) {
  EXPECT_TRUE(plan_->status().empty());
}

// The words of a batch with lengths over the limit, of some of its requests.
struct LongOnes {
  Extents lens;
  Words words;
};
LongOnes long_ones(const std::vector<Request>& requests, const std::vector<std::size_t>& which) {
  LongOnes made{kv_lengths(requests), Words(requests.size(), 0)};
  for (const std::size_t r : which) {
    made.lens[r] = 311;
    made.words[r] = kKvLen;
  }
  return made;
}

// Updates go round two arrays of words: a captured copy must follow them.
TEST_F(StatusOnGpu, CopiesOfAGraphAreThoseOfEachReplay) {
  const cuda::ContextScope scope(0);
  const cuda::OwnedStream stream(cuda::device(0));
  const cuda::PinnedBuffer pinned(cuda::device(0), 6 * sizeof(std::int32_t));
  auto* const words = static_cast<std::int32_t*>(pinned.data());
  Mirror lens(int_tensor(kv_lengths(batch_.requests)));
  GpuCopies copies;
  Batch own = copies.batch(batch_.batch());
  own.kv_lens = lens.gpu.view();
  const std::vector<KvLevel> own_levels = copies.levels(levels());
  plan_->prepare();
  cuda::synchronize({});
  const cuda::Graph graph(cuda::device(0), stream.get(), [&] {
    plan_->update(own, {PlanInput(*attention_, own_levels)}, stream.get());
    plan_->copy_status(TensorView(words, DType::i32, {6}), stream.get());
  });
  EXPECT_EQ(plan_->status(), Words(5, 0));  // nothing has run yet
  for (const std::vector<std::size_t>& which :
       {std::vector<std::size_t>{3}, {}, {1, 4}, {1}, {}, {}, {0, 3}}) {
    const LongOnes step = long_ones(batch_.requests, which);
    for (std::size_t r = 0; r < step.lens.size(); ++r) {
      lens.host.set({static_cast<std::int64_t>(r)}, static_cast<double>(step.lens[r]));
    }
    std::fill_n(words, 6, 77);
    lens.gpu.upload(stream.get());
    graph.launch(stream.get());
    cuda::synchronize(stream.get());
    EXPECT_EQ(Words(words, words + 5), step.words);
    EXPECT_EQ(words[5], 77);
    EXPECT_EQ(plan_->status(), step.words);
  }
}

TEST_F(StatusOnGpu, CopiesNeedPinnedMemory) {
  Outputs got = outputs();
  run(batch_.batch(), levels(), got);
  Words pageable(5, 77);
  expect_error_of(ErrorCode::invalid_argument, {"words is at", "page-locked"},
                  [&] { plan_->copy_status(TensorView(pageable.data(), DType::i32, {5})); });
  expect_good();
}

TEST_F(StatusOnGpu, DebugModeRaisesAtTheNextCall) {
  plan_->set_debug(true);
  expect_good();
  const LongOnes bad = long_ones(batch_.requests, {1, 3});
  const Tensor lens = int_tensor(bad.lens);
  Batch wrong = batch_.batch();
  wrong.kv_lens = lens.view();
  Outputs got = outputs();
  expect_error_of(ErrorCode::invalid_argument, {"request 1: kv_len (", "request 3: kv_len ("},
                  [&] { run(wrong, levels(), got); });
  EXPECT_EQ(plan_->status(), bad.words);
  expect_good();
  GpuCopies copies;
  const PlanInput input(*attention_, copies.levels(levels()));
  const Batch wrong_copy = copies.batch(wrong);
  const Batch good_copy = copies.batch(batch_.batch());
  plan_->update(wrong_copy, {input});
  expect_error_of(ErrorCode::invalid_argument, {"request 1: kv_len ("},
                  [&] { plan_->update(good_copy, {input}); });
  plan_->update(good_copy, {input});
  expect_good();
}

// qo_indptr may be longer than the plan's limit where num_requests tells how many count.
TEST_F(StatusOnGpu, HasNoMoreWordsThanThePlanHasRequests) {
  Extents indptr = query_indptr(batch_.requests);
  indptr.resize(40, -9);
  const Tensor padded = int_tensor(indptr);
  const Tensor count = int_tensor({5});
  Batch batch = batch_.batch();
  batch.qo_indptr = padded.view();
  batch.num_requests = count.view();
  Outputs got = outputs();
  EXPECT_EQ(run(batch, levels(), got), Words(7, 0));
  Outputs expected = outputs();
  run(batch_.batch(), levels(), expected);
  for (std::int64_t token = 0; token < batch_.tensors.rows; ++token) {
    EXPECT_TRUE(got.equals(expected, token)) << token;
  }
}

}  // namespace
}  // namespace tilewright::test
