// SPDX-License-Identifier: Apache-2.0
#include "engine/model.h"

#include <algorithm>

#include "engine/checks.h"
#include "engine/dequantize.h"
#include "engine/parallel.h"
#include "engine/stopwatch.h"

namespace tilewright::engine {
namespace {

void* grown(std::vector<std::byte>& buffer, std::int64_t elements, DType dtype) {
  const auto bytes = static_cast<std::size_t>(elements * dtype_bytes(dtype));
  if (buffer.size() < bytes) buffer.resize(bytes);
  return buffer.data();
}

// What is said of attention goes for the products too.
RowBlocks row_blocks(const Plan& plan) {
  return plan.limits().determinism == Determinism::batch_invariant ? RowBlocks::fixed
                                                                   : RowBlocks::any;
}

TensorView vector_view(const std::vector<float>& values) {
  return {values.data(), DType::f32, {static_cast<std::int64_t>(values.size())}};
}

}  // namespace

Model::Model(const GgufFile& file, DType dtype)
    : dtype_(dtype),
      config_(read_model_config(file)),
      embedding_(embedding_tensor(file, config_)),
      attention_(attention_spec(config_, dtype)) {
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    const auto product = [&](LayerProduct which) { return load_product(file, config_, i, which); };
    layers_.push_back({load_norm(file, config_, i, LayerNorm::attention),
                       load_norm(file, config_, i, LayerNorm::ffn),
                       linear(product(LayerProduct::qkv), dtype),
                       linear(product(LayerProduct::output), DType::f32),
                       linear(product(LayerProduct::gate_up), dtype),
                       linear(product(LayerProduct::down), DType::f32)});
  }
  output_norm_ = load_output_norm(file, config_);
  head_ = std::make_unique<Linear>(linear(load_head(file, config_), DType::f32));
}

Linear Model::linear(const Matrix& weight, DType out_dtype) {
  return {matmuls_, weight.values, weight.out_features, weight.in_features, dtype_, out_dtype};
}

KvShape Model::kv_shape(std::int64_t pages, std::int64_t page_size) const {
  return engine::kv_shape(config_, dtype_, pages, page_size);
}

void Model::update_plan(Plan& plan, const StepBatch& batch, std::int64_t page_size) const {
  plan.update(batch.plan_batch(), {batch.plan_input(attention_, page_size)});
}

void Model::embed(std::span<const std::int32_t> tokens) {
  const auto hidden = static_cast<std::size_t>(config_.hidden);
  buffers_.residual.resize(tokens.size() * hidden);
  buffers_.delta.resize(tokens.size() * hidden);
  parallel_shares(std::ssize(tokens), [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      dequantize_row(embedding_, tokens[i],
                     std::span(buffers_.residual).subspan(i * hidden, hidden));
    }
  });
}

void Model::attend(const Layer& layer, const StepBatch& batch, Plan& plan, const KvCache& cache,
                   StepTimes& times) {
  Stopwatch watch;
  const auto n = static_cast<std::int64_t>(batch.tokens.size());
  const std::int64_t heads = config_.heads;
  const std::int64_t kv_heads = config_.kv_heads;
  const std::int64_t dim = config_.head_dim;

  const TensorView qkv(grown(buffers_.qkv, n * (heads + 2 * kv_heads) * dim, dtype_), dtype_,
                       {n, heads + 2 * kv_heads, dim});
  layer.qkv.run(n, buffers_.normed.data(), qkv.data, row_blocks(plan));
  watch.lap(times.matmul);

  const TensorView q = qkv.slice(1, 0, heads);
  const TensorView k = qkv.slice(1, heads, heads + kv_heads);
  const TensorView v = qkv.slice(1, heads + kv_heads, heads + 2 * kv_heads);
  const TensorView positions(batch.positions.data(), DType::i32, {n});
  apply_rope(q, positions, q, config_.rope);
  apply_rope(k, positions, k, config_.rope);
  write_kv_cache(k, v, cache, TensorView(batch.slots.data(), DType::i32, {n}));
  watch.lap(times.other);

  RunArgs args;
  args.out = TensorView(grown(buffers_.attended, n * heads * dim, dtype_), dtype_, {n, heads, dim});
  attention_.run(plan, q, std::vector<KvCache>(batch.levels.size(), cache), args);
  watch.lap(times.attention);
}

void Model::feed_forward(const Layer& layer, const std::vector<float>& next_norm, std::int64_t n,
                         RowBlocks blocks, StepTimes& times) {
  Stopwatch watch;
  const TensorView residual(buffers_.residual.data(), DType::f32, {n, config_.hidden});
  const TensorView delta(buffers_.delta.data(), DType::f32, {n, config_.hidden});
  const TensorView normed(buffers_.normed.data(), dtype_, {n, config_.hidden});

  layer.output.run(n, buffers_.attended.data(), delta.data, blocks);
  watch.lap(times.matmul);
  fused_add_rms_norm(delta, residual, vector_view(layer.ffn_norm), normed, config_.norm_eps);
  watch.lap(times.other);

  const TensorView gate_up(grown(buffers_.gate_up, n * 2 * config_.ffn, dtype_), dtype_,
                           {n, 2 * config_.ffn});
  layer.gate_up.run(n, normed.data, gate_up.data, blocks);
  watch.lap(times.matmul);
  const TensorView activated(grown(buffers_.activated, n * config_.ffn, dtype_), dtype_,
                             {n, config_.ffn});
  act_and_mul(gate_up, activated, Activation::silu);
  watch.lap(times.other);
  layer.down.run(n, activated.data, delta.data, blocks);
  watch.lap(times.matmul);
  fused_add_rms_norm(delta, residual, vector_view(next_norm), normed, config_.norm_eps);
  watch.lap(times.other);
}

void Model::keep_rows(std::span<const std::int64_t> rows) {
  const auto keep = [&](auto* data, std::int64_t elements) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      auto* const to = data + static_cast<std::int64_t>(i) * elements;
      const auto* const from = data + rows[i] * elements;
      if (to != from) std::copy_n(from, elements, to);
    }
  };
  keep(buffers_.residual.data(), config_.hidden);
  keep(buffers_.attended.data(),
       static_cast<std::int64_t>(config_.heads) * config_.head_dim * dtype_bytes(dtype_));
}

void Model::forward(const StepBatch& batch, Plan& plan, const KvStorage& kv,
                    std::span<float> logits, StepTimes& times) {
  Stopwatch watch;
  auto n = static_cast<std::int64_t>(batch.tokens.size());
  const RowBlocks blocks = row_blocks(plan);
  embed(batch.tokens);
  const TensorView normed(grown(buffers_.normed, n * config_.hidden, dtype_), dtype_,
                          {n, config_.hidden});
  rms_norm(TensorView(buffers_.residual.data(), DType::f32, {n, config_.hidden}),
           vector_view(layers_[0].attention_norm), normed, config_.norm_eps);
  watch.lap(times.other);
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const bool last = i + 1 == layers_.size();
    attend(layers_[i], batch, plan, kv.layer(static_cast<std::int64_t>(i)), times);
    if (last) {
      // Nobody reads the others any more.
      keep_rows(batch.logit_rows);
      n = static_cast<std::int64_t>(batch.logit_rows.size());
      if (n == 0) return;
    }
    feed_forward(layers_[i], last ? output_norm_ : layers_[i + 1].attention_norm, n, blocks, times);
  }
  watch = {};
  head_->run(n, buffers_.normed.data(), logits.data(), blocks);
  watch.lap(times.matmul);
}

}  // namespace tilewright::engine
