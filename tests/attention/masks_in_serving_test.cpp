// SPDX-License-Identifier: Apache-2.0
// Acceptance of the API: masks that serving engines need. A tree of draft tokens (EAGLE), and
// layers with a window beside layers without, each with page tables of its own, in one plan.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <cmath>
#include <vector>

#include "support/batch.h"
#include "support/kv_forms.h"

namespace tilewright::test {
namespace {

// EAGLE: the last tokens of a request are the nodes of a tree; a node sees the accepted tokens and
// its ancestors. The tree is an integer tensor [requests, node, node].
class EagleTree : public testing::TestWithParam<Bind> {};

TEST_P(EagleTree, NodesSeeTheirAncestors) {
  const Dims dims{8, 2, 64, 64};
  constexpr DType kDType = DType::bf16;
  constexpr std::int64_t kNodes = 26;
  Random random(31);
  std::vector<Request> requests;
  for (const auto& [nodes, accepted] : {std::pair{26, 40}, {1, 300}, {13, 0}, {26, 63}}) {
    requests.push_back(
        random_request(random, dims, nodes, accepted + nodes, kDType, kDType, kDType));
  }
  Tensor tree(DType::i32, {static_cast<std::int64_t>(requests.size()), kNodes, kNodes});
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const auto row = static_cast<std::int64_t>(r);
    for (std::int64_t node = 0; node < kNodes; ++node) {
      const std::int64_t parent = node == 0 ? -1 : random.range(0, node - 1);
      for (std::int64_t other = 0; other < kNodes; ++other) {
        const bool ancestor =
            other == node || (parent >= 0 && other < node && tree.get({row, parent, other}) != 0);
        tree.set({row, node, other}, ancestor ? 1 : 0);
      }
    }
  }

  const Param param = Param::integer("tree", 3, GetParam());
  const Expr accepted = expr::kv_len() - expr::q_len();
  Variant variant;
  variant.mask = expr::kv_pos() < accepted ||
                 param(expr::batch(), expr::q_pos() - accepted, expr::kv_pos() - accepted) != 0;
  const Attention attention(make_spec(dims, kDType, variant));
  Limits limits;
  limits.requests = 4;
  limits.q_tokens = 4 * kNodes;
  limits.q_len = kNodes;
  limits.kv_len = 512;
  Plan plan({attention}, limits);
  const Table table = make_table(TableForm::padded, kv_lengths(requests), 16, random);
  Cache cache(CacheForm::combined_nhd, table.num_pages, 16, dims, kDType, kDType);
  fill_cache(cache, table, requests);
  const Tensor qo_indptr = int_tensor(query_indptr(requests));
  const Tensor kv_lens = int_tensor(kv_lengths(requests));
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  batch.kv_lens = kv_lens.view();
  const std::vector<ParamValue> params = {ParamValue("tree", tree.view())};
  BatchTensors tensors(requests, dims, kDType);
  RunArgs args = tensors.args();
  const KvLevel level{table.table, {}, {}, {}, {}};
  if (GetParam() == Bind::plan) {
    plan.update(batch, {PlanInput(attention, {level}, params)});
  } else {
    plan.update(batch, {PlanInput(attention, {level})});
    args.params = params;
  }
  attention.run(plan, tensors.q.view(), cache.view(), args);

