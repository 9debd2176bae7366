// SPDX-License-Identifier: Apache-2.0
// Speculative verification in C: what C++ writes, and the same errors.
#include <functional>

#include "c_api/c_support.h"
#include "sampling/verify_support.h"

namespace tilewright::test {
namespace {

constexpr std::int64_t kRequests = 3;
constexpr std::int64_t kNodes = 4;
constexpr std::int64_t kVocabulary = 60;

class CSpeculative : public testing::Test {
 protected:
  CSpeculative()
      : random_(1),
        target_(rows(kNodes)),
        draft_(rows(kNodes)),
        drafts_(DType::i32, {kRequests, kNodes - 1}),
        tree_(random_trees(random_, kRequests, kNodes, kVocabulary, DType::i32)) {
    pull_towards(target_, draft_, 0.7);
    for (std::int64_t i = 0; i < kRequests * (kNodes - 1); ++i) {
      drafts_.set({i / (kNodes - 1), i % (kNodes - 1)},
                  static_cast<double>(random_.range(0, kVocabulary - 1)));
    }
  }

  Tensor rows(std::int64_t nodes) {
    return random_rows(random_, RowKind::normal, {kRequests, nodes, kVocabulary}, DType::f32,
                       false);
  }

  static void expect_same(const VerifyResults& got, const VerifyResults& expected) {
    EXPECT_EQ(got.tokens.snapshot(), expected.tokens.snapshot());
    EXPECT_EQ(got.nodes.snapshot(), expected.nodes.snapshot());
    EXPECT_EQ(got.emitted.snapshot(), expected.emitted.snapshot());
    EXPECT_EQ(got.accepted.snapshot(), expected.accepted.snapshot());
    EXPECT_EQ(got.status.snapshot(), expected.status.snapshot());
  }

  tw_status chain(const tw_verify_args& args, const VerifyResults& results,
                  const TensorView& counts) {
    const tw_tensor target = to_c(target_.view());
    const tw_tensor drafts = to_c(drafts_.view());
    const tw_tensor c_counts = to_c(counts);
    const tw_tensor tokens = to_c(results.tokens.view());
    const tw_tensor emitted = to_c(results.emitted.view());
    const tw_tensor accepted = to_c(results.accepted.view());
    return tw_verify_chain(&target, &drafts, counts.defined() ? &c_counts : nullptr, &args, &tokens,
                           &emitted, &accepted);
  }

  tw_status tree(const tw_verify_args& args, const VerifyResults& results) {
    const tw_tensor target = to_c(target_.view());
    const tw_tensor tree_tokens = to_c(tree_.tokens.view());
    const tw_tensor next_token = to_c(tree_.next_token.view());
    const tw_tensor next_sibling = to_c(tree_.next_sibling.view());
    const tw_tensor tokens = to_c(results.tokens.view());
    const tw_tensor nodes = to_c(results.nodes.view());
    const tw_tensor accepted = to_c(results.emitted.view());
    return tw_verify_tree(&target, &tree_tokens, &next_token, &next_sibling, &args, &tokens, &nodes,
                          &accepted);
  }

