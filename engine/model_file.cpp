// SPDX-License-Identifier: Apache-2.0
#include "engine/model_file.h"

#include <array>
#include <string>
#include <utility>

#include "engine/checks.h"
#include "engine/dequantize.h"

namespace tilewright::engine {
namespace {

using NamedRows = std::pair<std::string, std::int64_t>;

std::string layer_tensor(std::int64_t layer, std::string_view part) {
  return fmt::format("blk.{}.{}.weight", layer, part);
}

// The named tensors, stacked.
Matrix load_stacked(const GgufFile& file, const std::vector<NamedRows>& parts,
                    std::int64_t in_features) {
  Matrix matrix;
  matrix.in_features = in_features;
  for (const auto& [name, rows] : parts) {
    const std::vector<float> part = dequantize(file.tensor(name, std::array{rows, in_features}));
    matrix.values.insert(matrix.values.end(), part.begin(), part.end());
    matrix.out_features += rows;
  }
  return matrix;
}

}  // namespace

ModelConfig read_model_config(const GgufFile& file) {
  const std::string_view architecture = file.string("general.architecture");
  if (architecture != "llama") {
    raise(ErrorCode::not_supported, "{}: general.architecture is {}: only 'llama' is supported",
          file.path(), quoted(architecture));
  }
  const auto integer = [&](std::string_view key, std::int64_t most) {
    return file.integer(key, 1, most);
  };
  const auto integer_or = [&](std::string_view key, std::int64_t most, std::int64_t otherwise) {
    return static_cast<int>(file.has(key) ? integer(key, most) : otherwise);
  };
  ModelConfig config;
  config.layers = integer("llama.block_count", 1024);
  config.hidden = integer("llama.embedding_length", 1 << 20);
  config.ffn = integer("llama.feed_forward_length", 1 << 22);
  config.heads = static_cast<int>(integer("llama.attention.head_count", 1024));
  config.kv_heads = integer_or("llama.attention.head_count_kv", 1024, config.heads);
  config.head_dim = integer_or("llama.attention.key_length", 576, config.hidden / config.heads);
  config.context = integer("llama.context_length", 1 << 28);
  config.vocabulary = static_cast<std::int64_t>(file.strings("tokenizer.ggml.tokens").size());
  config.norm_eps = static_cast<float>(file.number("llama.attention.layer_norm_rms_epsilon"));
  if (file.has("llama.rope.freq_base")) config.rope.theta = file.number("llama.rope.freq_base");
  config.rope.dim = integer_or("llama.rope.dimension_count", config.head_dim, config.head_dim);
  for (const GgufTensor& tensor : file.tensors()) {
    if (tensor.name.ends_with(".bias")) {
      raise(ErrorCode::not_supported, "{}: tensor {}: layers with biases are not supported",
            file.path(), quoted(tensor.name));
    }
  }
  if ((file.has("llama.rope.scaling.type") && file.string("llama.rope.scaling.type") != "none") ||
      file.find_tensor("rope_freqs.weight") != nullptr) {
    raise(ErrorCode::not_supported, "{}: RoPE scaling is not supported", file.path());
  }
  config.rope.interleaved = true;  // GGUF's llama keeps rotary pairs side by side
  return config;
}

AttentionSpec attention_spec(const ModelConfig& config, DType dtype) {
  AttentionSpec spec;
  spec.num_qo_heads = config.heads;
  spec.num_kv_heads = config.kv_heads;
  spec.head_dim = config.head_dim;
  spec.q_dtype = dtype;
  spec.kv_dtype = dtype;
  return spec;
}

KvShape kv_shape(const ModelConfig& config, DType dtype, std::int64_t pages,
                 std::int64_t page_size) {
  return {config.layers, pages, page_size, config.kv_heads, config.head_dim, dtype};
}

void require_tokens(const ModelConfig& config, std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens) {
    require(token >= 0 && token < config.vocabulary, "token is {}: it must be in [0, {})", token,
            config.vocabulary);
  }
}

Matrix load_product(const GgufFile& file, const ModelConfig& config, std::int64_t layer,
                    LayerProduct product) {
  const auto name = [&](std::string_view part) { return layer_tensor(layer, part); };
  switch (product) {
    case LayerProduct::qkv:
      return load_stacked(file,
                          {{name("attn_q"), config.q_size()},
                           {name("attn_k"), config.kv_size()},
                           {name("attn_v"), config.kv_size()}},
                          config.hidden);
    case LayerProduct::output:
      return load_stacked(file, {{name("attn_output"), config.hidden}}, config.q_size());
    case LayerProduct::gate_up:
      return load_stacked(file, {{name("ffn_gate"), config.ffn}, {name("ffn_up"), config.ffn}},
                          config.hidden);
    default:
      return load_stacked(file, {{name("ffn_down"), config.hidden}}, config.ffn);
  }
}

std::vector<float> load_norm(const GgufFile& file, const ModelConfig& config, std::int64_t layer,
                             LayerNorm norm) {
  const char* const part = norm == LayerNorm::attention ? "attn_norm" : "ffn_norm";
  return dequantize(file.tensor(layer_tensor(layer, part), std::array{config.hidden}));
}

std::vector<float> load_output_norm(const GgufFile& file, const ModelConfig& config) {
  return dequantize(file.tensor("output_norm.weight", std::array{config.hidden}));
}

const GgufTensor& embedding_tensor(const GgufFile& file, const ModelConfig& config) {
  return file.tensor("token_embd.weight", std::array{config.vocabulary, config.hidden});
}

Matrix load_head(const GgufFile& file, const ModelConfig& config) {
  const char* const name =
      file.find_tensor("output.weight") != nullptr ? "output.weight" : "token_embd.weight";
  return load_stacked(file, {{name, config.vocabulary}}, config.hidden);
}

}  // namespace tilewright::engine
