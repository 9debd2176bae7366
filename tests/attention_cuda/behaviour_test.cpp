// SPDX-License-Identifier: Apache-2.0
// What the attention kernels promise beyond their numbers: batch invariance, requests that are
// wrong, pages that the cache does not have, batches whose size the device tells.
#include <algorithm>

#include "attention_cuda/compiled_cases.h"
#include "attention_cuda/emulated_attention.h"
#include "support/expect_error.h"
#include "support/shared_prefix.h"
#include "support/simple_batch.h"
#include "tilewright/request_status.h"

namespace tilewright::test {
namespace {

AttentionSpec spec_of(const CompiledCase& compiled) {
  return CaseRun(compiled.attention).spec();
}

// Updates and runs; out and lse of `batch` hold the result.
void run_batch(EmulatedAttention& attention, SimpleBatch& batch, const Batch& view, RunArgs args,
               std::uint64_t seed) {
  batch.tensors.out.refill();
  batch.tensors.lse.refill();
  GuardedCopies copies;
  const Batch own_batch = copies.batch(view);
  const auto levels = copies.levels({KvLevel{batch.table.table, {}, {}, {}, {}}});
  attention.update(own_batch, levels, {}, seed);
  const TensorView q = copies(batch.tensors.q.view());
  const std::vector<KvCache> kv = {copies.cache(batch.cache.view())};
  attention.run(q, kv, copies.args(std::move(args)), seed);
  copies.download();
}

// The bytes of a request's rows of out and lse.
std::vector<std::uint8_t> rows_of(const SimpleBatch& batch, std::size_t request) {
  std::int64_t first = 0;
  for (std::size_t r = 0; r < request; ++r) first += batch.requests[r].q_len();
  const std::int64_t tokens = batch.requests[request].q_len();
  std::vector<std::uint8_t> bytes;
  for (const TensorView& whole : {batch.tensors.out.view(), batch.tensors.lse.view()}) {
    const TensorView rows = whole.slice(0, first, first + tokens);
    const auto* data = static_cast<const std::uint8_t*>(rows.data);
    bytes.insert(bytes.end(), data, data + body_bytes(rows));
  }
  return bytes;
}

TEST(EmulatedBehaviour, ABatchInvariantRequestHasTheSameBitsInAnyBatch) {
  const Lengths lengths = {{1, 70}, {33, 90}, {1, 600}, {3, 3}, {1, 0}, {60, 200}};
  for (const CompiledCase& compiled : {causal_128_ampere(), sink_window_64(), scalar_causal_64()}) {
    const Dims dims = compiled.attention.dims();
    const DType dtype = compiled.attention.q_dtype;
    Limits limits{6, 120, 80, 700};
    limits.determinism = Determinism::batch_invariant;
    limits.workers = 5;
    EmulatedAttention attention(spec_of(compiled), compiled.target, limits);
    SimpleBatch together(dims, dtype, lengths, 16, 3);
    run_batch(attention, together, together.batch(), together.tensors.args(), 1);
    for (std::size_t r = 0; r < lengths.size(); ++r) {
      SimpleBatch alone(dims, dtype, std::vector<Request>{together.requests[r]}, 16, 40 + r);
      run_batch(attention, alone, alone.batch(), alone.tensors.args(), 2 + r);
      EXPECT_TRUE(rows_of(together, r) == rows_of(alone, 0)) << "request " << r;
    }
  }
}

// Keys of one shard of a context-parallel cache: their positions are not consecutive.
TEST(EmulatedBehaviour, ShardsTellPositions) {
  const CompiledCase compiled = causal_128_ampere();
  const Dims dims = compiled.attention.dims();
  std::vector<Request> requests =
      SimpleBatch::draw(dims, DType::bf16, {{1, 100}, {30, 70}, {2, 0}, {1, 333}}, 4);
  Extents offsets;
  for (Request& request : requests) {
    const std::int64_t kv_len = request.kv_len();
    for (std::int64_t i = 0; i < kv_len; ++i) request.kv_pos[i] = (i / 4 * 3 + 1) * 4 + i % 4;
    offsets.push_back(2 * kv_len);
    for (std::int64_t i = 0; i < request.q_len(); ++i) request.q_pos[i] = offsets.back() + i;
  }
  SimpleBatch batch(dims, DType::bf16, requests, 5, 4);
  const Tensor q_pos_offset = int_tensor(offsets);
  Batch view = batch.batch();
  view.q_pos_offset = q_pos_offset.view();
  view.interleave = {4, 3, 1};
  EmulatedAttention attention(spec_of(compiled), compiled.target, batch.limits());
  run_batch(attention, batch, view, batch.tensors.args(), 1);
  batch.tensors.expect(batch.requests, causal_semantics());
}

// Tensors that start or whose rows start between units of 16 bytes are refused, with what to do.
TEST(EmulatedBehaviour, TensorsMustBeAligned) {
  const CompiledCase compiled = sink_window_64();
  SimpleBatch batch(compiled.attention.dims(), DType::bf16, {{1, 20}, {3, 9}}, 8, 3);
  EmulatedAttention attention(spec_of(compiled), compiled.target, batch.limits());
  run_batch(attention, batch, batch.batch(), batch.tensors.args(), 1);
  const TensorView q = batch.tensors.q.view();
  const KvCache kv = batch.cache.view();
  const auto expect_refused = [&](const char* name, const TensorView& query, const KvCache& cache,
                                  const TensorView& out) {
    RunArgs args = batch.tensors.args();
    args.out = out;
    expect_error_of(ErrorCode::invalid_argument,
                    {name, "bfloat16", "multiples of 16 bytes", "copy it to a tensor of its own"},
                    [&] { attention.run(query, {cache}, args, 1); });
  };
  const auto moved = [](TensorView tensor) {
    tensor.data = static_cast<std::byte*>(tensor.data) + 2;
    return tensor;
  };
  const auto wider = [](TensorView tensor) {
    tensor.strides[0] += 1;
    return tensor;
  };
  expect_refused("q is", moved(q), kv, batch.tensors.out.view());
  expect_refused("kv.k is", q, KvCache::separate(moved(kv.k), kv.v), batch.tensors.out.view());
  expect_refused("kv.v is", q, KvCache::separate(kv.k, wider(kv.v)), batch.tensors.out.view());
  expect_refused("out is", q, kv, moved(batch.tensors.out.view()));
}

class BadRequests : public testing::Test {
 protected:
  BadRequests()
      : compiled_(sink_window_64()),
        batch_(compiled_.attention.dims(), DType::bf16, {{1, 70}, {40, 90}, {1, 500}, {3, 20}}, 8,
               5) {}

