// SPDX-License-Identifier: Apache-2.0
// A random Llama model small enough to compute by hand, as a GGUF file.
#pragma once

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "engine/gguf_writer.h"
#include "engine/tiny_vocabulary.h"

namespace tilewright::test {

struct TinyModel {
  std::int64_t layers = 2;
  std::int64_t hidden = 64;
  std::int64_t ffn = 96;
  std::int64_t heads = 4;
  std::int64_t kv_heads = 2;
  std::int64_t head_dim = 16;
  std::int64_t context = 256;
  bool tied = false;
  int end_of_turn = -1;  // a token that ends the generation, beside eos
  TinyVocabulary words{{{"t", "h"}, {"th", "e"}, {" ", "the"}}};
  std::map<std::string, std::vector<float>> weights;

  std::int64_t vocabulary() const { return static_cast<std::int64_t>(words.tokens.size()); }

  // The same weights for the same sizes, on every machine.
  GgufWriter write() {
    GgufWriter writer;
    writer.set("general.architecture", std::string("llama"))
        .set("llama.block_count", static_cast<std::uint32_t>(layers))
        .set("llama.embedding_length", static_cast<std::uint32_t>(hidden))
        .set("llama.feed_forward_length", static_cast<std::uint32_t>(ffn))
        .set("llama.attention.head_count", static_cast<std::uint32_t>(heads))
        .set("llama.attention.head_count_kv", static_cast<std::uint32_t>(kv_heads))
        .set("llama.attention.layer_norm_rms_epsilon", 1e-5F)
        .set("llama.rope.freq_base", 1e4F)
        .set("llama.context_length", static_cast<std::uint32_t>(context));
    words.write(writer);
    if (end_of_turn >= 0) {
      writer.set("tokenizer.ggml.eot_token_id", static_cast<std::uint32_t>(end_of_turn));
    }
    add(writer, "token_embd.weight", {vocabulary(), hidden}, 1.0F);
    for (std::int64_t i = 0; i < layers; ++i) {
      const std::string block = "blk." + std::to_string(i) + ".";
      add(writer, block + "attn_norm.weight", {hidden}, 1.0F);
      add(writer, block + "attn_q.weight", {heads * head_dim, hidden}, 0.4F);
      add(writer, block + "attn_k.weight", {kv_heads * head_dim, hidden}, 0.4F);
      add(writer, block + "attn_v.weight", {kv_heads * head_dim, hidden}, 0.4F);
      add(writer, block + "attn_output.weight", {hidden, heads * head_dim}, 0.4F);
      add(writer, block + "ffn_norm.weight", {hidden}, 1.0F);
      add(writer, block + "ffn_gate.weight", {ffn, hidden}, 0.3F);
      add(writer, block + "ffn_up.weight", {ffn, hidden}, 0.3F);
      add(writer, block + "ffn_down.weight", {hidden, ffn}, 0.3F);
    }
    add(writer, "output_norm.weight", {hidden}, 1.0F);
    if (!tied) add(writer, "output.weight", {vocabulary(), hidden}, 0.5F);
    return writer;
  }

 private:
  void add(GgufWriter& writer, const std::string& name, const std::vector<std::int64_t>& shape,
           float scale) {
    std::size_t count = 1;
    for (const std::int64_t extent : shape) count *= static_cast<std::size_t>(extent);
    std::vector<float>& values = weights[name];
    for (std::size_t i = 0; i < count; ++i) {
      values.push_back(scale * (static_cast<float>(random_() >> 8) * 0x1p-23F - 1.0F));
    }
    writer.add_tensor(name, shape, values);
  }

  std::mt19937 random_{7};
};

}  // namespace tilewright::test
