// SPDX-License-Identifier: Apache-2.0
// Maps of masks and block structures against brute force.
#include <gmock/gmock.h>
#include <tilewright/block_structure.h>
#include <tilewright/explain.h>
#include <tilewright/plan.h>
#include <tilewright/variants.h>

#include <array>

#include "reference.h"

namespace tilewright::test {
namespace {

using testing::HasSubstr;

bool is_seen(const Variant& variant, const RowContext& row, std::int64_t key,
             const std::map<std::string, BoundParam>& params) {
  if (!variant.mask.defined()) return true;
  const RefInputs inputs{row, key, 0, &params};
  return Reference(inputs).eval(variant.mask).integer != 0;
}

// Random masks that read no parameter and no real: all of them can be evaluated exactly.
Expr random_mask(RandomExpressions& random) {
  for (;;) {
    Expr mask = random.boolean(static_cast<int>(uniform(random.rng(), 1, 4)));
    Variant variant;
    variant.mask = mask;
    if (variant.params().empty()) return mask;
  }
}

TEST(Explain, RandomMasksAgainstBruteForce) {
  Rng rng(31);
  RandomExpressions random(rng, false, false);
  for (int i = 0; i < 150; ++i) {
    const Variant variant = with_mask(random_mask(random));
    const std::int64_t q_len = uniform(rng, 1, 30);
    const std::int64_t kv_len = uniform(rng, 1, 50);
    ExplainOptions options;
    options.q_tile = uniform(rng, 1, 12);
    options.kv_block = uniform(rng, 1, 12);
    if (uniform(rng, 0, 1) == 0) options.q_pos_offset = uniform(rng, 0, 40);
    const std::int64_t first = options.q_pos_offset >= 0 ? options.q_pos_offset : kv_len - q_len;
    const MaskMap map = explain(variant, q_len, kv_len, {}, options);
    ASSERT_EQ(map.rows, (q_len + options.q_tile - 1) / options.q_tile);
    ASSERT_EQ(map.columns, (kv_len + options.kv_block - 1) / options.kv_block);
    ASSERT_EQ(map.tiles.size(), static_cast<std::size_t>(map.rows * map.columns));
    std::vector<std::int64_t> seen(map.tiles.size());
    std::vector<std::int64_t> all(map.tiles.size());
    std::int64_t pairs = 0;
    for (std::int64_t q = 0; q < q_len; ++q) {
      for (std::int64_t key = 0; key < kv_len; ++key) {
        const RowContext row{first + q, 0, 0, 0, q_len, kv_len, q, 0};
        const bool is = is_seen(variant, row, key, {});
        const auto tile =
            static_cast<std::size_t>(q / options.q_tile * map.columns + key / options.kv_block);
        seen[tile] += is ? 1 : 0;
        ++all[tile];
        pairs += is ? 1 : 0;
        ASSERT_EQ(map.seen[static_cast<std::size_t>(q * kv_len + key)] != 0, is)
            << variant.serialize();
      }
    }
    EXPECT_EQ(map.pairs, pairs);
    for (std::size_t tile = 0; tile < seen.size(); ++tile) {
      const TileKind exact = seen[tile] == 0           ? TileKind::empty
                             : seen[tile] == all[tile] ? TileKind::full
                                                       : TileKind::mixed;
      ASSERT_EQ(map.exact[tile], exact) << variant.serialize();
      ASSERT_TRUE(map.tiles[tile] == TileKind::mixed || map.tiles[tile] == exact)
          << variant.serialize();
    }
    EXPECT_EQ(map.count(TileKind::empty) + map.count(TileKind::mixed) + map.count(TileKind::full),
              map.rows * map.columns);
  }
}

TEST(Explain, Text) {
  ExplainOptions options;
  options.q_tile = options.kv_block = 4;
  const MaskMap causal = explain(variants::causal(), 12, 16, {}, options);
  EXPECT_EQ(causal.text(),
            "mask: closed form; 12 queries x 16 keys, 126 pairs attend (65.6%)\n"
            "tiles of 4 x 4: 3 empty, 3 mixed, 6 full; 25.0% of the work is skipped\n"
            "#+..\n"
            "##+.\n"
            "###+\n");
  EXPECT_DOUBLE_EQ(causal.saved(), 0.25);
  const MaskMap odd = explain(with_mask(mod(expr::kv_pos(), 8) < 4), 4, 16, {}, options);
  EXPECT_THAT(odd.text(), HasSubstr("mask: elementwise"));
  EXPECT_THAT(odd.text(), HasSubstr("0.0% of the work is skipped"));
  EXPECT_THAT(odd.text(), HasSubstr("with a block structure 50.0% would be, and 2 tiles be full"));
  EXPECT_DOUBLE_EQ(odd.saved_by_structure(), 0.5);
  EXPECT_THAT(explain(variants::full(), 4, 16, {}, options).text(), HasSubstr("mask: none"));
  EXPECT_THAT(explain(variants::document(), 2, 2,
                      {{"document_begin",
                        TensorView(std::array<std::int32_t, 2>{}.data(), DType::i32, {2})}})
                  .mask_class,
              HasSubstr("row bounds"));
  EXPECT_EQ(explain(variants::causal(), 5000, 5000).seen.size(), 0U);
}

TEST(Explain, Svg) {
  ExplainOptions options;
  options.q_tile = options.kv_block = 4;
  const std::string svg = explain(variants::causal(), 12, 16, {}, options).svg();
  EXPECT_THAT(svg, testing::StartsWith("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  EXPECT_THAT(svg, HasSubstr("3 of 12 tiles skipped, 6 full"));
  // The last row's full tiles: keys 0 to 11, queries 8 to 11, 24 pixels each.
  EXPECT_THAT(svg, HasSubstr("M0 192h288v96h-288z"));
  EXPECT_LT(explain(variants::causal(), 20000, 20000).svg().size(), 200000U);
}

TEST(Explain, Errors) {
  EXPECT_THAT(error_of([] { explain(variants::causal(), 0, 5); }), HasSubstr("q_len is 0"));
  EXPECT_THAT(error_of([] { explain(variants::causal(), 5, -1); }), HasSubstr("kv_len is -1"));
  EXPECT_THAT(error_of([] { explain(variants::prefix_lm(), 5, 5); }), HasSubstr("\"prefix_len\""));
  EXPECT_THAT(error_of([] {
                explain(variants::causal(), 5, 5, {{"nope", 1.0}});
              }),
              HasSubstr("\"nope\""));
  ExplainOptions options;
  options.q_tile = 0;
  EXPECT_THAT(error_of([&] { explain(variants::causal(), 5, 5, {}, options); }),
              HasSubstr("q_tile is 0"));
}

TEST(BlockStructure, RandomMasksAgainstBruteForce) {
  Rng rng(32);
  RandomExpressions random(rng, false, false);
  for (int i = 0; i < 100; ++i) {
    const Variant variant = with_mask(random_mask(random));
    const int group = 2;
    const std::array<std::int32_t, 4> indptr{0, static_cast<std::int32_t>(uniform(rng, 0, 20)), 20,
                                             33};
    std::array<std::int32_t, 3> kv_lens{};
    std::array<std::int32_t, 33> positions{};
    for (auto& length : kv_lens) length = static_cast<std::int32_t>(uniform(rng, 0, 40));
    for (auto& position : positions) position = static_cast<std::int32_t>(uniform(rng, 0, 40));
    Batch batch;
    batch.qo_indptr = TensorView(indptr.data(), DType::i32, {4});
    batch.kv_lens = TensorView(kv_lens.data(), DType::i32, {3});
    const bool given = uniform(rng, 0, 1) == 0;
    if (given) batch.q_pos = TensorView(positions.data(), DType::i32, {33});
    const std::int64_t q_block = uniform(rng, 1, 12);
    const std::int64_t kv_block = uniform(rng, 1, 12);
    const BlockStructure s = block_structure(variant, batch, {}, q_block, kv_block, 2 * group, 2);
    const auto* request_rows = static_cast<const std::int32_t*>(s.request_rows.data);
    const auto* lists = static_cast<const std::int32_t*>(s.indptr.data);
    const auto* indices = static_cast<const std::int32_t*>(s.indices.data);
    const auto* full = static_cast<const std::uint8_t*>(s.full.data);
    for (std::int64_t r = 0; r < 3; ++r) {
      const std::int64_t q_len = indptr[r + 1] - indptr[r];
      ASSERT_EQ(request_rows[r + 1] - request_rows[r], (q_len + q_block - 1) / q_block);
      for (std::int64_t block = 0; block < request_rows[r + 1] - request_rows[r]; ++block) {
        for (std::int64_t head = 0; head < s.num_kv_heads; ++head) {
          const std::int64_t list = (request_rows[r] + block) * s.num_kv_heads + head;
          std::int64_t at = lists[list];
          for (std::int64_t begin = 0; begin < kv_lens[r]; begin += kv_block) {
            bool any = false;
            bool every = true;
            for (std::int64_t q = block * q_block; q < std::min(q_len, (block + 1) * q_block);
                 ++q) {
              for (std::int64_t h = 0; h < group; ++h) {
                for (std::int64_t key = begin;
                     key < std::min<std::int64_t>(kv_lens[r], begin + kv_block); ++key) {
                  const std::int64_t token = indptr[r] + q;
                  const std::int64_t position =
                      given ? positions[static_cast<std::size_t>(token)] : kv_lens[r] - q_len + q;
                  const RowContext row{position, head * group + h, head,  r,
                                       q_len,    kv_lens[r],       token, indptr[r]};
                  const bool is = is_seen(variant, row, key, {});
                  any |= is;
                  every &= is;
                }
              }
            }
            const bool listed = at < lists[list + 1] && indices[at] == begin / kv_block;
            ASSERT_EQ(listed, any) << variant.serialize();
            if (!listed) continue;
            ASSERT_EQ(full[at] != 0, every) << variant.serialize();
            ++at;
          }
          ASSERT_EQ(at, lists[list + 1]);
        }
      }
    }
  }
}

TEST(BlockStructure, Errors) {
  const std::array<std::int32_t, 2> indptr{0, 3};
  Batch batch;
  batch.qo_indptr = TensorView(indptr.data(), DType::i32, {2});
  EXPECT_THAT(error_of([&] { block_structure(variants::causal(), batch, {}); }),
              HasSubstr("batch.kv_lens"));
  batch.kv_lens = TensorView(indptr.data() + 1, DType::i32, {1});
  EXPECT_THAT(error_of([&] { block_structure(variants::full(), batch, {}); }),
              HasSubstr("the variant has no mask"));
  EXPECT_THAT(error_of([&] { block_structure(variants::causal(), batch, {}, 0); }),
              HasSubstr("q_block is 0"));
  EXPECT_THAT(
      error_of([&] { block_structure(with_mask(expr::kv_pos() < expr::q_head()), batch, {}); }),
      HasSubstr("the mask depends on the head"));
  batch.interleave.world = 2;
  EXPECT_THAT(error_of([&] { block_structure(variants::causal(), batch, {}); }),
              HasSubstr("batch.interleave has world 2"));
}

}  // namespace
}  // namespace tilewright::test
