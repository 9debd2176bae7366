// SPDX-License-Identifier: Apache-2.0
// The GGUF reader on files written here, whole and damaged.
#include "engine/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "engine/dequantize.h"
#include "engine/expect_error.h"
#include "engine/gguf_writer.h"
#include "support/random.h"

namespace tilewright::test {
namespace {

using engine::GgufFile;
using testing::ElementsAre;

// Has every value type and two tensors.
GgufWriter example() {
  GgufWriter writer;
  writer.set("general.architecture", std::string("llama"))
      .set("a.u8", std::uint8_t{200})
      .set("a.i8", std::int8_t{-100})
      .set("a.u16", std::uint16_t{60000})
      .set("a.i16", std::int16_t{-30000})
      .set("a.u32", std::uint32_t{4000000000U})
      .set("a.i32", std::int32_t{-2000000000})
      .set("a.u64", std::uint64_t{1} << 40)
      .set("a.i64", -(std::int64_t{1} << 40))
      .set("a.f32", 1.5F)
      .set("a.f64", 1e300)
      .set("a.bool", true)
      .set("a.strings", std::vector<std::string>{"x", "", "yz"})
      .set("a.integers", std::vector<std::int32_t>{3, -4})
      .set("a.nested", std::vector<std::vector<std::int32_t>>{{1}, {2, 3}});
  writer.add_tensor("matrix", {2, 3}, {1, 2, 3, 4, 5, 6}).add_tensor("vector", {2}, {7, 8});
  return writer;
}

void expect_damaged(const GgufWriter& writer, std::initializer_list<std::string_view> parts,
                    std::uint64_t alignment = 32) {
  const TemporaryFile file(writer.bytes(alignment));
  expect_error([&] { GgufFile{file.path()}; }, parts);
  expect_error([&] { GgufFile{file.path()}; }, {file.path()});
}

TEST(Gguf, ReadsEveryValueType) {
  for (const std::uint32_t version : {2U, 3U}) {
    GgufWriter writer = example();
    writer.version = version;
    const TemporaryFile temporary(writer.bytes());
    const GgufFile file(temporary.path());
    EXPECT_EQ(file.path(), temporary.path());
    EXPECT_EQ(file.string("general.architecture"), "llama");
    constexpr auto kMin = std::numeric_limits<std::int64_t>::min();
    constexpr auto kMax = std::numeric_limits<std::int64_t>::max();
    EXPECT_EQ(file.integer("a.u8", kMin, kMax), 200);
    EXPECT_EQ(file.integer("a.i8", kMin, kMax), -100);
    EXPECT_EQ(file.integer("a.u16", kMin, kMax), 60000);
    EXPECT_EQ(file.integer("a.i16", kMin, kMax), -30000);
    EXPECT_EQ(file.integer("a.u32", kMin, kMax), 4000000000);
    EXPECT_EQ(file.integer("a.i32", kMin, kMax), -2000000000);
    EXPECT_EQ(file.integer("a.u64", kMin, kMax), std::int64_t{1} << 40);
    EXPECT_EQ(file.integer("a.i64", kMin, kMax), -(std::int64_t{1} << 40));
    EXPECT_EQ(file.number("a.f32"), 1.5);
    EXPECT_EQ(file.number("a.f64"), 1e300);
    EXPECT_EQ(file.number("a.i8"), -100.0);
    EXPECT_TRUE(file.boolean("a.bool"));
    EXPECT_THAT(file.strings("a.strings"), ElementsAre("x", "", "yz"));
    EXPECT_THAT(file.integers("a.integers", kMin, kMax), ElementsAre(3, -4));
    const auto& nested = std::get<engine::GgufArray>(file.value("a.nested").value);
    ASSERT_EQ(nested.size(), 2U);
    EXPECT_EQ(std::get<engine::GgufArray>(nested[1].value).size(), 2U);
  }
}

TEST(Gguf, ReadsTensors) {
  const TemporaryFile temporary(example().bytes());
  const GgufFile file(temporary.path());
  ASSERT_EQ(file.tensors().size(), 2U);
  const auto& matrix = file.tensor("matrix", std::array<std::int64_t, 2>{2, 3});
  EXPECT_EQ(matrix.numel(), 6);
  EXPECT_THAT(engine::dequantize(matrix), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_THAT(engine::dequantize(*file.find_tensor("vector")), ElementsAre(7, 8));
  EXPECT_EQ(file.find_tensor("other"), nullptr);
}

TEST(Gguf, FollowsTheAlignmentOfTheFile) {
  GgufWriter writer = example();
  writer.set("general.alignment", std::uint32_t{256});
  const TemporaryFile temporary(writer.bytes(256));
  EXPECT_THAT(engine::dequantize(*GgufFile(temporary.path()).find_tensor("vector")),
              ElementsAre(7, 8));
}

TEST(Gguf, AVocabularyAloneNeedsNoTensors) {
  const TemporaryFile temporary(GgufWriter().set("a", true).bytes());
  EXPECT_TRUE(GgufFile(temporary.path()).tensors().empty());
}

TEST(Gguf, TypedReadsNameKeyValueAndExpectation) {
  const TemporaryFile temporary(example().bytes());
  const GgufFile file(temporary.path());
  expect_error([&] { file.string("absent"); }, {temporary.path(), "'absent'", "missing"});
  expect_error([&] { file.string("a.u8"); }, {"'a.u8'", "an integer", "must hold a string"});
  expect_error([&] { file.boolean("a.u8"); }, {"'a.u8'", "must hold a boolean"});
  expect_error([&] { file.integer("a.f32", 0, 9); }, {"'a.f32'", "must hold an integer"});
  expect_error([&] { file.integer("a.u8", 1, 100); }, {"'a.u8'", "200", "[1, 100]"});
  expect_error([&] { file.number("a.strings"); }, {"'a.strings'", "must hold a number"});
  expect_error([&] { file.strings("a.integers"); }, {"'a.integers'", "strings only"});
  expect_error([&] { file.integers("a.strings", 0, 9); }, {"'a.strings'", "an integer"});
  expect_error([&] { file.integers("a.integers", 0, 9); }, {"'a.integers'", "-4", "[0, 9]"});
  const std::array<std::int64_t, 2> shape = {3, 2};
  expect_error([&] { file.tensor("matrix", shape); }, {"'matrix'", "[2, 3]", "[3, 2]"});
  expect_error([&] { file.tensor("absent", shape); }, {"'absent'", "missing"});
}

TEST(Gguf, RefusesFilesThatAreNone) {
  expect_error([] { GgufFile("/nonexistent/model.gguf"); },
               {"/nonexistent/model.gguf", "No such file"});
  expect_error([] { GgufFile("/"); }, {"regular file"});
  const TemporaryFile empty("");
  expect_error([&] { GgufFile{empty.path()}; }, {"truncated", "magic", "of 0"});
  const TemporaryFile foreign(std::string("PK\x03\x04", 4) + std::string(100, 'x'));
  expect_error([&] { GgufFile{foreign.path()}; }, {"'PK\\x03\\x04'", "'GGUF'"});
}

TEST(Gguf, RefusesOtherVersions) {
  GgufWriter writer = example();
  writer.version = 1;
  expect_damaged(writer, {"version is 1", "2 or 3"});
  writer.version = 4;
  expect_damaged(writer, {"version is 4", "2 or 3"});
  writer.version = 0x03000000;
  expect_damaged(writer, {"big-endian"});
}

TEST(Gguf, RefusesCountsThatTheFileCannotHold) {
  GgufWriter writer = example();
  writer.extra_tensors = std::int64_t{1} << 60;
  expect_damaged(writer, {"tensor count", "hold at most"});
  writer.extra_tensors = 0;
  writer.extra_keys = std::int64_t{1} << 60;
  expect_damaged(writer, {"key count", "hold at most"});
  const auto huge = GgufWriter::raw(std::uint64_t{1} << 62);
  expect_damaged(
      GgufWriter().set_raw(GgufWriter::as_string("s") + GgufWriter::raw(std::uint32_t{8}) + huge),
      {"truncated", "'s'", "4611686018427387904"});
  expect_damaged(
      GgufWriter().set_raw(GgufWriter::as_string("array") + GgufWriter::raw(std::uint32_t{9}) +
                           GgufWriter::raw(std::uint32_t{0}) + huge),
      {"the length of key 'array'", "hold at most"});
  expect_damaged(GgufWriter().set_raw(huge + std::string(20, 'x')), {"truncated", "key 0"});
}

TEST(Gguf, RefusesMalformedMetadata) {
  expect_damaged(GgufWriter().set("twice", true).set("twice", false), {"'twice'", "twice"});
  expect_damaged(GgufWriter().set("", true).set("x", std::string(99, 'x')), {"empty name"});
  const auto entry = [](std::uint32_t type, std::string_view value) {
    return GgufWriter().set_raw(GgufWriter::as_string("key") + GgufWriter::raw(type).append(value));
  };
  expect_damaged(entry(13, "12345678"), {"'key'", "value type 13", "at most 12"});
  expect_damaged(entry(7, "\x02"), {"'key'", "boolean 2"});
  std::string deep;
  for (int i = 0; i < 40; ++i) {
    deep += GgufWriter::raw(std::uint32_t{9}) + GgufWriter::raw(std::uint64_t{1});
  }
  expect_damaged(entry(9, deep), {"'key'", "nests arrays"});
  GgufWriter writer = example();
  writer.set("general.alignment", std::uint32_t{24});
  expect_damaged(writer, {"general.alignment", "24", "power of two"});
  expect_damaged(GgufWriter().set("general.alignment", std::uint32_t{0}), {"general.alignment"});
}

TEST(Gguf, RefusesMalformedTensors) {
  const std::vector<float> four(4);
  expect_damaged(GgufWriter().add_tensor("t", {4}, four).add_tensor("t", {4}, four),
                 {"'t'", "twice"});
  expect_damaged(GgufWriter().add_tensor("", {4}, four), {"tensor 0", "empty name"});
  expect_damaged(GgufWriter().add_tensor("t", {}, four), {"'t'", "0 dimensions", "1 to 4"});
  expect_damaged(GgufWriter().add_tensor("t", {1, 1, 1, 1, 4}, four), {"5 dimensions"});
  expect_damaged(GgufWriter().add_tensor("t", {0, 4}, four), {"'t'", "[0, 4]", "positive"});
  expect_damaged(GgufWriter().add_tensor("t", {-4}, four), {"'t'", "[-4]", "positive"});
  constexpr std::int64_t kHuge = std::int64_t{1} << 40;
  expect_damaged(GgufWriter().add_tensor("t", {kHuge, kHuge}, four), {"'t'", "product"});
  expect_damaged(GgufWriter().add_tensor("t", {4}, 4, "data"), {"'t'", "unknown type 4"});
  expect_damaged(GgufWriter().add_tensor("t", {2, 48}, 2, std::string(54, 'x')),
                 {"'t'", "rows of 48", "Q4_0", "multiple of 32"});
  expect_damaged(GgufWriter().add_tensor("t", {5}, four), {"'t'", "truncated", "20 bytes"});
}

TEST(Gguf, RefusesDataOutOfPlace) {
  for (const std::int64_t shift : {std::int64_t{1}, std::int64_t{4}}) {
    GgufWriter writer = example();
    writer.offset_shift["vector"] = shift;
    expect_damaged(writer, {"'vector'", "multiple of 32"});
  }
  GgufWriter writer = example();
  writer.offset_shift["vector"] = 64;
  expect_damaged(writer, {"'vector'", "truncated", "offset 96"});
  writer.offset_shift["vector"] = std::numeric_limits<std::int64_t>::min();
  expect_damaged(writer, {"'vector'", "truncated"});
}

TEST(Gguf, RefusesTensorsThatOverlap) {
  GgufWriter writer;
  writer.add_tensor("first", {16}, std::vector<float>(16))
      .add_tensor("second", {16}, std::vector<float>(16));
  writer.offset_shift["second"] = -32;
  expect_damaged(writer, {"'first'", "'second'", "overlap", "offsets 0 and 32"});
  writer.offset_shift["second"] = -64;  // the same bytes
  expect_damaged(writer, {"overlap"});
}

TEST(Gguf, RefusesEveryTruncation) {
  const std::string whole = example().bytes();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const TemporaryFile file(std::string_view(whole).substr(0, length));
    EXPECT_THROW(GgufFile{file.path()}, Error) << length << " of " << whole.size();
  }
}

TEST(Gguf, SurvivesRandomDamage) {
  const std::string whole = example().bytes();
  Random random(1);
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    std::string damaged = whole;
    for (std::int64_t i = random.range(1, 3); i > 0; --i) {
      damaged[random.range(0, static_cast<std::int64_t>(whole.size()) - 1)] =
          static_cast<char>(random.bits());
    }
    const TemporaryFile temporary(damaged);
    try {
      const GgufFile file(temporary.path());
      for (const auto& tensor : file.tensors()) engine::dequantize(tensor);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace tilewright::test