  Semantics semantics() const {
    Random random(1);
    return make_variant(VariantKind::sink_window, batch_.dims, 4, random).semantics;
  }

  // Request `bad` has zeros; the others are as ever.
  void expect_zeros(std::size_t bad) {
    const std::vector<std::uint8_t> rows = rows_of(batch_, bad);
    const std::size_t lse_bytes =
        static_cast<std::size_t>(batch_.requests[bad].q_len() * batch_.dims.qo_heads) * 4;
    EXPECT_TRUE(std::all_of(rows.begin(), rows.end() - static_cast<std::ptrdiff_t>(lse_bytes),
                            [](std::uint8_t byte) { return byte == 0; }));
    std::int64_t token = 0;
    for (std::size_t r = 0; r < bad; ++r) token += batch_.requests[r].q_len();
    for (int head = 0; head < batch_.dims.qo_heads; ++head) {
      EXPECT_EQ(batch_.tensors.lse.get({token, head}), -INFINITY);
    }
    expect_others(bad);
  }
  void expect_others(std::size_t bad) {
    std::int64_t first = 0;
    for (std::size_t r = 0; r < batch_.requests.size(); ++r) {
      const Expected expected =
          reference_attention(batch_.requests[r], batch_.dims, semantics(), 1 / std::sqrt(64.0));
      if (r != bad) {
        EXPECT_TRUE(matches(batch_.tensors.out, batch_.tensors.lse, first, expected, batch_.dims,
                            DType::bf16, fmt::format("request {}", r), kRoundedWeights));
      }
      first += batch_.requests[r].q_len();
    }
    EXPECT_TRUE(batch_.tensors.out.guards_intact());
  }

