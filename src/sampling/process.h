// SPDX-License-Identifier: Apache-2.0
// What is done to the logits of a row before temperature: mask, biases, penalties. Each step is one
// IEEE f32 operation, so every backend computes the same bits (kernels/sampling/process_logit.h).
#pragma once

#include <tilewright/sampling.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "sampling/row_passes.h"

namespace tilewright {

// Of one row; what is off is null or zero.
struct RowProcess {
  const std::uint32_t* allowed = nullptr;  // a bit a token
  const std::int32_t* bias_ids = nullptr;  // -1: unused
  const float* bias_values = nullptr;
  std::int64_t biases = 0;
  const std::int32_t* counts = nullptr;   // of a token in the output
  const std::uint32_t* prompt = nullptr;  // a bit a token
  float repetition = 1;
  float frequency = 0;
  float presence = 0;

  bool any() const {
    return allowed != nullptr || biases > 0 || counts != nullptr || prompt != nullptr;
  }
};

// That of an entry of checked arguments, without what has no effect.
RowProcess row_process_of(const SamplingArgs& args, std::int64_t entry, std::int64_t vocabulary);

// The lowest token that the mask allows; 0 if there is none, or no mask.
std::int32_t first_allowed(const RowProcess& process, std::int64_t vocabulary);

// out[i] is token i's logit with everything but biases.
void process_logits(const Logits& row, std::int64_t begin, std::int64_t end,
                    const RowProcess& process, float* out);

// out[i] for the tokens that have biases.
void process_biased(const Logits& row, const RowProcess& process,
                    std::vector<std::pair<std::int32_t, float>>& scratch, float* out);

}  // namespace tilewright
