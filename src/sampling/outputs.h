// SPDX-License-Identifier: Apache-2.0
// What sample() gives beside a row's token, on the CPU.
#pragma once

#include <tilewright/sampling.h>

#include <cstdint>
#include <vector>

#include "sampling/params.h"
#include "sampling/row_sampler.h"

namespace tilewright {

inline constexpr std::int64_t kMostBest = tw::kMostBest;  // tokens that a row tells, of top_k() too

inline bool is_wanted(const LogProbs& log_probs) {
  return log_probs.chosen.defined() || log_probs.ranks.defined() || log_probs.best.defined();
}

inline bool any_wanted(const SamplingOutputs& outputs) {
  return outputs.kept.defined() || outputs.probabilities.defined() ||
         outputs.masked_logits.defined() || is_wanted(outputs.raw) || is_wanted(outputs.processed);
}

// The outputs of row `index`, but `raw`. `row` is the processed one.
void store_outputs(const SamplingOutputs& outputs, std::int64_t index, const Logits& row,
                   const Survivors& survivors);

void store_log_probs(const LogProbs& out, std::int64_t index, const Survivors& survivors,
                     std::int32_t token);

}  // namespace tilewright