  Random random_;
  Tensor target_;
  Tensor draft_;
  Tensor drafts_;
  TreeTensors tree_;
};

TEST_F(CSpeculative, Chain) {
  auto args = sized<tw_verify_args>();
  VerifyArgs cpp;
  TensorView counts;
  const auto same = [&] {
    VerifyResults got(kRequests, kNodes);
    VerifyResults expected(kRequests, kNodes);
    args.status = to_c(got.status.view());
    cpp.status = expected.status.view();
    verify_chain(target_.view(), drafts_.view(), counts, cpp, expected.tokens.view(),
                 expected.emitted.view(), expected.accepted.view());
    EXPECT_OK(chain(args, got, counts));
    expect_same(got, expected);
  };
  same();
  auto sampling = sized<tw_sampling_args>();
  const tw_real temperature = {0.6F, {}};
  const tw_integer seed = {99, {}};
  sampling.temperature = &temperature;
  sampling.seeds = &seed;
  args.sampling = &sampling;
  cpp.sampling.temperature = 0.6F;
  cpp.sampling.seeds = 99;
  same();
  args.draft = to_c(draft_.view().slice(1, 0, kNodes - 1));
  cpp.draft = draft_.view().slice(1, 0, kNodes - 1);
  const Tensor some = int_tensor({3, 0, 2});
  counts = some.view();
  same();
  const float threshold_single = 0.02F;
  const float threshold_acc = 0.4F;
  args.threshold_single = &threshold_single;
  cpp.threshold_single = threshold_single;
  same();
  args.threshold_acc = &threshold_acc;
  cpp.threshold_acc = threshold_acc;
  same();
  const Tensor coins(DType::i64, {kRequests, kNodes - 1}, {kNodes - 1, 1}, 0x5B);
  const Tensor final_coins = float_tensor({0.3, 0.9, 0.001});
  Tensor allowed(DType::i32, {kRequests, kNodes, 2}, {2 * kNodes, 2, 1}, 0x6D);
  args.coins = to_c(coins.view());
  cpp.coins = coins.view();
  args.final_coins = to_c(final_coins.view());
  cpp.final_coins = final_coins.view();
  args.allowed = to_c(allowed.view());
  cpp.allowed = allowed.view();
  same();
  args.input = TW_VERIFY_PROBABILITIES;
  cpp.input = VerifyInput::probabilities;
  same();
}

TEST_F(CSpeculative, Tree) {
  auto args = sized<tw_verify_args>();
  VerifyArgs cpp;
  for (const bool with_draft : {false, true}) {
    if (with_draft) {
      args.draft = to_c(draft_.view());
      cpp.draft = draft_.view();
    }
    VerifyResults got(kRequests, kNodes);
    VerifyResults expected(kRequests, kNodes);
    verify_tree(target_.view(), tree_.view(), cpp, expected.tokens.view(), expected.nodes.view(),
                expected.emitted.view());
    EXPECT_OK(tree(args, got));
    expect_same(got, expected);
  }
}

TEST_F(CSpeculative, LinksAndWorkspace) {
  Tensor next_token(DType::i32, {kRequests, kNodes});
  Tensor next_sibling(DType::i32, {kRequests, kNodes});
  const tw_tensor parents = to_c(tree_.parents.view());
  const tw_tensor c_next_token = to_c(next_token.view());
  const tw_tensor c_next_sibling = to_c(next_sibling.view());
  EXPECT_OK(tw_tree_links(&parents, &c_next_token, &c_next_sibling));
  EXPECT_EQ(next_token.snapshot(), tree_.next_token.snapshot());
  EXPECT_EQ(next_sibling.snapshot(), tree_.next_sibling.snapshot());
  std::int64_t elements = 0;
  EXPECT_OK(tw_verify_workspace_size(kRequests, kNodes, &elements));
  EXPECT_EQ(elements, verify_workspace_size(kRequests, kNodes));
  expect_invalid(tw_verify_workspace_size(-1, kNodes, &elements), {"requests is -1"});
}

TEST_F(CSpeculative, Errors) {
  auto args = sized<tw_verify_args>();
  const VerifyResults results(kRequests, kNodes);
  args.input = 2;
  expect_invalid(chain(args, results, {}), {"args.input is 2"});
  args.input = TW_VERIFY_LOGITS;
  const float threshold = 2;
  args.threshold_acc = &threshold;
  expect_invalid(tree(args, results), {"threshold_acc is 2", "[0, 1]"});
  args.threshold_acc = nullptr;
  auto sampling = sized<tw_sampling_args>();
  sampling.size = 3;
  args.sampling = &sampling;
  expect_invalid(chain(args, results, {}), {"args.sampling.size is 3"});
  sampling.size = sizeof(sampling);
  args.reserved = 1;
  expect_invalid(chain(args, results, {}), {"args.reserved is 1"});
}

TEST_F(CSpeculative, Nulls) {
  const auto args = sized<tw_verify_args>();
  const tw_tensor t = to_c(target_.view());
  using Call = std::function<tw_status()>;
  const std::vector<std::pair<const char*, Call>> calls = {
      {"target", [&] { return tw_verify_chain(nullptr, &t, &t, &args, &t, &t, &t); }},
      {"draft_tokens", [&] { return tw_verify_chain(&t, nullptr, &t, &args, &t, &t, &t); }},
      {"args", [&] { return tw_verify_chain(&t, &t, &t, nullptr, &t, &t, &t); }},
      {"tokens", [&] { return tw_verify_chain(&t, &t, &t, &args, nullptr, &t, &t); }},
      {"emitted", [&] { return tw_verify_chain(&t, &t, &t, &args, &t, nullptr, &t); }},
      {"target", [&] { return tw_verify_tree(nullptr, &t, &t, &t, &args, &t, &t, &t); }},
      {"tree_tokens", [&] { return tw_verify_tree(&t, nullptr, &t, &t, &args, &t, &t, &t); }},
      {"next_token", [&] { return tw_verify_tree(&t, &t, nullptr, &t, &args, &t, &t, &t); }},
      {"next_sibling", [&] { return tw_verify_tree(&t, &t, &t, nullptr, &args, &t, &t, &t); }},
      {"args", [&] { return tw_verify_tree(&t, &t, &t, &t, nullptr, &t, &t, &t); }},
      {"tokens", [&] { return tw_verify_tree(&t, &t, &t, &t, &args, nullptr, &t, &t); }},
      {"nodes", [&] { return tw_verify_tree(&t, &t, &t, &t, &args, &t, nullptr, &t); }},
      {"accepted", [&] { return tw_verify_tree(&t, &t, &t, &t, &args, &t, &t, nullptr); }},
      {"parents", [&] { return tw_tree_links(nullptr, &t, &t); }},
      {"next_token", [&] { return tw_tree_links(&t, nullptr, &t); }},
      {"next_sibling", [&] { return tw_tree_links(&t, &t, nullptr); }},
      {"elements", [&] { return tw_verify_workspace_size(1, 1, nullptr); }},
  };
  for (const auto& [name, call] : calls) {
    expect_invalid(call(), {std::string(name) + " is NULL"});
  }
}

}  // namespace
}  // namespace tilewright::test
