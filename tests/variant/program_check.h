// SPDX-License-Identifier: Apache-2.0
// Random parameters, rows and keys, and the check of ExprProgram by the direct evaluator.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "variant/program.h"
#include "variant/reference.h"

namespace tilewright::test {

inline constexpr std::int64_t kBig = std::numeric_limits<std::int32_t>::max();

struct AlignedDelete {
  void operator()(void* p) const { std::free(p); }
};
using Scratch = std::unique_ptr<void, AlignedDelete>;
inline Scratch make_scratch(const ExprProgram& program) {
  const std::size_t bytes = (program.scratch_bytes() + 127) / 64 * 64;
  Scratch scratch(std::aligned_alloc(64, bytes));
  std::memset(scratch.get(), 0xFF, bytes);  // NaN, and not 0
  return scratch;
}

// Random values for the parameters of RandomExpressions.
struct RandomParams {
  std::array<float, 8> slope{};
  std::array<float, 64> bias{};
  std::array<std::int32_t, 4> i1{};
  std::array<std::int32_t, 60> table{};
  std::vector<ParamValue> run_values;
  std::vector<ParamValue> plan_values;

  RandomParams(Rng& rng, bool huge) {
    const auto real = [&] { return static_cast<float>(uniform(rng, -3000, 3000)) / 1000; };
    const auto integer = [&] {
      return static_cast<std::int32_t>(
          huge && uniform(rng, 0, 1) == 0 ? uniform(rng, -kBig - 1, kBig) : uniform(rng, -30, 30));
    };
    std::generate(slope.begin(), slope.end(), real);
    std::generate(bias.begin(), bias.end(), real);
    std::generate(i1.begin(), i1.end(), integer);
    std::generate(table.begin(), table.end(), integer);
    run_values.emplace_back("r0", static_cast<double>(real()));
    run_values.emplace_back("slope", TensorView(slope.data(), DType::f32, {8}));
    // Strides that are not those of a dense tensor.
    run_values.emplace_back("bias", TensorView(bias.data(), DType::f32, {8, 8}, {1, 8}));
    plan_values.emplace_back("i0", static_cast<double>(integer()));
    plan_values.emplace_back("i1", TensorView(i1.data(), DType::i32, {4}));
    plan_values.emplace_back("table", TensorView(table.data(), DType::i32, {3, 4, 5}));
  }

  void bind(const ParamBinder& binder, Bindings& bindings,
            std::map<std::string, BoundParam>& by_name) {
    const auto known = [&](const std::vector<ParamValue>& all) {
      std::vector<ParamValue> used;
      for (const ParamValue& value : all) {
        if (binder.index_of(value.name) >= 0) used.push_back(value);
      }
      return used;
    };
    const ParamExtents extents{8, 8, 4};
    binder.bind(known(run_values), Bind::run, extents, {}, bindings);
    binder.bind(known(plan_values), Bind::plan, extents, {}, bindings);
    for (std::size_t i = 0; i < binder.params().size(); ++i) {
      by_name[binder.params()[i].name()] = bindings.params[i];
    }
  }
};

struct RandomRow {
  RowContext row;
  std::vector<std::int32_t> kv_pos;
  std::vector<float> logits;

  RandomRow(Rng& rng, bool huge) {
    const std::int64_t most = huge ? kBig : 100;
    // A query may stand before the first key.
    row = {uniform(rng, -most / 10, most),
           uniform(rng, 0, 7),
           uniform(rng, 0, 7),
           uniform(rng, 0, 3),
           uniform(rng, 0, most),
           uniform(rng, 0, most),
           uniform(rng, 0, most),
           uniform(rng, 0, most)};
    const auto n = static_cast<std::size_t>(
        uniform(rng, 0, 3) == 0 ? kProgramWidth : uniform(rng, 1, kProgramWidth));
    for (std::size_t i = 0; i < n; ++i) {
      kv_pos.push_back(static_cast<std::int32_t>(
          huge && uniform(rng, 0, 3) == 0 ? uniform(rng, kBig - 3, kBig) : uniform(rng, 0, most)));
      logits.push_back(static_cast<float>(uniform(rng, -40000, 40000)) / 1000);
    }
  }

  RefInputs at(std::size_t i, const std::map<std::string, BoundParam>& params) const {
    return {row, kv_pos[i], static_cast<double>(logits[i]), &params};
  }
};

inline void check_mask(const Expr& mask, Rng& rng, bool huge) {
  const ParamBinder binder(with_mask(mask));
  const ExprProgram program(mask, binder);
  const Scratch scratch = make_scratch(program);
  for (int repeat = 0; repeat < 3; ++repeat) {
    RandomParams params(rng, huge);
    Bindings bindings;
    std::map<std::string, BoundParam> by_name;
    params.bind(binder, bindings, by_name);
    const RandomRow row(rng, huge);
    std::vector<std::uint8_t> out(row.kv_pos.size() + 1, 77);
    program.eval_mask(row.row, bindings, row.kv_pos.data(), out.data(),
                      static_cast<int>(row.kv_pos.size()), scratch.get());
    for (std::size_t i = 0; i < row.kv_pos.size(); ++i) {
      const RefInputs inputs = row.at(i, by_name);
      const RefValue expected = Reference(inputs).eval(mask);
      if (expected.unsure) continue;
      ASSERT_EQ(out[i], expected.integer)
          << "kv_pos " << row.kv_pos[i] << " q_pos " << row.row.q_pos << "\n"
          << with_mask(mask).serialize();
    }
    EXPECT_EQ(out.back(), 77) << "written past the end";
  }
}

struct Sureness {
  std::int64_t checked = 0;
  std::int64_t skipped = 0;
};

inline void check_logits(const Expr& logits, Rng& rng, Sureness& sureness) {
  const ParamBinder binder(with_logits(logits));
  const ExprProgram program(logits, binder);
  const Scratch scratch = make_scratch(program);
  RandomParams params(rng, false);
  Bindings bindings;
  std::map<std::string, BoundParam> by_name;
  params.bind(binder, bindings, by_name);
  const RandomRow row(rng, false);
  const int n = static_cast<int>(row.logits.size());
  std::vector<float> out(row.logits.size() + 1, 77.0F);
  program.eval_logits(row.row, bindings, row.kv_pos.data(), row.logits.data(), out.data(), n,
                      scratch.get());
  EXPECT_EQ(out.back(), 77.0F) << "written past the end";
  std::vector<float> in_place = row.logits;
  program.eval_logits(row.row, bindings, row.kv_pos.data(), in_place.data(), in_place.data(), n,
                      scratch.get());
  for (std::size_t i = 0; i < row.logits.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(in_place[i]), std::bit_cast<std::uint32_t>(out[i]))
        << "in place";
    const RefInputs inputs = row.at(i, by_name);
    const RefValue expected = Reference(inputs).eval(logits);
    ++(expected.unsure ? sureness.skipped : sureness.checked);
    if (expected.unsure) continue;
    ASSERT_NEAR(static_cast<double>(out[i]), expected.real, 2 * expected.error + 1e-30)
        << "logit " << row.logits[i] << " kv_pos " << row.kv_pos[i] << "\n"
        << with_logits(logits).serialize();
  }
}

}  // namespace tilewright::test
