// SPDX-License-Identifier: Apache-2.0
// The program with `--device cuda` on test doubles of the driver and of cuBLASLt: what it puts
// together, captures and launches. Kernels do nothing there, so all logits are 0 and all tokens the
// first one. tests/engine has the numbers, where there is a GPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <set>
#include <sstream>

#include "cli/cache_fixture.h"
#include "engine/tiny_model.h"

namespace tilewright {
namespace {

using test::Outcome;
using test::TemporaryFile;
using test::TinyModel;
using ::testing::Each;
using ::testing::Gt;

TinyModel tiny_model() {
  TinyModel model;
  model.context = 512;
  return model;
}

class CliDevice : public test::CliCacheFixture {
 protected:
  CliDevice() {
    environment +=
        "XDG_CACHE_HOME=" + test::shared_cache_home(cache_.path()) +
        " LD_LIBRARY_PATH=" + std::filesystem::path(TILEWRIGHT_FAKE_CUDA).parent_path().string() +
        " TILEWRIGHT_CUBLASLT=" TILEWRIGHT_FAKE_CUBLASLT " FAKE_CUBLASLT_LOG=" + log_.path() + " ";
  }

  Outcome run_on_gpu(std::vector<std::string> command, const std::string& input) {
    for (const char* more :
         {"--model", model_.path().c_str(), "--input", "-", "--device", "cuda", "--json"}) {
      command.emplace_back(more);
    }
    return run(command, input);
  }

  // Of the products so far: for how many rows algorithms were chosen, and how many rows there were.
  struct Products {
    std::set<int> chosen_for, rows;
  };
  Products products() const {
    Products products;
    std::istringstream lines(test::contents(log_.path()));
    for (int rows = 0, chosen_for = 0; lines >> rows >> chosen_for;) {
      products.rows.insert(rows);
      products.chosen_for.insert(chosen_for);
    }
    return products;
  }

  const TemporaryFile model_{tiny_model().write().bytes()};
  const TemporaryFile log_{std::string()};
};

std::string tokens_of(std::size_t count) {
  std::string tokens = "5";
  for (std::size_t i = 1; i < count; ++i) tokens += ", " + std::to_string(i % 200);
  return "[" + tokens + "]";
}

TEST_F(CliDevice, ScoresInChunks) {
  const Outcome outcome =
      run_on_gpu({"score", "--top", "2"}, "{\"id\": 1, \"tokens\": " + tokens_of(300) + "}\n");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  const Outcome::Json line = outcome.lines().at(0);
  const auto vocabulary = static_cast<double>(TinyModel{}.vocabulary());
  ASSERT_EQ(line["nll"].size(), 299U);
  for (const Outcome::Json& nll : line["nll"]) {
    EXPECT_NEAR(nll.get<double>(), std::log(vocabulary), 1e-9);
  }
  EXPECT_NEAR(line["perplexity"].get<double>(), vocabulary, 1e-6);
  ASSERT_EQ(line["top"].size(), 300U);
  EXPECT_EQ(line["top"][299], Outcome::Json::parse("[[0, 0.0], [1, 0.0]]"));
  EXPECT_EQ(products().rows, (std::set<int>{44, 256}));
}

TEST_F(CliDevice, BatchInvariantProductsAreOfOneAlgorithm) {
  std::string input;
  for (const std::size_t count : {1, 7, 150}) {
    input += "{\"tokens\": " + tokens_of(count) + ", \"max_new_tokens\": 3}\n";
  }
  const auto generate = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"generate", "--max-batch", "3", "--token-budget", "100"});
    const Outcome outcome = run_on_gpu(more, input);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    for (const Outcome::Json& line : outcome.lines()) {
      EXPECT_THAT(line["tokens"].get<std::vector<int>>(), Each(0));
    }
    return outcome.lines().size();
  };
  EXPECT_EQ(generate({"--batch-invariant", "--ignore-eos"}), 3U);
  EXPECT_THAT(products().rows.size(), Gt(3U));
  EXPECT_EQ(products().chosen_for, std::set<int>{64});
  EXPECT_EQ(generate({"--ignore-eos"}), 3U);
  EXPECT_EQ(products().chosen_for, products().rows);
}

}  // namespace
}  // namespace tilewright
