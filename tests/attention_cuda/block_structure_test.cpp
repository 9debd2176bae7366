// SPDX-License-Identifier: Apache-2.0
// Block structures in the emulator: the outputs that there are without one, of fewer blocks; lists
// that the device finds wrong.
#include <algorithm>

#include "attention_cuda/compiled_cases.h"
#include "attention_cuda/emulated_attention.h"
#include "support/block_lists.h"
#include "support/expect_error.h"
#include "support/not_finite.h"
#include "support/simple_batch.h"
#include "tilewright/request_status.h"

namespace tilewright::test {
namespace {

const Lengths kLengths = {{150, 700}, {1, 900}, {40, 333}, {0, 5}, {1, 64}, {70, 70}, {3, 1}};

Semantics semantics_of(VariantKind kind, const Dims& dims) {
  Random random(1);
  return make_variant(kind, dims, 1, random).semantics;
}

class EmulatedBlocks {
 public:
  EmulatedBlocks(const CompiledCase& compiled, const Lengths& lengths, int workers = 5)
      : spec(CaseRun(compiled.attention).spec()),
        batch(compiled.attention.dims(), compiled.attention.q_dtype, lengths, 16, 3),
        semantics(semantics_of(compiled.attention.variant, batch.dims)),
        attention_(spec, compiled.target, limits(batch, workers)) {}

  static Limits limits(const SimpleBatch& batch, int workers) {
    Limits limits = batch.limits();
    limits.workers = workers;
    limits.block_structures = true;
    return limits;
  }

  // Updates and runs; returns the cost of what workers share.
  std::int64_t run(const BlockStructure& blocks, std::uint64_t seed) {
    batch.tensors.out.refill();
    batch.tensors.lse.refill();
    GuardedCopies copies;
    attention_.update(copies.batch(batch.batch()),
                      copies.levels({KvLevel{batch.table.table, {}, {}, {}, {}}}), {}, seed,
                      copies.blocks(blocks));
    const TensorView q = copies(batch.tensors.q.view());
    attention_.run(q, {copies.cache(batch.cache.view())}, copies.args(batch.tensors.args()), seed);
    copies.download();
    return attention_.header().b_cost;
  }
  void expect() { batch.tensors.expect(batch.requests, semantics); }
  std::vector<std::uint32_t> status() const {
    return attention_.status(static_cast<std::int64_t>(batch.requests.size()));
  }

  AttentionSpec spec;
  SimpleBatch batch;
  Semantics semantics;