  EmulatedAttention attention(int workers) const {
    Limits limits{4, 50, 40, 600};
    limits.workers = workers;
    return {spec_of(compiled_), compiled_.target, limits};
  }

  CompiledCase compiled_;
  SimpleBatch batch_;
};

TEST_F(BadRequests, GetZeros) {
  for (const std::size_t bad : {0, 1, 2}) {
    const std::vector<std::int64_t> lengths = {70, 90, 500, 20};
    // Negative page ids are found when the plan is made, and so are lengths over the limit.
    for (const bool by_length : {false, true}) {
      SCOPED_TRACE(testing::Message() << "request " << bad << " length " << by_length);
      EmulatedAttention run = attention(bad == 2 ? 6 : 2);
      const std::int64_t column = lengths[bad] / 8 / 2;
      const auto page = static_cast<std::int64_t>(bad);
      const double before = batch_.table.indices.get({page, column});
      Extents changed = lengths;
      if (by_length) {
        changed[bad] = 601;
      } else {
        batch_.table.indices.set({page, column}, -5);
      }
      const Tensor kv_lens = int_tensor(changed);
      Batch view = batch_.batch();
      view.kv_lens = kv_lens.view();
      run_batch(run, batch_, view, batch_.tensors.args(), bad);
      std::vector<std::uint32_t> expected(4, 0);
      expected[bad] =
          static_cast<std::uint32_t>(by_length ? RequestStatus::kv_len : RequestStatus::page);
      EXPECT_EQ(run.status(4), expected);
      expect_zeros(bad);
      batch_.table.indices.set({page, column}, before);
    }
  }
}

// Only a run knows how many pages the cache has: their keys are left out, and no address is made
// of such an id.
TEST_F(BadRequests, PagesBehindTheCacheAreLeftOut) {
  for (const std::int64_t page : {batch_.table.num_pages, std::int64_t{1} << 30}) {
    EmulatedAttention run = attention(4);
    const double before = batch_.table.indices.get({1, 10});
    batch_.table.indices.set({1, 10}, static_cast<double>(page));
    run_batch(run, batch_, batch_.batch(), batch_.tensors.args(), 1);
    batch_.table.indices.set({1, 10}, before);
    EXPECT_EQ(run.status(4), std::vector<std::uint32_t>(4, 0));
    expect_others(1);
    Semantics without = semantics();
    const auto mask = without.mask;
    without.mask = [mask](const Element& at) { return mask(at) && at.kv_pos / 8 != 10; };
    const Expected expected =
        reference_attention(batch_.requests[1], batch_.dims, without, 1 / std::sqrt(64.0));
    EXPECT_TRUE(matches(batch_.tensors.out, batch_.tensors.lse, 1, expected, batch_.dims,
                        DType::bf16, "request 1", kRoundedWeights));
  }
}

// As a captured graph has it: tensors for four requests, of which there are two.
TEST_F(BadRequests, TheDeviceTellsHowManyThereAre) {
  const Tensor count = int_tensor({2});
  Batch view = batch_.batch();
  view.num_requests = count.view();
  for (const Padding padding : {Padding::zero, Padding::keep}) {
    EmulatedAttention run = attention(3);
    RunArgs args = batch_.tensors.args();
    args.padding = padding;
    run_batch(run, batch_, view, args, 1);
    EXPECT_EQ(run.header().q_tokens, 41);
    BatchTensors& tensors = batch_.tensors;
    for (std::int64_t token = 41; token < tensors.rows; ++token) {
      for (int head = 0; head < batch_.dims.qo_heads; ++head) {
        EXPECT_TRUE(padding == Padding::zero ? tensors.lse.get({token, head}) == -INFINITY
                                             : tensors.lse.untouched({token, head}));
        for (int d = 0; d < 64; ++d) {
          ASSERT_TRUE(padding == Padding::zero ? tensors.out.get({token, head, d}) == 0
                                               : tensors.out.untouched({token, head, d}));
        }
      }
    }
  }
}

// What explain_batch() counts on the host is what the device's kernel made.
void expect_as_explained(const plan::Header& header, const CompiledCase& compiled,
                         const Limits& limits, const std::vector<RequestLengths>& explained) {
  // As the emulator's.
  const GpuModel gpu = {
      "", compiled.target.major == 9 ? "sm_90a" : "sm_80", 2, std::int64_t{1} << 20, 1e12, 1e12};
  const BatchWork work = explain_batch(spec_of(compiled), limits, explained, gpu);
  EXPECT_EQ(work.a_items, header.a_items);
  EXPECT_EQ(work.b_items, header.b_items);
  EXPECT_EQ(work.b_workers, header.b_items > 0 ? header.workers : 0);
  EXPECT_EQ(work.stats.folded_rows, header.num_segments - header.num_rows);
  EXPECT_GE(work.stats.split_tiles, header.num_splits);
  EXPECT_EQ(work.stats.split_tiles > 0, header.num_splits > 0);
}

TEST(EmulatedBehaviour, SchedulesAreThoseThatAreExplained) {
  for (const Lengths& lengths :
       {Lengths{{1, 70}, {1, 900}, {1, 33}}, Lengths{{1, 500}, {1, 500}, {200, 400}, {3, 90}}}) {
    for (const CompiledCase& compiled : {causal_128(), causal_128_ampere()}) {
      SimpleBatch batch(compiled.attention.dims(), compiled.attention.q_dtype, lengths, 16, 5);
      std::vector<RequestLengths> explained;
      for (const auto& [q_len, kv_len] : lengths) explained.push_back({1, q_len, kv_len});
      const Limits limits = limits_of(explained);
      const AttentionSpec spec = spec_of(compiled);
      EmulatedAttention attention(spec, compiled.target, limits);
      GuardedCopies copies;
      const Batch own_batch = copies.batch(batch.batch());
      attention.update(own_batch, copies.levels({KvLevel{batch.table.table, {}, {}, {}, {}}}), {},
                       1);
      expect_as_explained(attention.header(), compiled, limits, explained);
    }
  }
}

TEST(EmulatedBehaviour, SchedulesOfSharedPrefixesAreThoseThatAreExplained) {
  struct Row {
    int requests;
    int q_len;
    int own_len;
    int prefix;
  };
  // The last one's prefix is read by each request.
  for (const Row& row : {Row{6, 1, 64, 700}, Row{3, 20, 33, 300}, Row{2, 1, 30, 20}}) {
    for (const CompiledCase& compiled : {causal_128(), causal_128_ampere()}) {
      const SharedPrefix batch(compiled.attention.dims(), compiled.attention.q_dtype, row.prefix,
                               Lengths(row.requests, {row.q_len, row.own_len}), 9);
      const std::vector<RequestLengths> explained = {
          {row.requests, row.q_len, row.prefix + row.own_len, row.prefix}};
      const Limits limits = limits_of(explained);
      EmulatedAttention attention(spec_of(compiled), compiled.target, limits);
      GuardedCopies copies;
      const Batch own_batch = copies.batch(batch.batch());
      attention.update(own_batch, copies.levels(batch.levels()), {}, 1);
      expect_as_explained(attention.header(), compiled, limits, explained);
    }
  }
}

}  // namespace
}  // namespace tilewright::test
