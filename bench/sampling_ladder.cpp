// SPDX-License-Identifier: Apache-2.0
// What sampling costs on a GPU, straight from logits that are in no cache:
//
//   sampling_ladder [SUBSTRING] [--vocabulary N] [--once]
//
// A line has the microseconds of a call in a CUDA graph of many, for 1, 16, 64 and 256 rows: of
// sample(), and where the name begins with "values" of top_k(). All tokens or indices are compared
// with the CPU's first; with --once that is all (for profilers).
#include <tilewright/tilewright.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>

#include "base/numeric.h"
#include "place.h"

namespace tilewright::bench {
namespace {

constexpr std::int64_t kRows[] = {1, 16, 64, 256};
constexpr std::size_t kColdBytes = std::size_t{400} << 20;

using Logits = std::function<float(std::int64_t id, std::minstd_rand& random)>;

float normal(std::minstd_rand& random, float scale) {
  return std::normal_distribution<float>(0, scale)(random);
}

struct Case {
  std::string name;
  DType dtype = DType::f32;
  SamplingArgs args;
  Logits logits;
  std::int64_t values = 0;  // of top_k(), if not 0
  // Outputs beside the token.
  bool probabilities = false;
  bool raw = false;        // log-probabilities: of the token and of the `best` ones, and its rank
  bool processed = false;  // the same behind filters
  std::int64_t best = 20;
};

std::vector<Case> cases() {
  const Logits usual = [](std::int64_t, std::minstd_rand& random) { return normal(random, 2); };
  const Logits flat = [](std::int64_t, std::minstd_rand&) { return 1.5F; };
  const Logits peak = [](std::int64_t id, std::minstd_rand& random) {
    return id == 777 ? 40.0F : normal(random, 1);
  };
  const Logits ties = [](std::int64_t, std::minstd_rand& random) {
    return std::round(normal(random, 2) * 2) / 2;
  };
  // As of a language model: a few tokens stand out of a wide rest.
  const Logits model = [](std::int64_t, std::minstd_rand& random) {
    const float x = normal(random, 2);
    return std::uniform_int_distribution<int>(0, 2000)(random) == 0 ? x + 14 : x;
  };
  struct Filters {
    const char* name;
    float temperature;
    std::int32_t top_k;
    float top_p;
    float min_p;
  };
  constexpr Filters kFilters[] = {
      {"greedy", 0, 0, 1, 0},          {"temperature", 0.8F, 0, 1, 0},
      {"top_p0.9", 1, 0, 0.9F, 0},     {"top_k40", 1, 40, 1, 0},
      {"min_p0.05", 1, 0, 1, 0.05F},   {"top_k40_top_p0.9", 1, 40, 0.9F, 0},
      {"all", 0.8F, 50, 0.95F, 0.02F},
  };
  std::vector<Case> list;
  const auto add = [&](const std::string& name, const Filters& filters, const Logits& logits,
                       DType dtype) {
    Case c;
    c.name = name;
    c.dtype = dtype;
    c.args.temperature = filters.temperature;
    c.args.top_k = filters.top_k;
    c.args.top_p = filters.top_p;
    c.args.min_p = filters.min_p;
    c.args.seeds = 5;
    c.logits = logits;
    list.push_back(std::move(c));
  };
  for (const Filters& filters : kFilters) add(filters.name, filters, usual, DType::f32);
  for (const int which : {2, 5, 6}) {
    add(std::string(kFilters[which].name) + "_bf16", kFilters[which], usual, DType::bf16);
  }
  for (const int which : {2, 6}) {
    add(std::string(kFilters[which].name) + "_model", kFilters[which], model, DType::f32);
    add(std::string(kFilters[which].name) + "_flat", kFilters[which], flat, DType::f32);
    add(std::string(kFilters[which].name) + "_peak", kFilters[which], peak, DType::f32);
    add(std::string(kFilters[which].name) + "_ties", kFilters[which], ties, DType::f32);
  }
  add("top_k2000", {"", 1, 2000, 1, 0}, usual, DType::f32);
  add("top_p0.9999", {"", 1, 0, 0.9999F, 0}, usual, DType::f32);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::string end = dtype == DType::bf16 ? "_bf16" : "";
    add("outputs_raw_best20" + end, kFilters[5], usual, dtype);
    list.back().raw = true;
    add("outputs_both_best20" + end, kFilters[5], usual, dtype);
    list.back().raw = list.back().processed = true;
  }
  add("outputs_raw_best20_temperature", kFilters[1], usual, DType::f32);
  list.back().raw = true;
  add("outputs_raw_best20_top_p0.9", kFilters[2], usual, DType::f32);
  list.back().raw = true;
  add("outputs_raw_best2000", kFilters[5], usual, DType::f32);
  list.back().raw = true;
  list.back().best = 2000;
  add("outputs_probabilities", kFilters[6], usual, DType::f32);
  list.back().probabilities = true;
  add("outputs_probabilities_temperature", kFilters[1], usual, DType::f32);
  list.back().probabilities = true;
  add("all_outputs", kFilters[6], usual, DType::f32);
  list.back().probabilities = list.back().raw = list.back().processed = true;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t k : {40, 2000}) {
      add("values" + std::to_string(k) + (dtype == DType::bf16 ? "_bf16" : ""), kFilters[0], usual,
          dtype);
      list.back().values = k;
    }
  }
  return list;
}

