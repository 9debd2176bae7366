// SPDX-License-Identifier: Apache-2.0
// Block structures under plans: the same outputs, less work, lists of any length, and bad ones
// refused.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <set>
#include <string>
#include <vector>

#include "support/block_lists.h"
#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

const Dims kDims{4, 2, 16, 16};
const Lengths kLengths = {{150, 700}, {1, 900}, {40, 333}, {0, 5}, {1, 64}, {200, 200}, {3, 1}};

Variant striped() {
  Random random(1);
  return make_variant(VariantKind::striped, kDims, 1, random).variant;
}
Semantics striped_semantics() {
  Random random(1);
  return make_variant(VariantKind::striped, kDims, 1, random).semantics;
}

void run_and_expect(SimpleBatch& batch, Plan& plan, const BlockStructure& structure,
                    const Semantics& semantics) {
  const Attention& attention = plan.attentions()[0];
  std::vector<PlanInput> inputs = batch.inputs(attention);
  inputs[0].blocks = structure;
  plan.update(batch.batch(), inputs);
  batch.tensors.out.refill();
  batch.tensors.lse.refill();
  batch.run(plan, attention, batch.tensors.args());
  batch.tensors.expect(batch.requests, semantics);
}

class BlockSizes : public testing::TestWithParam<std::pair<std::int64_t, std::int64_t>> {};

TEST_P(BlockSizes, SameOutputsLessWork) {
  const auto [q_block, kv_block] = GetParam();
  SimpleBatch batch(kDims, DType::f32, kLengths, 16, 3);
  const Attention attention(make_spec(kDims, DType::f32, striped()));
  Plan plan({attention}, batch.limits());
  run_and_expect(batch, plan, {}, striped_semantics());
  const PlanStats without = plan.stats(attention);
  EXPECT_EQ(without.skipped_blocks, 0);
  const BlockStructure structure = block_structure(striped(), batch.batch(), {}, q_block, kv_block);
  run_and_expect(batch, plan, structure, striped_semantics());
  const PlanStats with = plan.stats(attention);
  EXPECT_EQ(with.blocks + with.skipped_blocks, without.blocks);
  // Lists of single tokens are too many to walk; of coarse blocks every one is needed here.
  if (q_block >= 7 && kv_block <= 64) {
    EXPECT_GT(with.skipped_blocks, 0);
    EXPECT_LT(with.kv_bytes, without.kv_bytes);
  }
  Random random(7);
  BlockListCopy lists(structure);
  for (int i = 0; i < 3; ++i) {
    lists.loosen((900 + kv_block - 1) / kv_block, random);
    run_and_expect(batch, plan, lists.view(), striped_semantics());
    EXPECT_GE(plan.stats(attention).blocks, with.blocks);
  }
  // A structure is that of one update.
  run_and_expect(batch, plan, {}, striped_semantics());
  EXPECT_EQ(plan.stats(attention).skipped_blocks, 0);
}
INSTANTIATE_TEST_SUITE_P(Blocks, BlockSizes,
                         testing::Values(std::pair(64, 64), std::pair(16, 16), std::pair(128, 128),
                                         std::pair(50, 24), std::pair(1, 64), std::pair(7, 1),
                                         std::pair(1000, 1000)));

// One query a request: what a plan computes can be counted from the lists.
TEST(BlockStructures, DecodeReadsWhatTheListsName) {
  const Lengths lengths = {{1, 5000}, {1, 3000}, {1, 64}, {1, 4097}};
  SimpleBatch batch(kDims, DType::f32, lengths, 64, 5);
  const Param blocks = Param::integer("blocks", 2);
  Variant variant;
  variant.mask = blocks(expr::batch(), floor_div(expr::kv_pos(), 48)) != 0;
  Random random(6);
  Tensor table(DType::u8, {4, 105});
  std::set<std::pair<std::int64_t, std::int64_t>> needed;  // request, block of 64 keys
  for (std::int64_t r = 0; r < 4; ++r) {
    for (std::int64_t block = 0; block < 105; ++block) {
      const bool seen =
          block * 48 < batch.requests[static_cast<std::size_t>(r)].kv_len() && random.chance(0.12);
      table.set({r, block}, seen ? 1 : 0);
      if (!seen) continue;
      const std::int64_t end =
          std::min(block * 48 + 48, batch.requests[static_cast<std::size_t>(r)].kv_len());
      for (std::int64_t key = block * 48; key < end; ++key) needed.emplace(r, key / 64);
    }
  }
  const std::vector<ParamValue> params = {{"blocks", table.view()}};
  const Attention attention(make_spec(kDims, DType::f32, variant));
  for (const int workers : {0, 3}) {
    Limits limits = batch.limits();
    limits.workers = workers;
    Plan plan({attention}, limits);
    std::vector<PlanInput> inputs = batch.inputs(attention, params);
    inputs[0].blocks = block_structure(variant, batch.batch(), params, 1, 48);
    plan.update(batch.batch(), inputs);
    EXPECT_EQ(plan.stats(attention).blocks,
              static_cast<std::int64_t>(needed.size()) * kDims.kv_heads);
    batch.run(plan, attention, batch.tensors.args());
    Semantics semantics;
    semantics.mask = [&](const Element& at) { return table.get({at.batch, at.kv_pos / 48}) != 0; };
    batch.tensors.expect(batch.requests, semantics);
  }
}