 private:
  EmulatedAttention attention_;
};

class EmulatedBlockSizes : public testing::TestWithParam<std::pair<std::int64_t, std::int64_t>> {};
TEST_P(EmulatedBlockSizes, SameOutputsLessWork) {
  const auto [q_block, kv_block] = GetParam();
  for (const CompiledCase& compiled :
       {listed_stripes_64(), listed_causal_128(), scalar_listed_64()}) {
    // Batches of decoding requests have tiles of few rows.
    for (const Lengths& lengths :
         {kLengths, Lengths{{1, 900}, {1, 300}, {1, 0}, {1, 65}, {2, 700}}}) {
      EmulatedBlocks run(compiled, lengths);
      const std::int64_t without = run.run({}, 1);
      run.expect();
      BlockListCopy lists(
          block_structure(run.spec.variant, run.batch.batch(), {}, q_block, kv_block));
      const std::int64_t with = run.run(lists.view(), 2);
      run.expect();
      // Of coarse blocks every one is needed; and what a mask of one interval tells of each tile.
      const bool fine =
          compiled.attention.variant == VariantKind::striped && q_block >= 7 && kv_block <= 24;
      EXPECT_TRUE(fine ? with < without : with <= without) << with << " of " << without;
      Random random(7);
      lists.loosen((900 + kv_block - 1) / kv_block, random);
      EXPECT_GE(run.run(lists.view(), 3), with);
      run.expect();
      EXPECT_EQ(run.status(), std::vector<std::uint32_t>(lengths.size(), 0));
    }
  }
}
INSTANTIATE_TEST_SUITE_P(All, EmulatedBlockSizes,
                         testing::Values(std::pair(16, 16), std::pair(50, 24), std::pair(1, 64),
                                         std::pair(1000, 1000)));

// A mask of all heads, lists that differ: those of head 1 have more.
TEST(EmulatedBlockStructures, ListsMayDifferByHead) {
  EmulatedBlocks run(listed_stripes_64(), {{1, 1000}, {3, 500}});
  BlockListCopy lists(block_structure(run.spec.variant, run.batch.batch(), {}, 64, 64));
  const BlockListCopy once = lists;
  lists.indices.clear();
  lists.indptr = {0};
  for (std::size_t list = 0; list + 1 < once.indptr.size(); ++list) {
    lists.indices.insert(lists.indices.end(), once.indices.begin() + once.indptr[list],
                         once.indices.begin() + once.indptr[list + 1]);
    lists.indptr.push_back(static_cast<std::int32_t>(lists.indices.size()));
    for (std::int32_t block = 0; block < 16; ++block) lists.indices.push_back(block);
    lists.indptr.push_back(static_cast<std::int32_t>(lists.indices.size()));
  }
  lists.full.assign(lists.indices.size(), 0);
  lists.structure.num_kv_heads = 2;
  run.run(lists.view(), 1);
  run.expect();
}

// What the lists say is full is not masked: a list that lies shows it.
TEST(EmulatedBlockStructures, FullBlocksAreNotMasked) {
  EmulatedBlocks run(listed_stripes_64(), {{1, 640}, {30, 384}});
  BlockListCopy lists(block_structure(run.spec.variant, run.batch.batch(), {}, 64, 64));
  std::fill(lists.full.begin(), lists.full.end(), std::uint8_t{1});
  run.run(lists.view(), 1);
  const BlockListCopy known = lists;
  run.semantics.mask = [known](const Element& at) {
    const auto begin = known.indices.begin();
    const std::size_t list =
        static_cast<std::size_t>(known.request_rows[static_cast<std::size_t>(at.batch)]) +
        static_cast<std::size_t>(at.q_index / 64);
    return std::find(begin + known.indptr[list], begin + known.indptr[list + 1],
                     static_cast<std::int32_t>(at.kv_pos / 64)) != begin + known.indptr[list + 1];
  };
  run.expect();
}

TEST(EmulatedBlockStructures, WrongListsGiveZeros) {
  const Lengths lengths = {{1, 70}, {40, 190}, {1, 500}, {3, 20}};
  EmulatedBlocks run(listed_stripes_64(), lengths);
  const BlockListCopy good(block_structure(run.spec.variant, run.batch.batch(), {}, 16, 16));
  const auto entry_of = [&](std::size_t request) {
    return static_cast<std::size_t>(
        good.indptr[static_cast<std::size_t>(good.request_rows[request])]);
  };
  const auto expect = [&](const std::vector<std::size_t>& bad, const auto& change) {
    BlockListCopy lists = good;
    change(lists);
    run.run(lists.view(), bad.size());
    std::vector<std::uint32_t> words(lengths.size(), 0);
    for (const std::size_t r : bad) words[r] = static_cast<std::uint32_t>(RequestStatus::blocks);
    EXPECT_EQ(run.status(), words);
    std::int64_t first = 0;
    for (std::size_t r = 0; r < lengths.size(); ++r) {
      Expected expected = reference_attention(run.batch.requests[r], run.batch.dims, run.semantics,
                                              1 / std::sqrt(64.0));
      if (words[r] != 0) {
        std::fill(expected.out.begin(), expected.out.end(), 0.0);
        std::fill(expected.magnitude.begin(), expected.magnitude.end(), 0.0);
        std::fill(expected.lse.begin(), expected.lse.end(), -INFINITY);
      }
      EXPECT_TRUE(matches(run.batch.tensors.out, run.batch.tensors.lse, first, expected,
                          run.batch.dims, DType::bf16, fmt::format("request {}", r),
                          kRoundedWeights));
      first += lengths[r].first;
    }
  };
  expect({}, [](BlockListCopy&) {});
  expect({1}, [&](BlockListCopy& l) { l.indices[entry_of(1) + 1] = l.indices[entry_of(1)]; });
  expect({2}, [&](BlockListCopy& l) { l.indices[entry_of(2)] = -1; });
  expect({3}, [](BlockListCopy& l) { l.indptr.back() = 1 << 30; });
  expect({3}, [](BlockListCopy& l) { l.indices.pop_back(); });
  expect({3}, [](BlockListCopy& l) { l.full.pop_back(); });
  expect({3}, [](BlockListCopy& l) { l.indptr.pop_back(); });
  expect({1}, [](BlockListCopy& l) { l.request_rows[1] = 2; });
  expect({2}, [](BlockListCopy& l) { l.request_rows[3] = l.request_rows[2]; });
  expect({0, 1}, [](BlockListCopy& l) { l.request_rows[1] = 2000000000; });
  expect({0, 1}, [](BlockListCopy& l) { l.request_rows[1] = -2000000000; });
  expect({}, [](BlockListCopy&) {});
}

TEST(EmulatedBlockStructures, Errors) {
  EmulatedBlocks run(listed_stripes_64(), {{1, 70}, {3, 20}});
  const BlockListCopy good(block_structure(run.spec.variant, run.batch.batch(), {}, 16, 16));
  const auto expect = [&](const char* text, const auto& change) {
    BlockListCopy lists = good;
    change(lists);
    expect_error_of(ErrorCode::invalid_argument, {text}, [&] { run.run(lists.view(), 1); });
  };
  expect("blocks.q_block is 0", [](BlockListCopy& l) { l.structure.q_block = 0; });
  expect("blocks.kv_block is -1", [](BlockListCopy& l) { l.structure.kv_block = -1; });
  expect("blocks.num_kv_heads is 3", [](BlockListCopy& l) { l.structure.num_kv_heads = 3; });
  expect("blocks.request_rows is", [](BlockListCopy& l) { l.request_rows.pop_back(); });
  expect("blocks.indptr is", [](BlockListCopy& l) { l.indptr.clear(); });
}

// Plans are asked for them: others have neither the kernels nor the memory.
TEST(EmulatedBlockStructures, LimitsMustSaySo) {
  const CompiledCase compiled = sink_window_64();
  const AttentionSpec spec = CaseRun(compiled.attention).spec();
  const SimpleBatch batch(compiled.attention.dims(), DType::bf16, {{1, 20}}, 16, 1);
  EmulatedAttention attention(spec, compiled.target, batch.limits());
  expect_error_of(ErrorCode::limit_exceeded,
                  {"inputs[0].blocks is given", "limits.block_structures must be true"}, [&] {
                    attention.update(batch.batch(), {KvLevel{batch.table.table, {}, {}, {}, {}}},
                                     {}, 1, block_structure(spec.variant, batch.batch(), {}));
                  });
}

}  // namespace
}  // namespace tilewright::test