void run(const Case& c, std::int64_t vocabulary, bool once) {
  std::printf("%-34s", c.name.c_str());
  for (const std::int64_t rows : kRows) {
    Place place({DeviceType::cuda, 0});
    // A few rows' numbers, moved on: making them all takes longer than all else.
    const std::int64_t own = std::min<std::int64_t>(rows, 4);
    const std::size_t row_bytes = static_cast<std::size_t>(vocabulary * dtype_bytes(c.dtype));
    std::vector<char> host(row_bytes * static_cast<std::size_t>(rows));
    std::minstd_rand random(3);
    for (std::int64_t i = 0; i < own * vocabulary; ++i)
      store_element(host.data(), c.dtype, i, c.logits(i % vocabulary, random));
    for (std::int64_t row = own; row < rows; ++row) {
      std::memcpy(host.data() + static_cast<std::size_t>(row) * row_bytes,
                  host.data() + static_cast<std::size_t>(row % own) * row_bytes, row_bytes);
    }
    const auto copies = static_cast<int>(std::clamp<std::size_t>(kColdBytes / host.size(), 3, 400));
    std::vector<TensorView> logits;
    const auto view = [&](void* data) {
      return TensorView(data, c.dtype, {rows, vocabulary}, place.device());
    };
    logits.push_back(view(place.upload(host.data(), host.size())));
    for (int i = 1; i < copies; ++i)
      logits.push_back(view(place.duplicate(logits[0].data, host.size())));
    Ints steps(static_cast<std::size_t>(rows) * 2), tokens(static_cast<std::size_t>(rows), -1);
    for (std::int64_t row = 0; row < rows; ++row)
      steps[static_cast<std::size_t>(2 * row)] = static_cast<std::int32_t>(row);
    SamplingArgs args = c.args;
    args.stream = place.stream();
    args.steps = TensorView(place.upload(steps.data(), steps.size() * 4), DType::i64, {rows},
                            place.device());
    const std::int64_t told = std::max<std::int64_t>(c.values, 1);
    tokens.resize(static_cast<std::size_t>(rows * told), -1);
    const std::vector<char> room(static_cast<std::size_t>(rows * vocabulary * 4));
    const TensorView values(c.values > 0 ? place.upload(room.data(), room.size()) : nullptr,
                            c.dtype, {rows, told}, place.device());
    const auto room_for = [&](std::int64_t columns, DType dtype) {
      return TensorView(place.upload(room.data(), static_cast<std::size_t>(rows * columns * 4)),
                        dtype, {rows, columns}, place.device());
    };
    if (c.probabilities) args.outputs.probabilities = room_for(vocabulary, DType::f32);
    const auto log_probs = [&] {
      return LogProbs{room_for(1, DType::f32).select(1, 0), room_for(1, DType::i32).select(1, 0),
                      room_for(c.best, DType::f32), room_for(c.best, DType::i32)};
    };
    if (c.raw) args.outputs.raw = log_probs();
    if (c.processed) args.outputs.processed = log_probs();
    TensorView out = place.ints(tokens);
    if (c.values > 0) out = TensorView(out.data, DType::i32, {rows, told}, place.device());
    const auto call = [&](const TensorView& of) {
      if (c.values > 0) {
        top_k(of, values, out, place.stream());
      } else {
        sample(of, args, out);
      }
    };
    call(logits[0]);
    place.download(tokens, out.data);
    SamplingArgs on_cpu = c.args;
    on_cpu.steps = TensorView(steps.data(), DType::i64, {rows});
    Ints expected(tokens.size());
    const TensorView on_host(host.data(), c.dtype, {rows, vocabulary});
    if (c.values > 0) {
      std::vector<char> found(static_cast<std::size_t>(rows * told * 4));
      top_k(on_host, TensorView(found.data(), c.dtype, {rows, told}),
            TensorView(expected.data(), DType::i32, {rows, told}));
    } else {
      sample(on_host, on_cpu, TensorView(expected.data(), DType::i32, {rows}));
    }
    const double us =
        once ? 0
             : place.device_us(copies, [&](int i) { call(logits[static_cast<std::size_t>(i)]); });
    std::printf(" %8.1f%s", us, tokens == expected ? "" : " WRONG");
    std::fflush(stdout);
  }
  std::printf("\n");
}

}  // namespace
}  // namespace tilewright::bench

int main(int argc, char** argv) try {
  std::int64_t vocabulary = 128256;
  std::string part;
  bool once = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--vocabulary") == 0 && i + 1 < argc) {
      vocabulary = std::atoll(argv[++i]);
    } else if (std::strcmp(argv[i], "--once") == 0) {
      once = true;
    } else {
      part = argv[i];
    }
  }
  std::printf("%-34s", "us, rows:");
  for (const std::int64_t rows : tilewright::bench::kRows)
    std::printf(" %8lld", static_cast<long long>(rows));
  std::printf("\n");
  for (const auto& c : tilewright::bench::cases()) {
    if (c.name.find(part) != std::string::npos) tilewright::bench::run(c, vocabulary, once);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
