// SPDX-License-Identifier: Apache-2.0
// Attention of well-known models: head counts, dims and masks, from their published configurations.
#include <fmt/ranges.h>
#include <tilewright/jit.h>
#include <tilewright/variants.h>

#include <algorithm>
#include <iterator>
#include <string_view>

#include "base/checks.h"

namespace tilewright {
namespace {

struct Model {
  std::string_view name;
  int num_qo_heads, num_kv_heads, head_dim;
  bool full = true;  // has layers that attend to all keys before the query
  int window =
      0;  // keys that other layers attend to, the query's own among them; 0: no such layers
  double logits_soft_cap = 0;
};

constexpr Model kModels[] = {
    {"deepseek-r1-distill-qwen-7b", 28, 4, 128},
    {"gemma-2-9b", 16, 8, 256, true, 4096, 50},
    {"gemma-2-27b", 32, 16, 128, true, 4096, 50},
    {"gemma-3-4b", 8, 4, 256, true, 1024},
    {"gemma-3-12b", 16, 8, 256, true, 1024},
    {"gemma-3-27b", 32, 16, 128, true, 1024},
    {"gpt-oss-20b", 64, 8, 64, true, 128},
    {"gpt-oss-120b", 64, 8, 64, true, 128},
    {"llama-3.1-8b", 32, 8, 128},
    {"llama-3.1-70b", 64, 8, 128},
    {"llama-3.1-405b", 128, 8, 128},
    {"llama-3.2-1b", 32, 8, 64},
    {"llama-3.2-3b", 24, 8, 128},
    {"llama-3.3-70b", 64, 8, 128},
    {"mistral-7b-v0.1", 32, 8, 128, false, 4096},
    {"mistral-7b-v0.3", 32, 8, 128},
    {"mixtral-8x7b", 32, 8, 128},
    {"phi-3-mini", 32, 32, 96},
    {"phi-4", 40, 10, 128},
    {"qwen2.5-7b", 28, 4, 128},
    {"qwen2.5-72b", 64, 8, 128},
    {"qwen3-8b", 32, 8, 128},
    {"qwen3-32b", 64, 8, 128},
    {"qwen3-30b-a3b", 32, 4, 128},
    {"smollm2-135m", 9, 3, 64},
};

AttentionSpec spec_of(const Model& model, DType kv_dtype, const Variant& variant) {
  AttentionSpec spec;
  spec.num_qo_heads = model.num_qo_heads;
  spec.num_kv_heads = model.num_kv_heads;
  spec.head_dim = model.head_dim;
  spec.kv_dtype = kv_dtype;
  spec.variant = variant;
  return spec;
}

std::vector<AttentionSpec> specs_of(const Model& model, DType kv_dtype) {
  std::vector<AttentionSpec> specs;
  if (model.full) {
    specs.push_back(spec_of(model, kv_dtype, variants::causal(-1, model.logits_soft_cap)));
  }
  if (model.window > 0) {
    specs.push_back(
        spec_of(model, kv_dtype, variants::causal(model.window - 1, model.logits_soft_cap)));
  }
  return specs;
}

}  // namespace

std::vector<std::string> model_names() {
  std::vector<std::string> names;
  for (const Model& model : kModels) names.emplace_back(model.name);
  return names;
}

std::vector<AttentionSpec> model_attention_specs(const std::string& model, DType kv_dtype) {
  const auto* found = std::find_if(std::begin(kModels), std::end(kModels),
                                   [&](const Model& known) { return known.name == model; });
  require(found != std::end(kModels), "model is {}: it must be one of {}", model,
          fmt::join(model_names(), ", "));
  return specs_of(*found, kv_dtype);
}

// Kernels differ by group size, dims, dtypes and variant, not by head counts.
std::vector<AttentionSpec> common_attention_specs() {
  std::vector<AttentionSpec> specs;
  const auto add = [&](int group_size, int head_dim, DType dtype, DType kv_dtype,
                       const Variant& variant) {
    AttentionSpec spec;
    spec.num_qo_heads = group_size;
    spec.num_kv_heads = 1;
    spec.head_dim = head_dim;
    spec.q_dtype = dtype;
    spec.kv_dtype = kv_dtype;
    spec.variant = variant;
    specs.push_back(std::move(spec));
  };
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const int group_size : {1, 4, 8}) {
      add(group_size, 64, dtype, dtype, variants::causal());
      add(group_size, 128, dtype, dtype, variants::causal());
    }
    add(4, 128, dtype, dtype, variants::full());
    add(4, 128, dtype, dtype, variants::causal(4095));
    add(4, 128, dtype, DType::f8e4m3, variants::causal());
    add(8, 128, dtype, DType::f8e4m3, variants::causal());
  }
  for (const Model& model : kModels) {
    for (AttentionSpec& spec : specs_of(model, DType::bf16)) {
      add(spec.group_size(), spec.head_dim, DType::bf16, DType::bf16, spec.variant);
    }
  }
  std::vector<AttentionSpec> distinct;
  for (AttentionSpec& spec : specs) {
    if (std::find(distinct.begin(), distinct.end(), spec) == distinct.end()) {
      distinct.push_back(std::move(spec));
    }
  }
  return distinct;
}

}  // namespace tilewright
