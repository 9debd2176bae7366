// SPDX-License-Identifier: Apache-2.0
// Structs that grow: callers and libraries of different versions understand each other.
#include "c_api/c_support.h"
#include "c_api/guard.h"
#include "c_api/read.h"

namespace tilewright::c_api {
namespace {

// A struct that had `first` at first, and got `second` in the version after.
struct Grown {
  std::size_t size;
  std::int64_t first;
  std::int64_t second;
};

}  // namespace

template <>
inline constexpr std::size_t kFirstSize<Grown> = offsetof(Grown, second);

namespace {

// As later versions of the caller see it.
struct Newer {
  Grown known;
  std::int64_t third;
};

using test::expect_invalid;

TEST(Sizes, AnOlderCallersStructReadsAsZeroBehind) {
  const Grown given = {16, 1, 2};
  const Grown read = read_struct("given", &given);
  EXPECT_EQ(read.first, 1);
  EXPECT_EQ(read.second, 0);
}

TEST(Sizes, ANewerCallersStructIsReadWhereTheRestIsZero) {
  Newer given = {{sizeof(Newer), 1, 2}, 0};
  EXPECT_EQ(read_struct("given", &given.known).second, 2);
  given.third = 1 << 16;
  expect_invalid(guarded([&] { read_struct("given", &given.known); }),
                 {"given.size is 32", "24 bytes", "byte 26"});
}

TEST(Sizes, NoVersionsSize) {
  Newer given = {{0, 1, 2}, 0};
  for (const std::size_t size : {std::size_t{0}, std::size_t{8}, std::size_t{15}, std::size_t{17},
                                 std::size_t{25}, std::size_t{4096}, ~std::size_t{0}}) {
    given.known.size = size;
    expect_invalid(guarded([&] { read_struct("given", &given.known); }),
                   {"given.size is " + std::to_string(size), "24 in this version"});
    expect_invalid(guarded([&] {
                     write_struct("given", &given.known, Grown{0, 5, 6});
                   }),
                   {"given.size is " + std::to_string(size)});
  }
  EXPECT_EQ(given.known.first, 1);
}

TEST(Sizes, ResultsGoAsFarAsTheCallersStruct) {
  Newer target = {{16, 1, 2}, 3};
  write_struct("target", &target.known, Grown{0, 5, 6});
  EXPECT_EQ(target.known.size, 16);
  EXPECT_EQ(target.known.first, 5);
  EXPECT_EQ(target.known.second, 2);
  target.known.size = sizeof(Newer);
  write_struct("target", &target.known, Grown{0, 7, 8});
  EXPECT_EQ(target.known.size, sizeof(Newer));
  EXPECT_EQ(target.known.second, 8);
  EXPECT_EQ(target.third, 0);
}

TEST(Sizes, ListsHaveTheStrideOfTheFirst) {
  std::array<Newer, 3> newer{};
  for (int i = 0; i < 3; ++i) newer[i] = {{sizeof(Newer), i, 10 * i}, 0};
  const StructList<const Grown> list("list", &newer[0].known, 3);
  ASSERT_EQ(list.size(), 3);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(list.read(i).second, static_cast<std::int64_t>(10 * i));
  }
  newer[2].known.size = sizeof(Grown);
  expect_invalid(guarded([&] { list.read(2); }), {"list[2].size is 24", "list[0], 32"});
  newer[2] = {{sizeof(Newer), 0, 0}, 1};
  expect_invalid(guarded([&] { list.read(2); }), {"list[2].size is 32"});
}

// A caller of a later version through the API itself.
struct NewerLimits {
  tw_limits known;
  std::int64_t later;
};

TEST(Sizes, OfALaterCaller) {
  auto spec = test::sized<tw_attention_spec>();
  spec.num_qo_heads = spec.num_kv_heads = 1;
  spec.head_dim = 8;
  test::AttentionHandle attention;
  ASSERT_OK(tw_attention_create(&spec, {}, attention.target()));
  NewerLimits limits{};
  limits.known = test::to_c(Limits{1, 2, 2, 16});
  limits.known.size = sizeof(NewerLimits);
  test::PlanHandle plan;
  const tw_attention* list = attention.get();
  ASSERT_OK(tw_plan_create(&list, 1, &limits.known, nullptr, plan.target()));
  NewerLimits got{};
  got.known.size = sizeof(NewerLimits);
  got.later = 99;
  ASSERT_OK(tw_plan_get_limits(plan.get(), &got.known));
  EXPECT_EQ(got.known.size, sizeof(NewerLimits));
  EXPECT_EQ(got.known.q_tokens, 2);
  EXPECT_EQ(got.later, 0);
  limits.later = 5;
  size_t bytes = 0;
  expect_invalid(tw_plan_workspace_bytes(&list, 1, &limits.known, &bytes), {"limits.size is"});
}

TEST(Sizes, PathsInMessages) {
  const Path list("inputs");
  const Path input(list, std::size_t{2});
  const Path level({input, "levels"}, std::size_t{0});
  EXPECT_EQ(Path({input, "levels"}).text(), "inputs[2].levels");
  EXPECT_EQ(list.text(), "inputs");
}

}  // namespace
}  // namespace tilewright::c_api
