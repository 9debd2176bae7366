// SPDX-License-Identifier: Apache-2.0
// The check of a replay's outputs: a random sample of them against float64 attention over keys and
// values that are made again from the tokens, with no page, plan or scheduler in between.
#pragma once

#include <tilewright/attention.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/random.h"
#include "engine/replay_tokens.h"

namespace tilewright::engine {

// What a replayed attention computes.
struct ReplayShape {
  int num_qo_heads = 32;
  int num_kv_heads = 8;
  int head_dim = 128;
  DType dtype = DType::f32;  // of queries, keys, values and outputs: f32 or bf16

  int group_size() const { return num_qo_heads / num_kv_heads; }
  AttentionSpec attention_spec() const;
};

// One output vector, as it was computed.
struct ReplaySample {
  std::int64_t step = 0;
  std::size_t request = 0;
  std::int64_t position = 0;  // of the query
  int head = 0;
  std::vector<float> out;  // [head_dim]
};

// A uniform sample of at most `most` of what is offered, whatever its number (reservoir sampling).
class SampleReservoir {
 public:
  SampleReservoir(std::int64_t most, std::uint64_t seed) : most_(most), random_(seed) {}

  // The place of the next candidate in samples(), to be filled in; null: not chosen.
  ReplaySample* offer();
  const std::vector<ReplaySample>& samples() const { return samples_; }
  std::int64_t offered() const { return offered_; }

 private:
  std::int64_t most_;
  Random random_;
  std::int64_t offered_ = 0;
  std::vector<ReplaySample> samples_;
};

// How far an output is from the reference, in units of what is allowed: two roundings of the dtype,
// 1e-5 of the sum of magnitudes that f32 arithmetic adds up, and in bf16 the roundings of the
// weights, as independent ones add up. At most 1 is right; NaN is infinitely wrong.
double error_of(const ReplaySample& sample, const ReplayShape& shape, const TraceTokens& tokens,
                std::uint64_t seed);

struct ReplayVerdict {
  std::int64_t checked = 0;
  std::int64_t wrong = 0;
  double worst = 0;                   // error_of
  std::vector<std::string> examples;  // of wrong ones, a line each, not all
};

ReplayVerdict check_samples(std::span<const ReplaySample> samples, const ReplayShape& shape,
                            const TraceTokens& tokens, std::uint64_t seed);

}  // namespace tilewright::engine
