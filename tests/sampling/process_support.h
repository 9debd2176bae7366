// SPDX-License-Identifier: Apache-2.0
// Random masks, biases and penalties, and what they make of a row, token by token.
#pragma once

#include <tilewright/sampling.h>

#include "sampling/sampling_support.h"
#include "support/tensor.h"

namespace tilewright::test {

// Tables of `entries` entries; each switches some of its parts off.
struct ProcessTables {
  std::int64_t entries;
  std::int64_t vocabulary;
  std::int64_t words = (vocabulary + 31) / 32;
  std::int64_t biases;
  Tensor allowed{DType::i32, {entries, words}, {words + 3, 1}};
  Tensor prompt{DType::i32, {entries, words}, {words, 1}};
  Tensor counts{DType::i32, {entries, vocabulary}, {vocabulary + 1, 1}};
  Tensor bias_ids{DType::i32, {entries, biases}, {biases + 2, 1}};
  Tensor bias_values{DType::f32, {entries, biases}};
  Tensor repetition{DType::f32, {entries}, {2}};
  Tensor frequency{DType::f32, {entries}, {1}};
  Tensor presence{DType::f32, {entries}, {3}};

  ProcessTables(Random& random, std::int64_t entry_count, std::int64_t vocabulary_size,
                std::int64_t bias_count)
      : entries(entry_count), vocabulary(vocabulary_size), biases(bias_count) {
    for (std::int64_t e = 0; e < entries; ++e) {
      // All allowed, half, few, one, none but bits behind the end.
      const double share = random.pick({1.0, 0.5, 0.02, 0.0, 0.0});
      fill_bits(random, allowed, e, share);
      if (share == 0 && random.chance(0.7)) set_bit(allowed, e, random.range(0, vocabulary - 1));
      fill_bits(random, prompt, e, random.pick({0.0, 0.3}));
      const double used = random.pick({0.0, 0.02, 0.5});
      for (std::int64_t i = 0; i < vocabulary; ++i) {
        counts.set({e, i}, random.chance(used) ? static_cast<double>(random.range(-1, 40)) : 0);
      }
      const bool biased = random.chance(0.7);
      for (std::int64_t j = 0; j < biases; ++j) {
        // Few ids, so that some are repeated.
        const auto id = random.range(0, std::min<std::int64_t>(vocabulary, 4 * biases) - 1);
        bias_ids.set({e, j}, biased && random.chance(0.8) ? static_cast<double>(id) : -1);
        bias_values.set({e, j}, random.pick({random.normal() * 3, 100.0, -100.0, -HUGE_VAL}));
      }
      repetition.set({e}, random.pick({1.0, 1.1, 1.3, 0.8, 3e38, 1e-40}));
      frequency.set({e}, random.pick({0.0, 0.1, -0.7, 2.0}));
      presence.set({e}, random.pick({0.0, 0.3, -1.5}));
    }
  }

  static void set_bit(Tensor& table, std::int64_t e, std::int64_t i) {
    const auto word = static_cast<std::uint32_t>(static_cast<std::int32_t>(table.get({e, i / 32})));
    table.set({e, i / 32}, static_cast<std::int32_t>(word | std::uint32_t{1} << (i % 32)));
  }
  static bool bit(const Tensor& table, std::int64_t e, std::int64_t i) {
    const auto word = static_cast<std::uint32_t>(static_cast<std::int32_t>(table.get({e, i / 32})));
    return (word >> (i % 32) & 1) != 0;
  }
  // Bits behind the vocabulary may be anything.
  void fill_bits(Random& random, Tensor& table, std::int64_t e, double share) const {
    for (std::int64_t w = 0; w < words; ++w) {
      std::uint32_t word = 0;
      for (int b = 0; b < 32; ++b) {
        const bool set =
            w * 32 + b >= vocabulary ? random.chance(0.5) : share == 1 || random.chance(share);
        if (set) word |= std::uint32_t{1} << b;
      }
      table.set({e, w}, static_cast<std::int32_t>(word));
    }
  }

  // A random choice of what is given at all.
  void give(Random& random, SamplingArgs& args) const {
    if (random.chance(0.6)) args.allowed = allowed.view();
    if (random.chance(0.6)) {
      args.bias_ids = bias_ids.view();
      args.bias_values = bias_values.view();
    }
    if (random.chance(0.6)) args.output_counts = counts.view();
    if (random.chance(0.6)) args.prompt_bits = prompt.view();
    if (random.chance(0.7)) args.repetition_penalty = repetition.view();
    if (random.chance(0.7)) args.frequency_penalty = frequency.view();
    if (random.chance(0.7)) args.presence_penalty = presence.view();
  }

  // Row `row`, as entry e of what is given makes it, by the definition. Each line is one operation
  // of f32.
  Row naive(const SamplingArgs& args, std::int64_t e, Row row) const {
    for (std::int64_t i = 0; i < vocabulary; ++i) {
      float& x = row[static_cast<std::size_t>(i)];
      if (args.bias_ids.defined()) {
        for (std::int64_t j = 0; j < biases; ++j) {
          if (bias_ids.get({e, j}) == static_cast<double>(i)) {
            x += static_cast<float>(bias_values.get({e, j}));
          }
        }
      }
      const double count = args.output_counts.defined() ? counts.get({e, i}) : 0;
      const auto number = [&](const PerRow<float>& given, const Tensor& tensor) {
        return given.tensor.defined() ? static_cast<float>(tensor.get({e})) : given.value;
      };
      if (count > 0 || (args.prompt_bits.defined() && bit(prompt, e, i))) {
        const float penalty = number(args.repetition_penalty, repetition);
        if (x > 0) {
          x /= penalty;
        } else {
          x *= penalty;
        }
      }
      if (count > 0) {
        const float sum = number(args.frequency_penalty, frequency) * static_cast<float>(count);
        x -= sum;
        x -= number(args.presence_penalty, presence);
      }
      if (args.allowed.defined() && !bit(allowed, e, i)) x = -kInf;
    }
    return row;
  }

  std::int32_t first_allowed(const SamplingArgs& args, std::int64_t e) const {
    for (std::int64_t i = 0; i < vocabulary; ++i) {
      if (!args.allowed.defined() || bit(allowed, e, i)) return static_cast<std::int32_t>(i);
    }
    return 0;
  }
};

}  // namespace tilewright::test
