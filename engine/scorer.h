// SPDX-License-Identifier: Apache-2.0
// Teacher-forced scoring: how likely a model finds a given text.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "engine/model.h"

namespace tilewright::engine {

class DeviceModel;

struct Score {
  std::vector<double> nll;  // of tokens[1], tokens[2], ..: -log p(token | those before)
  double perplexity = 1;    // exp of their mean
  // After each token: the likeliest next ones with their logits, in falling order.
  std::vector<std::vector<std::pair<std::int32_t, float>>> top;
};

// Error for no tokens, ids outside the vocabulary, or more tokens than the model's context.
Score score(Model& model, std::span<const std::int32_t> tokens, int top);
// Logits are a GPU's; what is made of them is computed on the CPU. Also an Error (out_of_memory)
// when its memory does not have room for the KV cache of all tokens.
Score score(DeviceModel& model, std::span<const std::int32_t> tokens, int top);

}  // namespace tilewright::engine
