// SPDX-License-Identifier: Apache-2.0
// The ladder's rows as they are read, what they count for, and that its check sees wrong outputs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/ladder_check.h"
#include "bench/ladder_row.h"
#include "support/reference.h"

namespace tilewright::bench {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

// Two requests, 2 queries on 40 keys and 3 on 33; groups of 2 heads.
std::string line(const std::string& options, const std::string& causal = "1") {
  return "name kind 4 2 16 8 " + causal + " 2 2 3 40 33 " + options;
}

std::string what_is_wrong(const std::string& text) {
  try {
    read_ladder_row(text);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "nothing";
}

TEST(LadderRow, LinesHaveLengthsAndOptions) {
  const LadderRow plain = read_ladder_row(line(""));
  EXPECT_EQ(plain.name, "name");
  EXPECT_EQ(plain.kind, "kind");
  EXPECT_THAT(plain.q_lens, ElementsAre(2, 3));
  EXPECT_THAT(plain.kv_lens, ElementsAre(40, 33));
  EXPECT_EQ(plain.prefix + plain.window + plain.prefill_limit, 0);
  EXPECT_FALSE(plain.sinks);
  EXPECT_EQ(plain.kv_dtype, DType::bf16);

  const LadderRow row =
      read_ladder_row(line("window=5 sinks=1 kv_dtype=f8e4m3 prefill_limit=2048"));
  EXPECT_EQ(row.window, 5);
  EXPECT_TRUE(row.sinks);
  EXPECT_EQ(row.kv_dtype, DType::f8e4m3);
  EXPECT_EQ(row.prefill_limit, 2048);
  EXPECT_EQ(read_ladder_row(line("prefix=16")).prefix, 16);
  EXPECT_FALSE(row.zeros);
  EXPECT_TRUE(read_ladder_row(line("zeros=1")).zeros);
}

TEST(LadderRow, SaysWhatIsWrongWithALine) {
  EXPECT_THAT(what_is_wrong("name kind 4 2"), HasSubstr("no row of the ladder"));
  EXPECT_THAT(what_is_wrong("name kind 4 2 16 8 1 2 2 3 40"), HasSubstr("fewer lengths"));
  EXPECT_THAT(what_is_wrong(line("16")), HasSubstr("not known: 16"));
  EXPECT_THAT(what_is_wrong(line("kv_dtype=f32")), HasSubstr("not known: kv_dtype=f32"));
  EXPECT_THAT(what_is_wrong(line("window=-1")), HasSubstr("window=-1: not a number"));
  EXPECT_THAT(what_is_wrong(line("window=")), HasSubstr("not a number"));
  EXPECT_THAT(what_is_wrong(line("prefix=12")), HasSubstr("whole pages"));
  EXPECT_THAT(what_is_wrong(line("prefix=16 window=4")), HasSubstr("without prefix"));
  EXPECT_THAT(what_is_wrong(line("window=4", "0")), HasSubstr("are causal"));
  EXPECT_THAT(what_is_wrong(line("prefix=16 prefill_limit=4")), HasSubstr("for prefill anyway"));
}

TEST(LadderRow, CountsThePairsThatAttend) {
  constexpr double kPair = 4.0 * 16 * 4;
  EXPECT_EQ(read_ladder_row(line("", "0")).flops(), (2 * 40 + 3 * 33) * kPair);
  EXPECT_EQ(read_ladder_row(line("")).flops(), (39 + 40 + 31 + 32 + 33) * kPair);
  EXPECT_EQ(read_ladder_row(line("window=5")).flops(), 5 * 5 * kPair);
  EXPECT_EQ(read_ladder_row(line("window=32")).flops(), (32 * 2 + 31 + 32 + 32) * kPair);
}

TEST(LadderRow, CountsTheBytesThatAreRead) {
  constexpr double kToken = 2 * 2 * 16;  // elements of K and V
  EXPECT_EQ(read_ladder_row(line("")).kv_bytes(), 73 * kToken * 2);
  EXPECT_EQ(read_ladder_row(line("kv_dtype=f8e4m3")).kv_bytes(), 73 * kToken);
  EXPECT_EQ(read_ladder_row(line("prefix=16")).kv_bytes(), (73 - 16) * kToken * 2);
  // The first query's window begins as many keys before the last one's as there are queries.
  EXPECT_EQ(read_ladder_row(line("window=5")).kv_bytes(), (6 + 7) * kToken * 2);
  EXPECT_EQ(read_ladder_row(line("")).bytes(), 73 * kToken * 2 + 2 * 5 * 4 * 16 * 2);
}

// All outputs of a row as the float64 reference of the tests has them, in bf16.
Halves outputs(const LadderInputs& in) {
  const LadderRow& row = in.row;
  const test::Dims dims{row.qo_heads, row.kv_heads, row.head_dim, row.head_dim};
  const std::size_t vector = static_cast<std::size_t>(row.head_dim);
  test::Semantics semantics;
  semantics.mask = [&](const test::Element& at) {
    return (!row.causal || at.kv_pos <= at.q_pos) &&
           (row.window == 0 || at.kv_pos > at.q_pos - row.window);
  };
  Halves all;
  std::size_t next_q = 0;
  for (int r = 0; r < row.requests(); ++r) {
    const auto index = static_cast<std::size_t>(r);
    test::Request request;
    for (int i = 0; i < row.q_lens[index]; ++i) {
      request.q_pos.push_back(row.kv_lens[index] - row.q_lens[index] + i);
      for (std::size_t d = 0; d < vector * static_cast<std::size_t>(row.qo_heads); ++d) {
        request.q.push_back(bf16_to_f32(in.q[next_q++]));
      }
    }
    for (int j = 0; j < row.kv_lens[index]; ++j) {
      request.kv_pos.push_back(j);
      const std::int64_t page =
          in.pages.flat[static_cast<std::size_t>(r * in.pages.flat_columns + j / row.page_size)];
      for (int kv_of = 0; kv_of < 2; ++kv_of) {
        std::vector<double>& to = kv_of == 0 ? request.k : request.v;
        const std::int64_t slot = (page * 2 + kv_of) * row.page_size + j % row.page_size;
        for (int head = 0; head < row.kv_heads; ++head) {
          to.resize(to.size() + vector);
          in.kv.load(static_cast<std::size_t>(slot * row.kv_heads + head) * vector,
                     to.data() + to.size() - vector);
        }
      }
    }
    const std::vector<double> sinks(in.sinks.begin(), in.sinks.end());
    const double sm_scale = 1 / std::sqrt(static_cast<double>(row.head_dim));
    for (const double value :
         test::reference_attention(request, dims, semantics, sm_scale, sinks).out) {
      all.push_back(f32_to_bf16(static_cast<float>(value)));
    }
  }
  return all;
}

// The error of a row's true outputs against row `other`, which has the same tensors.
double error_between(const std::string& row_line, const std::string& other_line) {
  const LadderRow row = read_ladder_row(row_line);
  const LadderRow other = read_ladder_row(other_line);
  const LadderPages pages(row);
  const Halves q = random_halves(static_cast<std::size_t>(row.q_tokens() * row.qo_heads) *
                                     static_cast<std::size_t>(row.head_dim),
                                 3);
  const LadderKv kv(row, pages.count);
  const LadderKv other_kv(other, pages.count);
  return ladder_error({other, pages, q, other_kv, ladder_sinks(other)},
                      outputs({row, pages, q, kv, ladder_sinks(row)}));
}

TEST(LadderCheck, AcceptsTheReference) {
  for (const char* options : {"", "prefix=16", "window=5", "sinks=1", "kv_dtype=f8e4m3",
                              "window=7 sinks=1 kv_dtype=f8e4m3"}) {
    EXPECT_LT(error_between(line(options), line(options)), 4e-3) << options;
  }
  EXPECT_LT(error_between(line("", "0"), line("", "0")), 4e-3);
}

TEST(LadderCheck, SeesWhatWasForgotten) {
  const std::vector<std::pair<std::string, std::string>> pairs = {
      {"", "window=5"}, {"window=6", "window=5"}, {"", "sinks=1"},
      {"sinks=1", ""},  {"", "kv_dtype=f8e4m3"},
  };
  for (const auto& [computed, wanted] : pairs) {
    EXPECT_GT(error_between(line(computed), line(wanted)), 1.5e-2) << computed << "/" << wanted;
  }
  EXPECT_GT(error_between(line("", "0"), line("")), 1.5e-2);
}

TEST(LadderCheck, SinksMatterBesideThousandsOfKeys) {
  const std::string decode = "name decode 4 2 16 8 1 1 1 4096 ";
  EXPECT_GT(error_between(decode, decode + "sinks=1"), 0.1);
}

TEST(LadderCheck, SeesNaN) {
  const LadderRow row = read_ladder_row(line(""));
  const LadderPages pages(row);
  const Halves q = random_halves(5 * 4 * 16, 3);
  const LadderKv kv(row, pages.count);
  const std::vector<float> sinks;
  EXPECT_EQ(ladder_error({row, pages, q, kv, sinks}, Halves(q.size(), 0xFFFF)), INFINITY);
}

}  // namespace
}  // namespace tilewright::bench
