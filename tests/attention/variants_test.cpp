// SPDX-License-Identifier: Apache-2.0
// Every ready-made variant, with its tables made by the helpers that come with it, through a plan
// and a run, against the reference.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "support/simple_batch.h"
#include "support/variant_cases.h"

namespace tilewright::test {
namespace {

const Dims kDims{4, 2, 32, 32};
const Lengths kLengths = {{37, 37}, {1, 150}, {20, 170}, {0, 5}, {190, 200}, {3, 2}};

using Mask = std::function<bool(const Element&)>;
using Make = std::function<VariantCase(const SimpleBatch&, Random&)>;

struct ReadyMade {
  std::string name;
  Make make;
  bool skips = true;  // the plan proves some blocks of this batch empty
  Lengths lengths = kLengths;
};

VariantCase masked(Variant variant, Mask mask) {
  VariantCase c;
  c.variant = std::move(variant);
  c.semantics.mask = std::move(mask);
  return c;
}

Extents random_integers(std::size_t count, std::int64_t low, std::int64_t high, Random& random) {
  Extents values(count);
  for (auto& value : values) value = random.range(low, high);
  return values;
}

// The entries of a batch's query tokens, which are the last ones of their requests, of a table by
// position. Requests with more queries than keys begin with positions below 0.
Extents of_query_tokens(const SimpleBatch& batch,
                        const std::vector<std::vector<std::int32_t>>& by_position) {
  Extents all;
  for (const Request& request : batch.requests) {
    for (const std::int64_t position : request.q_pos) {
      const auto& table = by_position[static_cast<std::size_t>(request.batch)];
      all.push_back(position < 0 ? 0 : table[static_cast<std::size_t>(position)]);
    }
  }
  return all;
}

// For each request, runs of numbers counting up by 1 or going back to 0.
std::vector<std::vector<std::int32_t>> random_runs(const SimpleBatch& batch, double change,
                                                   bool zeros, Random& random) {
  std::vector<std::vector<std::int32_t>> all;
  for (const Request& request : batch.requests) {
    std::vector<std::int32_t> numbers;
    std::int32_t number = 1;
    bool text = false;
    for (std::int64_t i = 0; i < request.kv_len(); ++i) {
      if (random.chance(change)) {
        ++number;
        text = zeros && !text;
      }
      numbers.push_back(text ? 0 : number);
    }
    all.push_back(numbers);
  }
  return all;
}

VariantCase document_case(const SimpleBatch& batch, Random& random, bool causal) {
  const auto documents = random_runs(batch, 0.03, false, random);
  VariantCase c = masked(variants::document(causal), [documents, causal](const Element& at) {
    const auto& of = documents[static_cast<std::size_t>(at.batch)];
    return at.q_pos >= 0 &&
           of[static_cast<std::size_t>(at.kv_pos)] == of[static_cast<std::size_t>(at.q_pos)] &&
           (!causal || at.kv_pos <= at.q_pos);
  });
  std::vector<std::vector<std::int32_t>> begins;
  std::vector<std::vector<std::int32_t>> ends;
  for (const auto& document : documents) {
    begins.push_back(variants::document_bounds(document).begin);
    ends.push_back(variants::document_bounds(document).end);
  }
  c.add_integers(c.plan_params, "document_begin", of_query_tokens(batch, begins));
  if (!causal) c.add_integers(c.plan_params, "document_end", of_query_tokens(batch, ends));
  return c;
}

VariantCase spans_case(const SimpleBatch& batch, Random& random) {
  const auto spans = random_runs(batch, 0.05, true, random);
  VariantCase c = masked(variants::bidirectional_spans(), [spans](const Element& at) {
    const auto& of = spans[static_cast<std::size_t>(at.batch)];
    if (at.kv_pos <= at.q_pos) return true;
    return at.q_pos >= 0 && of[static_cast<std::size_t>(at.q_pos)] != 0 &&
           of[static_cast<std::size_t>(at.kv_pos)] == of[static_cast<std::size_t>(at.q_pos)];
  });
  std::vector<std::vector<std::int32_t>> ends;
  ends.reserve(spans.size());
  for (const auto& span : spans) ends.push_back(variants::span_ends(span));
  c.add_integers(c.plan_params, "span_end", of_query_tokens(batch, ends));
  return c;
}

enum class TreeForm : std::uint8_t { parents, links, matrices };

VariantCase tree_case(const SimpleBatch& batch, Random& random, TreeForm form) {
  std::vector<std::int32_t> indptr = {0};
  std::vector<std::int32_t> parents;
  for (const Request& request : batch.requests) {
    for (std::int64_t node = 0; node < request.q_len(); ++node) {
      parents.push_back(node == 0 ? -1 : static_cast<std::int32_t>(random.range(0, node - 1)));
    }
    indptr.push_back(static_cast<std::int32_t>(parents.size()));
  }
  const auto sees = [indptr, parents](std::int64_t request, std::int64_t node, std::int64_t other) {
    const std::int64_t first = indptr[static_cast<std::size_t>(request)];
    for (; node >= 0; node = parents[static_cast<std::size_t>(first + node)]) {
      if (node == other) return true;
    }
    return false;
  };
  std::vector<std::int32_t> next_token(parents.size(), -1);
  std::vector<std::int32_t> next_sibling(parents.size(), -1);
  std::vector<std::uint8_t> matrices;
  for (std::size_t r = 0; r + 1 < indptr.size(); ++r) {
    const std::int64_t count = indptr[r + 1] - indptr[r];
    for (std::int64_t node = 0; node < count; ++node) {
      for (std::int64_t other = 0; other < count; ++other) {
        matrices.push_back(sees(static_cast<std::int64_t>(r), node, other) ? 1 : 0);
      }
      const std::int32_t parent = parents[static_cast<std::size_t>(indptr[r] + node)];
      if (parent < 0) continue;
      std::int32_t& first_child = next_token[static_cast<std::size_t>(indptr[r] + parent)];
      next_sibling[static_cast<std::size_t>(indptr[r] + node)] = first_child;
      first_child = static_cast<std::int32_t>(node);
    }
  }
  const variants::TreeMask mask =
      form == TreeForm::parents ? variants::TreeMask::from_parents(indptr, parents)
      : form == TreeForm::links ? variants::TreeMask::from_links(indptr, next_token, next_sibling)
                                : variants::TreeMask::from_matrices(indptr, matrices);
  VariantCase c = masked(variants::tree(), [sees](const Element& at) {
    const std::int64_t node = at.kv_pos - (at.kv_len - at.q_len);
    return node < 0 || sees(at.batch, at.q_index, node);
  });
  auto table = std::make_shared<Tensor>(int_matrix(mask.nodes, mask.words, 1));
  for (std::int64_t i = 0; i < mask.nodes * mask.words; ++i) {
    table->set({i / mask.words, i % mask.words}, mask.bits[static_cast<std::size_t>(i)]);
  }
  c.plan_params.emplace_back("tree_mask", table->view());
  c.tensors.push_back(table);
  return c;
}

// A random matrix [query tokens, columns] of 0 and 1.
std::shared_ptr<Tensor> random_bits(const SimpleBatch& batch, DType dtype, std::int64_t columns,
                                    Random& random) {
  auto table =
      std::make_shared<Tensor>(Tensor(dtype, {batch.tensors.tokens, columns}, {columns + 3, 1}));
  for (std::int64_t i = 0; i < batch.tensors.tokens; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) table->set({i, j}, random.chance(0.6) ? 1 : 0);
  }
  return table;
}

Extents query_begins(const SimpleBatch& batch) {
  return query_indptr(batch.requests);
}

VariantCase dense_case(const SimpleBatch& batch, Random& random, DType dtype) {
  constexpr std::int64_t kColumns = 190;  // keys beyond are not seen
  const auto bits = random_bits(batch, dtype, kColumns, random);
  const Extents begins = query_begins(batch);
  VariantCase c = masked(variants::dense_mask(), [bits, begins](const Element& at) {
    return at.kv_pos < kColumns &&
           bits->get({begins[static_cast<std::size_t>(at.batch)] + at.q_index, at.kv_pos}) != 0;
  });
  c.plan_params.emplace_back("mask", bits->view());
  c.tensors.push_back(bits);
  return c;
}

VariantCase packed_case(const SimpleBatch& batch, Random& random) {
  const auto bits = random_bits(batch, DType::u8, 200, random);
  const Extents begins = query_begins(batch);
  Extents indptr;
  std::vector<std::uint8_t> bytes;
  for (const Request& request : batch.requests) {
    indptr.push_back(static_cast<std::int64_t>(bytes.size()));
    const std::size_t first = bytes.size();
    bytes.resize(first + static_cast<std::size_t>(request.q_len() * request.kv_len() + 7) / 8);
    for (std::int64_t bit = 0; bit < request.q_len() * request.kv_len(); ++bit) {
      const std::int64_t token =
          begins[static_cast<std::size_t>(request.batch)] + bit / request.kv_len();
      const bool set = bits->get({token, bit % request.kv_len()}) != 0;
      bytes[first + static_cast<std::size_t>(bit / 8)] |=
          static_cast<std::uint8_t>((set ? 1 : 0) << (bit % 8));
    }
  }
  VariantCase c = masked(variants::packed_mask(), [bits, begins](const Element& at) {
    return bits->get({begins[static_cast<std::size_t>(at.batch)] + at.q_index, at.kv_pos}) != 0;
  });
  auto packed =
      std::make_shared<Tensor>(Tensor(DType::u8, Extents{static_cast<std::int64_t>(bytes.size())}));
  std::copy(bytes.begin(), bytes.end(), packed->data());
  c.plan_params.emplace_back("packed_mask", packed->view());
  c.tensors.push_back(packed);
  c.add_integers(c.plan_params, "packed_mask_indptr", indptr);
  return c;
}

VariantCase block_sparse_case(const SimpleBatch& batch, Random& random) {
  constexpr std::int64_t kQBlock = 8;
  constexpr std::int64_t kKvBlock = 24;
  const auto requests = static_cast<std::int64_t>(batch.requests.size());
  auto blocks = std::make_shared<Tensor>(Tensor(DType::u8, {requests, 24, 9}));
  for (std::int64_t i = 0; i < requests * 216; ++i) {
    blocks->set({i / 216, i / 9 % 24, i % 9}, random.chance(0.4) ? 1 : 0);
  }
  VariantCase c = masked(variants::block_sparse(kQBlock, kKvBlock), [blocks](const Element& at) {
    return blocks->get({at.batch, at.q_index / kQBlock, at.kv_pos / kKvBlock}) != 0;
  });
  c.plan_params.emplace_back("block_mask", blocks->view());
  c.tensors.push_back(blocks);
  return c;
}

// The original's formula (transformers, modeling_t5.py), in f64.
std::int64_t t5_bucket(std::int64_t relative, bool bidirectional, std::int64_t buckets,
                       std::int64_t max_distance) {
  std::int64_t bucket = 0;
  if (bidirectional) {
    buckets /= 2;
    if (relative > 0) bucket += buckets;
    relative = std::abs(relative);
  } else {
    relative = std::max<std::int64_t>(-relative, 0);
  }
  const std::int64_t exact = buckets / 2;
  if (relative < exact) return bucket + relative;
  const double ratio = std::log(static_cast<double>(relative) / static_cast<double>(exact)) /
                       std::log(static_cast<double>(max_distance) / static_cast<double>(exact));
  // Powers of two are exact in f32, and meant.
  const auto large =
      exact + static_cast<std::int64_t>(ratio * static_cast<double>(buckets - exact) + 1e-9);
  return bucket + std::min(large, buckets - 1);
}

VariantCase t5_case(Random& random, bool bidirectional) {
  VariantCase c;
  c.variant = variants::t5_relative_bias(bidirectional);
  auto weights = std::make_shared<Tensor>(Tensor(DType::f32, {32, kDims.qo_heads}));
  for (std::int64_t i = 0; i < 32 * kDims.qo_heads; ++i) {
    weights->set({i / kDims.qo_heads, i % kDims.qo_heads}, random.normal());
  }
  c.run_params.emplace_back("relative_bias", weights->view().transpose(0, 1));
  c.tensors.push_back(weights);
  c.semantics.logit = [weights, bidirectional](double logit, const Element& at) {
    return logit +
           weights->get({t5_bucket(at.kv_pos - at.q_pos, bidirectional, 32, 128), at.q_head});
  };
  if (!bidirectional) c.semantics.mask = causal_mask;
  return c;
}

VariantCase bias_case(const SimpleBatch& batch, Random& random, bool per_head, DType dtype) {
  VariantCase c;
  c.variant = variants::additive_bias(per_head);
  const std::int64_t heads = per_head ? kDims.qo_heads : 1;
  const std::int64_t tokens = batch.tensors.tokens;
  auto bias = std::make_shared<Tensor>(Tensor(dtype, {heads, tokens, 200}));
  for (std::int64_t i = 0; i < heads * tokens * 200; ++i) {
    bias->set({i / (tokens * 200), i / 200 % tokens, i % 200},
              random.chance(0.2) ? -INFINITY : random.normal());
  }
  c.run_params.emplace_back("bias", per_head ? bias->view() : bias->view().select(0, 0));
  c.tensors.push_back(bias);
  const Extents begins = query_begins(batch);
  const auto value = [bias, begins, per_head](const Element& at) {
    return bias->get({per_head ? at.q_head : 0,
                      begins[static_cast<std::size_t>(at.batch)] + at.q_index, at.kv_pos});
  };
  c.semantics.logit = [value](double logit, const Element& at) { return logit + value(at); };
  c.semantics.mask = [value](const Element& at) { return std::isfinite(value(at)); };
  return c;
}

VariantCase alibi_case() {
  VariantCase c = masked(variants::alibi(), causal_mask);
  const std::vector<float> slopes = variants::alibi_slopes(kDims.qo_heads);
  const auto values =
      c.add_reals(c.run_params, "slope", std::vector<double>(slopes.begin(), slopes.end()));
  c.semantics.logit = [values](double logit, const Element& at) {
    return logit +
           values[static_cast<std::size_t>(at.q_head)] * static_cast<double>(at.kv_pos - at.q_pos);
  };
  return c;
}

VariantCase sigmoid_case() {
  VariantCase c = masked(variants::sigmoid(-2.5), causal_mask);
  c.semantics.softmax = false;
  c.semantics.logit = [](double logit, const Element&) { return 1 / (1 + std::exp(2.5 - logit)); };
  return c;
}

VariantCase capped(VariantCase c, double cap) {
  c.semantics.logit = [cap](double logit, const Element&) { return cap * std::tanh(logit / cap); };
  return c;
}

VariantCase combined_case(const SimpleBatch& batch, Random& random) {
  VariantCase c = document_case(batch, random, false);
  c.variant.mask = c.variant.mask && variants::sliding_window(10, 6).mask;
  const Mask document = c.semantics.mask;
  c.semantics.mask = [document](const Element& at) {
    return document(at) && at.kv_pos >= at.q_pos - 10 && at.kv_pos <= at.q_pos + 6;
  };
  return c;
}

std::vector<ReadyMade> all_variants() {
  const auto fixed = [](const VariantCase& c) {
    return [c](const SimpleBatch&, Random&) { return c; };
  };
  const Lengths drafts = {{26, 66}, {1, 301}, {13, 13}, {40, 103}, {0, 9}, {33, 64}};
  const auto causal_flags = [](const SimpleBatch& batch, Random& random) {
    VariantCase c;
    const auto flags = c.add_integers(c.plan_params, "causal",
                                      random_integers(batch.requests.size(), 0, 1, random));
    c.variant = variants::causal_by_request();
    c.semantics.mask = [flags](const Element& at) {
      return flags[static_cast<std::size_t>(at.batch)] == 0 || at.kv_pos <= at.q_pos;
    };
    return c;
  };
  const auto prefix = [](const SimpleBatch& batch, Random& random) {
    VariantCase c;
    const auto lens = c.add_integers(c.plan_params, "prefix_len",
                                     random_integers(batch.requests.size(), 0, 180, random));
    c.variant = variants::prefix_lm();
    c.semantics.mask = [lens](const Element& at) {
      return at.kv_pos <= at.q_pos || at.kv_pos < lens[static_cast<std::size_t>(at.batch)];
    };
    return c;
  };
  return {
      {"full", fixed(masked(variants::full(), {})), false},
      {"soft_cap", fixed(capped(masked(variants::full(3), {}), 3)), false},
      {"causal", fixed(masked(variants::causal(), causal_mask))},
      {"window", fixed(masked(variants::causal(20),
                              [](const Element& at) {
                                return at.kv_pos <= at.q_pos && at.kv_pos >= at.q_pos - 20;
                              }))},
      {"sliding_window", fixed(masked(variants::sliding_window(9, 30),
                                      [](const Element& at) {
                                        return at.kv_pos <= at.q_pos + 30 &&
                                               at.kv_pos >= at.q_pos - 9;
                                      }))},
      {"attention_sink", fixed(capped(masked(variants::attention_sink(4, 15, 5),
                                             [](const Element& at) {
                                               return at.kv_pos <= at.q_pos &&
                                                      (at.kv_pos < 4 || at.kv_pos >= at.q_pos - 15);
                                             }),
                                      5))},
      {"prefix_lm", prefix, false},
      {"causal_by_request", causal_flags},
      {"chunked_local", fixed(masked(variants::chunked_local(24),
                                     [](const Element& at) {
                                       return at.kv_pos <= at.q_pos &&
                                              at.kv_pos / 24 == floor_quotient(at.q_pos, 24);
                                     }))},
      {"block_causal", fixed(masked(variants::block_causal(16),
                                    [](const Element& at) {
                                      return at.kv_pos / 16 <= floor_quotient(at.q_pos, 16);
                                    }))},
      {"document", [](const SimpleBatch& b, Random& r) { return document_case(b, r, true); }},
      {"document_full", [](const SimpleBatch& b, Random& r) { return document_case(b, r, false); }},
      {"document_in_a_window", combined_case},
      {"bidirectional_spans", spans_case},
      {"tree_parents",
       [](const SimpleBatch& b, Random& r) { return tree_case(b, r, TreeForm::parents); }, false,
       drafts},
      {"tree_links",
       [](const SimpleBatch& b, Random& r) { return tree_case(b, r, TreeForm::links); }, false,
       drafts},
      {"tree_matrices",
       [](const SimpleBatch& b, Random& r) { return tree_case(b, r, TreeForm::matrices); }, false,
       drafts},
      {"dense_mask", [](const SimpleBatch& b, Random& r) { return dense_case(b, r, DType::u8); },
       false},
      {"dense_mask_int32",
       [](const SimpleBatch& b, Random& r) { return dense_case(b, r, DType::i32); }, false},
      {"packed_mask", packed_case, false},
      {"block_sparse", block_sparse_case, false},
      {"alibi", fixed(alibi_case())},
      {"t5_encoder", [](const SimpleBatch&, Random& r) { return t5_case(r, true); }, false},
      {"t5_decoder", [](const SimpleBatch&, Random& r) { return t5_case(r, false); }},
      {"additive_bias",
       [](const SimpleBatch& b, Random& r) { return bias_case(b, r, false, DType::f32); }, false},
      {"additive_bias_by_head",
       [](const SimpleBatch& b, Random& r) { return bias_case(b, r, true, DType::bf16); }, false},
      {"sigmoid", fixed(sigmoid_case())},
  };
}

class ReadyMadeVariants : public testing::TestWithParam<ReadyMade> {};

TEST_P(ReadyMadeVariants, AgainstTheReference) {
  std::int64_t skipped = 0;
  for (const std::uint64_t seed : {1, 2, 3}) {
    SimpleBatch batch(kDims, DType::f32, GetParam().lengths, 16, seed);
    Random random(100 + seed);
    const VariantCase c = GetParam().make(batch, random);
    const AttentionSpec spec = make_spec(kDims, DType::f32, c.variant);
    if (!supports(Device{}, spec)) GTEST_SKIP() << supports(Device{}, spec).reason;
    const Attention attention(spec);
    Plan plan({attention}, batch.limits());
    plan.update(batch.batch(), batch.inputs(attention, c.plan_params));
    RunArgs args = batch.tensors.args();
    args.params = c.run_params;
    if (!c.semantics.softmax) {
      args.lse = {};
      batch.tensors.lse = Tensor();
    }
    batch.run(plan, attention, args);
    batch.tensors.expect(batch.requests, c.semantics);
    skipped += plan.stats(attention).skipped_blocks;
  }
  if (GetParam().skips) {
    EXPECT_GT(skipped, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReadyMadeVariants, testing::ValuesIn(all_variants()),
                         [](const auto& test) { return test.param.name; });

// One learned logit for each head in the denominator, beside any variant.
TEST(LearnedSinks, BesideADocumentMask) {
  SimpleBatch batch(kDims, DType::f32, kLengths, 16, 5);
  Random random(6);
  const VariantCase c = document_case(batch, random, true);
  const Attention attention(make_spec(kDims, DType::f32, c.variant));
  Plan plan({attention}, batch.limits());
  plan.update(batch.batch(), batch.inputs(attention, c.plan_params));
  const std::vector<double> sinks = {0.5, -1.25, 3, 0};
  const Tensor sink_tensor = float_tensor(sinks);
  RunArgs args = batch.tensors.args();
  args.sinks = sink_tensor.view();
  batch.run(plan, attention, args);
  batch.tensors.expect(batch.requests, c.semantics, sinks);
}

TEST(RowTables, MustCoverTheQueryTokens) {
  SimpleBatch batch(kDims, DType::f32, kLengths, 16, 7);
  const Attention attention(make_spec(kDims, DType::f32, variants::document()));
  Plan plan({attention}, batch.limits());
  const Tensor table = int_tensor(Extents(static_cast<std::size_t>(batch.tensors.tokens - 1), 0));
  try {
    plan.update(batch.batch(), batch.inputs(attention, {{"document_begin", table.view()}}));
    ADD_FAILURE() << "no error was raised";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_NE(std::string(error.what()).find("number of query tokens, 251"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace tilewright::test
