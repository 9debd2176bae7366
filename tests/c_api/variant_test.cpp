// SPDX-License-Identifier: Apache-2.0
// Variants, ropes, and the helpers around them, against C++.
#include <cmath>
#include <fstream>
#include <iterator>

#include "c_api/c_support.h"

namespace tilewright::test {
namespace {

std::string text_of(const VariantHandle& variant) {
  const char* text = "";
  EXPECT_OK(tw_variant_text(variant.get(), &text));
  return text;
}

struct ReadyMade {
  const char* name;
  std::vector<tw_variant_arg> args;
  Variant expected;
};

std::vector<ReadyMade> ready_made() {
  using namespace variants;  // NOLINT(google-build-using-namespace)
  return {
      {"full", {}, full()},
      {"full", {{"logits_soft_cap", 30}}, full(30)},
      {"causal", {}, causal()},
      {"causal", {{"logits_soft_cap", 2.5}, {"window_left", 100}}, causal(100, 2.5)},
      {"sliding_window", {{"left", 5}, {"right", -1}}, sliding_window(5, -1)},
      {"sliding_window",
       {{"right", 3}, {"left", 4}, {"logits_soft_cap", 7}},
       sliding_window(4, 3, 7)},
      {"attention_sink",
       {{"sink_tokens", 4}, {"window_left", 50}, {"logits_soft_cap", 0}},
       attention_sink(4, 50)},
      {"prefix_lm", {}, prefix_lm()},
      {"causal_by_request", {}, causal_by_request()},
      {"chunked_local", {{"chunk_size", 8192}}, chunked_local(8192)},
      {"block_causal", {{"block_size", 32}}, block_causal(32)},
      {"document", {}, document()},
      {"document", {{"causal", 0}}, document(false)},
      {"bidirectional_spans", {}, bidirectional_spans()},
      {"tree", {}, tree()},
      {"dense_mask", {}, dense_mask()},
      {"packed_mask", {}, packed_mask()},
      {"block_sparse", {{"q_block", 64}, {"kv_block", 128}}, block_sparse(64, 128)},
      {"alibi", {}, alibi()},
      {"t5_relative_bias", {{"bidirectional", 1}}, t5_relative_bias(true)},
      {"t5_relative_bias",
       {{"bidirectional", 0}, {"num_buckets", 16}, {"max_distance", 64}},
       t5_relative_bias(false, 16, 64)},
      {"additive_bias", {}, additive_bias()},
      {"additive_bias", {{"per_head", 1}}, additive_bias(true)},
      {"sigmoid", {}, sigmoid()},
      {"sigmoid", {{"bias", -3.5}, {"causal", 0}}, sigmoid(-3.5, false)},
  };
}

TEST(CVariant, ReadyMadeOnes) {
  for (const ReadyMade& c : ready_made()) {
    VariantHandle variant;
    ASSERT_OK(tw_variant_create(c.name, c.args.data(), c.args.size(), variant.target())) << c.name;
    EXPECT_EQ(text_of(variant), c.expected.serialize()) << c.name;
    // And back from its text.
    VariantHandle parsed;
    ASSERT_OK(tw_variant_parse(text_of(variant).c_str(), parsed.target()));
    EXPECT_EQ(text_of(parsed), c.expected.serialize()) << c.name;
  }
}

TEST(CVariant, ReadyMadeErrors) {
  VariantHandle variant;
  const auto refused = [&](const char* name, const std::vector<tw_variant_arg>& args,
                           const std::vector<std::string>& words) {
    expect_invalid(tw_variant_create(name, args.data(), args.size(), variant.target()), words);
  };
  refused("causual", {}, {"name is \"causual\"", "full, causal, sliding_window"});
  refused("", {}, {"name is \"\""});
  refused("causal", {{"window", 3}}, {"\"causal\"", "no argument \"window\"", "window_left"});
  refused("tree", {{"window", 3}}, {"no argument \"window\"", "it has none"});
  refused("causal", {{"window_left", 3}, {"window_left", 3}}, {"\"window_left\"", "twice"});
  refused("chunked_local", {}, {"\"chunk_size\"", "missing"});
  refused("chunked_local", {{"chunk_size", 0}}, {"chunk_size is 0"});
  refused("chunked_local", {{"chunk_size", 1.5}}, {"chunk_size", "1.5", "integer"});
  refused("chunked_local", {{"chunk_size", 1e300}}, {"chunk_size", "integer below 2^31"});
  refused("chunked_local", {{"chunk_size", NAN}}, {"chunk_size", "nan"});
  refused("document", {{"causal", 2}}, {"causal", "is 2", "0 or 1"});
  refused("causal", {{"logits_soft_cap", -1}}, {"logits_soft_cap is -1"});
  refused("causal", {{nullptr, 1}}, {"args[0].name is NULL"});
  expect_invalid(tw_variant_create("causal", nullptr, 2, variant.target()), {"args is NULL"});
  EXPECT_EQ(variant.get(), nullptr);
}

TEST(CVariant, TextErrorsNameTheLine) {
  VariantHandle variant;
  expect_invalid(tw_variant_parse("", variant.target()), {"line 1"});
  expect_invalid(tw_variant_parse("tilewright variant 1\n0 kv_pos\nmask 3\n", variant.target()),
                 {"line 3"});
  // A comparison of a type that a mask cannot have.
  expect_invalid(tw_variant_parse("tilewright variant 1\n0 kv_pos\nmask 0\n", variant.target()),
                 {"mask"});
}

// The text in docs/c_api.md is the variant that it is said to be.
TEST(CVariant, TextOfTheDocumentation) {
  std::ifstream file(std::string(TILEWRIGHT_TEST_DATA) + "/../../docs/c_api.md");
  const std::string page((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const std::size_t begin = page.find("```\ntilewright variant 1\n");
  ASSERT_NE(begin, std::string::npos);
  const std::string text = page.substr(begin + 4, page.find("```", begin + 4) - begin - 4);
  VariantHandle variant;
  ASSERT_OK(tw_variant_parse(text.c_str(), variant.target()));
  EXPECT_EQ(text_of(variant), variants::alibi().serialize());
  EXPECT_EQ(text, variants::alibi().serialize());
}

TEST(CVariant, Params) {
  Variant cpp;
  const Param window = Param::integer("window", 1);
  const Param scale = Param::real("scale").with_default(0.5);
  cpp.mask = expr::kv_pos() > expr::q_pos() - window(expr::q_head());
  cpp.logits = expr::logit() * scale();
  const VariantHandle variant = make_variant_handle(cpp);
  std::size_t count = 0;
  ASSERT_OK(tw_variant_num_params(variant.get(), &count));
  const std::vector<Param> expected = cpp.params();
  ASSERT_EQ(count, 2);
  for (std::size_t i = 0; i < count; ++i) {
    auto info = sized<tw_param_info>();
    ASSERT_OK(tw_variant_param(variant.get(), i, &info));
    EXPECT_EQ(info.name, expected[i].name());
    EXPECT_EQ(info.is_real != 0, expected[i].type() == ValueType::real);
    EXPECT_EQ(info.rank, expected[i].rank());
    EXPECT_EQ(info.bind, expected[i].bind() == Bind::plan ? TW_BIND_PLAN : TW_BIND_RUN);
    EXPECT_EQ(info.has_default != 0, expected[i].default_value().has_value());
    EXPECT_EQ(info.default_value, expected[i].default_value().value_or(0));
  }
  auto info = sized<tw_param_info>();
  expect_invalid(tw_variant_param(variant.get(), 2, &info), {"index is 2", "2 parameters"});
}

TEST(CVariant, MasksAreJoined) {
  Variant cpp = variants::document();
  const VariantHandle document = make_variant_handle(cpp);
  const VariantHandle window = make_variant_handle(variants::causal(4095, 30));
  VariantHandle both;
  ASSERT_OK(tw_variant_and_mask(document.get(), window.get(), both.target()));
  cpp.mask = cpp.mask && variants::causal(4095).mask;
  EXPECT_EQ(text_of(both), cpp.serialize());
  // Where one has no mask, the other's is that of both.
  const VariantHandle full = make_variant_handle(variants::full());
  VariantHandle same;
  ASSERT_OK(tw_variant_and_mask(document.get(), full.get(), same.target()));
  EXPECT_EQ(text_of(same), text_of(document));
  VariantHandle turned;
  ASSERT_OK(tw_variant_and_mask(full.get(), document.get(), turned.target()));
  EXPECT_EQ(text_of(turned), text_of(document));
}

TEST(CRope, Specs) {
  const std::vector<double> factors = {1, 2, 3, 4};
  std::vector<std::pair<tw_rope_spec, RopeSpec>> cases;
  const auto add = [&](const RopeSpec& expected, const auto& change) {
    auto spec = sized<tw_rope_spec>();
    change(spec);
    cases.emplace_back(spec, expected);
  };
  add({}, [](tw_rope_spec&) {});
  add({.dim = 8, .theta = 5e5, .position_scale = 0.25, .interleaved = true}, [](tw_rope_spec& s) {
    s.dim = 8;
    s.theta = 5e5;
    s.position_scale = 0.25;
    s.interleaved = 1;
  });
  add({.scaling = NtkScaling{}}, [](tw_rope_spec& s) { s.scaling = TW_ROPE_NTK; });
  add({.scaling = NtkScaling{3}}, [](tw_rope_spec& s) {
    s.scaling = TW_ROPE_NTK;
    s.factor = 3;
  });
  add({.scaling = Llama3Scaling{}}, [](tw_rope_spec& s) { s.scaling = TW_ROPE_LLAMA3; });
  add({.scaling = Llama3Scaling{32, 2, 5, 4096}}, [](tw_rope_spec& s) {
    s.scaling = TW_ROPE_LLAMA3;
    s.factor = 32;
    s.low_freq_factor = 2;
    s.high_freq_factor = 5;
    s.original_max_position = 4096;
  });
  add({.scaling = YarnScaling{}}, [](tw_rope_spec& s) { s.scaling = TW_ROPE_YARN; });
  add({.scaling = YarnScaling{4, 2048, 16, 2, 1.5, false}}, [](tw_rope_spec& s) {
    s.scaling = TW_ROPE_YARN;
    s.factor = 4;
    s.original_max_position = 2048;
    s.beta_fast = 16;
    s.beta_slow = 2;
    s.attention_factor = 1.5;
    s.exact_ramp = 1;
  });
  add({.dim = 8, .scaling = LongRopeScaling{factors, 1.25}}, [&](tw_rope_spec& s) {
    s.scaling = TW_ROPE_LONGROPE;
    s.dim = 8;
    s.factors = factors.data();
    s.num_factors = factors.size();
    s.attention_factor = 1.25;
  });
  const VariantHandle plain = make_variant_handle(variants::causal());
  for (const auto& [spec, expected] : cases) {
    RopeHandle rope;
    ASSERT_OK(tw_rope_create(&spec, rope.target()));
    VariantHandle rotated;
    ASSERT_OK(tw_variant_with_rope(plain.get(), rope.get(), rotated.target()));
    Variant cpp = variants::causal();
    cpp.rope = expected;
    EXPECT_EQ(text_of(rotated), cpp.serialize());
  }
}

TEST(CRope, Errors) {
  RopeHandle rope;
  const auto refused = [&](const std::vector<std::string>& words, const auto& change) {
    auto spec = sized<tw_rope_spec>();
    change(spec);
    expect_invalid(tw_rope_create(&spec, rope.target()), words);
  };
  refused({"rope.dim is 7"}, [](tw_rope_spec& s) { s.dim = 7; });
  refused({"rope.theta is -1"}, [](tw_rope_spec& s) { s.theta = -1; });
  refused({"spec.interleaved is 3"}, [](tw_rope_spec& s) { s.interleaved = 3; });
  refused({"spec.scaling is 5"}, [](tw_rope_spec& s) { s.scaling = 5; });
  refused({"spec.scaling is -1"}, [](tw_rope_spec& s) { s.scaling = -1; });
  refused({"rope.scaling.factors is empty"}, [](tw_rope_spec& s) { s.scaling = TW_ROPE_LONGROPE; });
  refused({"spec.factors is NULL"}, [](tw_rope_spec& s) {
    s.scaling = TW_ROPE_LONGROPE;
    s.num_factors = 4;
  });
  refused({"spec.exact_ramp is 2"}, [](tw_rope_spec& s) {
    s.scaling = TW_ROPE_YARN;
    s.exact_ramp = 2;
  });
  EXPECT_EQ(rope.get(), nullptr);
}

TEST(CTables, AlibiDocumentsSpans) {
  const std::vector<float> slopes = variants::alibi_slopes(12);
  std::vector<float> got(12);
  ASSERT_OK(tw_alibi_slopes(12, got.data()));
  EXPECT_EQ(got, slopes);
  expect_invalid(tw_alibi_slopes(0, got.data()), {"num_heads is 0"});

  const std::vector<std::int32_t> documents = {4, 4, 4, 1, 2, 2};
  const variants::RowBounds bounds = variants::document_bounds(documents);
  std::vector<std::int32_t> begin(6);
  std::vector<std::int32_t> end(6);
  ASSERT_OK(tw_document_bounds(documents.data(), documents.size(), begin.data(), end.data()));
  EXPECT_EQ(begin, bounds.begin);
  EXPECT_EQ(end, bounds.end);

  const std::vector<std::int32_t> spans = {0, 1, 1, 0, 2, 2};
  ASSERT_OK(tw_span_ends(spans.data(), spans.size(), end.data()));
  EXPECT_EQ(end, variants::span_ends(spans));
}

void expect_mask(const TreeMaskHandle& mask, const variants::TreeMask& expected) {
  tw_tensor view{};
  ASSERT_OK(tw_tree_mask_view(mask.get(), &view));
  ASSERT_EQ(view.rank, 2);
  ASSERT_EQ(view.dtype, TW_I32);
  ASSERT_EQ(view.shape[0], expected.nodes);
  ASSERT_EQ(view.shape[1], expected.words);
  const auto* bits = static_cast<const std::int32_t*>(view.data);
  EXPECT_EQ(std::vector<std::int32_t>(bits, bits + expected.bits.size()), expected.bits);
}

TEST(CTables, TreeMasks) {
  using variants::TreeMask;
  const std::vector<std::int32_t> indptr = {0, 3, 5};
  const std::vector<std::int32_t> parents = {-1, 0, 0, -1, 0};
  TreeMaskHandle mask;
  ASSERT_OK(tw_tree_mask_from_parents(indptr.data(), 2, parents.data(), 5, mask.target()));
  expect_mask(mask, TreeMask::from_parents(indptr, parents));

  const std::vector<std::int32_t> next_token = {1, -1, -1, 1, -1};
  const std::vector<std::int32_t> next_sibling = {-1, 2, -1, -1, -1};
  TreeMaskHandle links;
  ASSERT_OK(tw_tree_mask_from_links(indptr.data(), 2, next_token.data(), next_sibling.data(), 5,
                                    links.target()));
  expect_mask(links, TreeMask::from_links(indptr, next_token, next_sibling));

  const std::vector<std::uint8_t> seen = {1, 0, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1};
  TreeMaskHandle matrices;
  ASSERT_OK(
      tw_tree_mask_from_matrices(indptr.data(), 2, seen.data(), seen.size(), matrices.target()));
  expect_mask(matrices, TreeMask::from_matrices(indptr, seen));

  TreeMaskHandle none;
  expect_invalid(tw_tree_mask_from_parents(indptr.data(), 2, parents.data(), 4, none.target()),
                 {"parents"});
  expect_invalid(tw_tree_mask_from_matrices(indptr.data(), 2, seen.data(), 12, none.target()),
                 {"seen"});
  EXPECT_EQ(none.get(), nullptr);
}

TEST(CExplain, MapsOfCpp) {
  const Variant cpp = variants::causal(100);
  const VariantHandle variant = make_variant_handle(cpp);
  const std::int64_t offset = 3;
  for (const bool with_options : {false, true}) {
    ExplainOptions options;
    auto c_options = sized<tw_explain_options>();
    if (with_options) {
      options = {32, 16, 4, 2, offset};
      c_options.q_tile = 32;
      c_options.kv_block = 16;
      c_options.num_qo_heads = 4;
      c_options.num_kv_heads = 2;
      c_options.q_pos_offset = &offset;
    }
    const MaskMap expected = explain(cpp, 200, 210, {}, options);
    MaskMapHandle map;
    ASSERT_OK(tw_explain(variant.get(), 200, 210, nullptr, 0, with_options ? &c_options : nullptr,
                         map.target()));
    auto info = sized<tw_mask_map_info>();
    ASSERT_OK(tw_mask_map_get(map.get(), &info));
    EXPECT_EQ(info.rows, expected.rows);
    EXPECT_EQ(info.columns, expected.columns);
    EXPECT_EQ(info.pairs, expected.pairs);
    EXPECT_EQ(info.saved, expected.saved());
    EXPECT_EQ(info.saved_by_structure, expected.saved_by_structure());
    EXPECT_EQ(info.mask_class, expected.mask_class);
    EXPECT_EQ(info.text, expected.text());
    for (std::size_t i = 0; i < expected.tiles.size(); ++i) {
      ASSERT_EQ(info.tiles[i], static_cast<std::uint8_t>(expected.tiles[i]));
      ASSERT_EQ(info.exact[i], static_cast<std::uint8_t>(expected.exact[i]));
    }
    ASSERT_NE(info.seen, nullptr);
    EXPECT_EQ(std::vector<std::uint8_t>(info.seen, info.seen + expected.seen.size()),
              expected.seen);
    std::size_t length = 0;
    ASSERT_OK(tw_mask_map_svg(map.get(), nullptr, 0, &length));
    std::string picture(length + 1, '?');
    ASSERT_OK(tw_mask_map_svg(map.get(), picture.data(), picture.size(), &length));
    EXPECT_EQ(picture.c_str(), expected.svg());
    std::string cut(11, '?');
    ASSERT_OK(tw_mask_map_svg(map.get(), cut.data(), 6, &length));
    EXPECT_EQ(cut, expected.svg().substr(0, 5) + '\0' + "?????");
    EXPECT_EQ(length, expected.svg().size());
  }
  // Beyond MaskMap::kMaxPairs there is no table of pairs.
  MaskMapHandle large;
  ASSERT_OK(tw_explain(variant.get(), 300, 300, nullptr, 0, nullptr, large.target()));
  auto info = sized<tw_mask_map_info>();
  ASSERT_OK(tw_mask_map_get(large.get(), &info));
  EXPECT_EQ(info.seen, nullptr);
  MaskMapHandle none;
  expect_invalid(tw_explain(variant.get(), -1, 300, nullptr, 0, nullptr, none.target()), {"q_len"});
}

TEST(CExplain, WithParameters) {
  const Variant cpp = variants::prefix_lm();
  const VariantHandle variant = make_variant_handle(cpp);
  const std::array<std::int32_t, 1> prefix = {70};
  const std::vector<ParamValue> params = {
      {"prefix_len", TensorView(prefix.data(), DType::i32, {1})}};
  const std::vector<tw_param> c_params = to_c(params);
  MaskMapHandle map;
  ASSERT_OK(tw_explain(variant.get(), 128, 128, c_params.data(), 1, nullptr, map.target()));
  auto info = sized<tw_mask_map_info>();
  ASSERT_OK(tw_mask_map_get(map.get(), &info));
  EXPECT_EQ(info.text, explain(cpp, 128, 128, params).text());
}

}  // namespace
}  // namespace tilewright::test
