// SPDX-License-Identifier: Apache-2.0
// Positions with several axes against the rotations of the models that have them: Qwen2-VL, whose
// axes have runs of pairs, and Qwen3-VL, whose axes take turns.
#include <gtest/gtest.h>
#include <tilewright/ops.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

namespace tilewright::test {
namespace {

struct Golden {
  std::string model;
  RopeSections sections;
  double theta = 0;
  std::vector<std::int64_t> positions;  // [axes, tokens]
  std::vector<float> x;                 // [tokens, dim]
  std::vector<float> rotated;
};

template <typename T>
void append(std::istream& from, std::vector<T>& values) {
  for (T value{}; from >> value;) values.push_back(value);
}

std::vector<Golden> read_golden(const std::string& path) {
  std::ifstream file(path);
  std::vector<Golden> all;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (name == "model") {
      Golden& golden = all.emplace_back();
      words >> golden.model;
      for (std::size_t axis = 0; axis < 3; ++axis) words >> golden.sections.pairs[axis];
      words >> golden.theta;
      golden.sections.interleaved = golden.model == "qwen3_vl";
    } else if (name == "positions") {
      append(words, all.back().positions);
    } else if (name == "x") {
      append(words, all.back().x);
    } else if (name == "rotated") {
      append(words, all.back().rotated);
    }
  }
  return all;
}

TEST(RopeGolden, AxesAreThoseOfTheModels) {
  const std::vector<Golden> all = read_golden(TILEWRIGHT_TEST_DATA "/rope_axes_golden.txt");
  ASSERT_EQ(all.size(), 2U);
  for (const Golden& golden : all) {
    SCOPED_TRACE(golden.model);
    const std::int64_t tokens = std::ssize(golden.positions) / 3;
    const std::int64_t dim = std::ssize(golden.x) / tokens;
    ASSERT_EQ(golden.x.size(), golden.rotated.size());
    std::vector<float> out(golden.x.size());
    const TensorView x(golden.x.data(), DType::f32, {tokens, 1, dim});
    const TensorView positions(golden.positions.data(), DType::i64, {3, tokens});
    const auto expect = [&](const RopeSections& sections, bool same) {
      apply_rope(x, positions, TensorView(out.data(), DType::f32, {tokens, 1, dim}),
                 RopeSpec{.theta = golden.theta}, sections);
      float most = 0;
      for (std::size_t i = 0; i < out.size(); ++i) {
        most = std::max(most, std::abs(out[i] - golden.rotated[i]));
      }
      EXPECT_EQ(most < 2e-6F, same) << "largest difference " << most;
    };
    expect(golden.sections, true);
    // The other model's way to share out pairs is another one.
    RopeSections other = golden.sections;
    other.interleaved = !other.interleaved;
    expect(other, false);
  }
}

}  // namespace
}  // namespace tilewright::test