  Semantics semantics;
  semantics.mask = [&tree](const Element& at) {
    const std::int64_t before = at.kv_len - at.q_len;
    return at.kv_pos < before || tree.get({at.batch, at.q_index, at.kv_pos - before}) != 0;
  };
  for (std::size_t r = 0; r < requests.size(); ++r) {
    requests[r].batch = static_cast<std::int64_t>(r);
  }
  tensors.expect(requests, semantics);
}
INSTANTIATE_TEST_SUITE_P(Binding, EagleTree, testing::Values(Bind::plan, Bind::run),
                         [](const testing::TestParamInfo<Bind>& value) {
                           return value.param == Bind::plan ? std::string("Plan")
                                                            : std::string("Run");
                         });

// Gemma, gpt-oss: layers with and without a window, and other head counts; a window's pages are
// given back when they leave it, and their entries name the null page 0.
TEST(WindowGroups, OnePlanTwoTablesOneUpdate) {
  const Dims full_dims{8, 2, 64, 64};
  const Dims window_dims{4, 4, 32, 32};
  constexpr DType kDType = DType::bf16;
  constexpr std::int64_t kPage = 8;
  constexpr std::int64_t kWindow = 20;
  Random random(32);
  std::vector<Request> full_requests;
  std::vector<Request> window_requests;
  for (const auto& [q, kv] : {std::pair{1, 150}, {5, 90}, {33, 33}, {1, 1}, {1, 21}}) {
    full_requests.push_back(random_request(random, full_dims, q, kv, kDType, kDType, kDType));
    window_requests.push_back(random_request(random, window_dims, q, kv, kDType, kDType, kDType));
  }
  const Extents lengths = kv_lengths(full_requests);
  const Table full_table = make_table(TableForm::csr, lengths, 16, random);
  Table window_table = make_table(TableForm::padded, lengths, kPage, random);
  Cache full_cache(CacheForm::combined_nhd, full_table.num_pages, 16, full_dims, kDType, kDType);
  // One page more: the null page is nobody's, so all others move up by one.
  Cache window_cache(CacheForm::separate_hnd, window_table.num_pages + 1, kPage, window_dims,
                     kDType, kDType);
  fill_cache(full_cache, full_table, full_requests);
  std::int64_t freed = 0;
  for (std::size_t r = 0; r < window_requests.size(); ++r) {
    const Request& request = window_requests[r];
    const std::int64_t oldest = request.q_pos[0] - kWindow;
    for (std::size_t c = 0; c < window_table.pages[r].size(); ++c) {
      const auto column = static_cast<std::int64_t>(c);
      const bool out_of_window = (column + 1) * kPage <= oldest;
      const std::int64_t page = out_of_window ? 0 : window_table.pages[r][c] + 1;
      freed += out_of_window;
      window_table.indices.set({static_cast<std::int64_t>(r), column}, static_cast<double>(page));
      for (std::int64_t i = 0; i < kPage && column * kPage + i < request.kv_len(); ++i) {
        if (!out_of_window) window_cache.put(page, i, request, column * kPage + i);
      }
    }
  }
  ASSERT_GT(freed, 10);

  const Attention full(make_spec(full_dims, kDType, variants::causal()));
  const Attention window(make_spec(window_dims, kDType, variants::causal(kWindow)));
  Limits limits;
  limits.requests = 5;
  limits.q_tokens = 64;
  limits.q_len = 40;
  limits.kv_len = 200;
  Plan plan({full, window}, limits);
  const Tensor qo_indptr = int_tensor(query_indptr(full_requests));
  const Tensor kv_lens = int_tensor(lengths);
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  batch.kv_lens = kv_lens.view();
  // In any order: inputs say whose they are.
  plan.update(batch, {PlanInput(window, window_table.table), PlanInput(full, full_table.table)});

  // Layers alternate.
  const std::vector<double> sinks = {0.5, -1.0, 2.0, 0.0};
  const Tensor sink_tensor = float_tensor(sinks);
  Semantics window_semantics;
  window_semantics.mask = [](const Element& at) {
    return at.kv_pos <= at.q_pos && at.kv_pos >= at.q_pos - kWindow;
  };
  for (int layer = 0; layer < 4; ++layer) {
    SCOPED_TRACE(layer);
    if (layer % 2 == 0) {
      BatchTensors tensors(window_requests, window_dims, kDType);
      RunArgs args = tensors.args();
      if (layer == 2) args.sinks = sink_tensor.view();
      window.run(plan, tensors.q.view(), window_cache.view(), args);
      tensors.expect(window_requests, window_semantics, layer == 2 ? sinks : std::vector<double>{});
    } else {
      BatchTensors tensors(full_requests, full_dims, kDType);
      full.run(plan, tensors.q.view(), full_cache.view(), tensors.args());
      tensors.expect(full_requests, causal_semantics());
    }
  }
  EXPECT_LT(plan.stats(window).kv_bytes, plan.stats(full).kv_bytes);
}

// A window leaves out what it does not see: the plan reads a few blocks of a long request.
TEST(WindowGroups, WindowsReadWhatTheySee) {
  const Dims dims{4, 2, 64, 64};
  Random random(33);
  const Extents lengths = {8000};
  const Table table = make_table(TableForm::csr, lengths, 16, random);
  const Attention full(make_spec(dims, DType::bf16, variants::causal()));
  const Attention window(make_spec(dims, DType::bf16, variants::causal(63)));
  Limits limits;
  limits.requests = 1;
  limits.q_tokens = 1;
  limits.q_len = 1;
  limits.kv_len = 8000;
  Plan plan({full, window}, limits);
  const Tensor qo_indptr = int_tensor({0, 1});
  const Tensor kv_lens = int_tensor(lengths);
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  batch.kv_lens = kv_lens.view();
  plan.update(batch, {PlanInput(full, table.table), PlanInput(window, table.table)});
  const PlanStats all = plan.stats(full);
  const PlanStats few = plan.stats(window);
  EXPECT_EQ(all.skipped_blocks, 0);
  EXPECT_GE(all.kv_bytes, 8000 * 2 * 2 * 64 * 2);
  EXPECT_GT(few.skipped_blocks, 0);
  EXPECT_LE(few.blocks * 10, all.blocks);
  EXPECT_EQ(few.blocks + few.skipped_blocks, all.blocks);
  EXPECT_LE(few.kv_bytes * 10, all.kv_bytes);
  EXPECT_LE(all.full_blocks, all.blocks);
  EXPECT_GT(all.full_blocks, 0);
}

}  // namespace
}  // namespace tilewright::test