TEST(BlockStructures, ListsOfEachHead) {
  SimpleBatch batch(kDims, DType::f32, kLengths, 16, 8);
  Variant variant;
  variant.mask = bit_and(shift_right(expr::kv_pos(), 6) + expr::kv_head() * 3, 3) == 1;
  Semantics semantics;
  semantics.mask = [](const Element& at) { return (at.kv_pos / 64 + at.kv_head * 3) % 4 == 1; };
  const Attention attention(make_spec(kDims, DType::f32, variant));
  Plan plan({attention}, batch.limits());
  const BlockStructure structure =
      block_structure(variant, batch.batch(), {}, 64, 64, kDims.qo_heads, kDims.kv_heads);
  EXPECT_EQ(structure.num_kv_heads, kDims.kv_heads);
  run_and_expect(batch, plan, structure, semantics);
  EXPECT_GT(plan.stats(attention).skipped_blocks, 2 * plan.stats(attention).blocks);
}

// A mask of all heads, lists that differ: those of head 1 have more.
TEST(BlockStructures, ListsMayDifferByHeadWhereTheMaskDoesNot) {
  SimpleBatch batch(kDims, DType::f32, {{1, 1000}}, 16, 9);
  const Attention attention(make_spec(kDims, DType::f32, striped()));
  Plan plan({attention}, batch.limits());
  BlockListCopy lists(block_structure(striped(), batch.batch(), {}, 64, 64));
  const std::vector<std::int32_t> once = lists.indices;
  lists.indices.clear();
  lists.indices.insert(lists.indices.end(), once.begin(), once.end());
  for (std::int32_t block = 0; block < 16; ++block) lists.indices.push_back(block);
  lists.full.assign(lists.indices.size(), 0);
  lists.indptr = {0, static_cast<std::int32_t>(once.size()),
                  static_cast<std::int32_t>(lists.indices.size())};
  lists.structure.num_kv_heads = 2;
  run_and_expect(batch, plan, lists.view(), striped_semantics());
  EXPECT_EQ(plan.stats(attention).blocks, static_cast<std::int64_t>(lists.indices.size()));
}

TEST(BlockStructures, Errors) {
  SimpleBatch batch(kDims, DType::f32, kLengths, 16, 10);
  const Attention attention(make_spec(kDims, DType::f32, striped()));
  const Attention no_mask(make_spec(kDims, DType::f32, variants::full()));
  Plan plan({attention}, batch.limits());
  Plan full_plan({no_mask}, batch.limits());
  const BlockListCopy good(block_structure(striped(), batch.batch(), {}));
  const auto error = [&](Plan& of, const auto& change) {
    BlockListCopy lists = good;
    change(lists);
    std::vector<PlanInput> inputs = batch.inputs(of.attentions()[0]);
    inputs[0].blocks = lists.view();
    try {
      of.update(batch.batch(), inputs);
    } catch (const Error& raised) {
      EXPECT_EQ(raised.code(), ErrorCode::invalid_argument);
      return std::string(raised.what());
    }
    return std::string("no error");
  };
  const auto expect = [&](const char* text, const auto& change) {
    const std::string message = error(plan, change);
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  expect("blocks.q_block is 0", [](BlockListCopy& l) { l.structure.q_block = 0; });
  expect("blocks.kv_block is -1", [](BlockListCopy& l) { l.structure.kv_block = -1; });
  expect("blocks.num_kv_heads is 3", [](BlockListCopy& l) { l.structure.num_kv_heads = 3; });
  expect("blocks.request_rows is", [](BlockListCopy& l) { l.request_rows.pop_back(); });
  expect("request 5 3 rows: 200 query tokens need 4", [](BlockListCopy& l) {
    for (std::size_t r = 6; r < l.request_rows.size(); ++r) --l.request_rows[r];
  });
  expect("must not decrease", [](BlockListCopy& l) { l.indptr[1] = 100000; });
  expect("blocks.indices is", [](BlockListCopy& l) { l.indices.pop_back(); });
  expect("blocks.indices[1] is", [](BlockListCopy& l) { l.indices[1] = l.indices[0]; });
  expect("blocks.indices[0] is -1", [](BlockListCopy& l) { l.indices[0] = -1; });
  expect("blocks.full is", [](BlockListCopy& l) { l.full.pop_back(); });
  EXPECT_NE(error(full_plan, [](BlockListCopy&) {}).find("the variant must have a mask"),
            std::string::npos);
  EXPECT_EQ(error(plan, [](BlockListCopy&) {}), "no error");
}

}  // namespace
}  // namespace tilewright::test
