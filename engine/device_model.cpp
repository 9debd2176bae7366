// SPDX-License-Identifier: Apache-2.0
#include "engine/device_model.h"

#include <algorithm>

#include "engine/checks.h"
#include "engine/cublaslt.h"
#include "engine/dequantize.h"
#include "engine/numeric.h"

namespace tilewright::engine {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // as cuBLAS takes on Hopper

cuda::DeviceBuffer buffer_of(const cuda::Device& device, std::int64_t elements, DType dtype) {
  cuda::DeviceBuffer buffer(device, static_cast<std::size_t>(elements * dtype_bytes(dtype)));
  // Rows of padding are computed too: of numbers.
  const cuda::ContextScope scope(device);
  cuda::fill_bytes(buffer.data(), 0, buffer.bytes(), {});
  cuda::synchronize({});
  return buffer;
}

MatmulChoice matmul_choice(Determinism determinism) {
  return determinism == Determinism::batch_invariant ? MatmulChoice::fixed : MatmulChoice::by_rows;
}

}  // namespace

DeviceActivations::DeviceActivations(const cuda::Device& device, const ModelConfig& config,
                                     DType dtype, std::int64_t tokens, std::int64_t rows)
    : ids(buffer_of(device, tokens, DType::i32)),
      residual(buffer_of(device, tokens * config.hidden, DType::f32)),
      delta(buffer_of(device, tokens * config.hidden, DType::f32)),
      normed(buffer_of(device, tokens * config.hidden, dtype)),
      qkv(buffer_of(device, tokens * (config.q_size() + 2 * config.kv_size()), dtype)),
      attended(buffer_of(device, tokens * config.q_size(), dtype)),
      gate_up(buffer_of(device, tokens * 2 * config.ffn, dtype)),
      activated(buffer_of(device, tokens * config.ffn, dtype)),
      kept_residual(buffer_of(device, rows * config.hidden, DType::f32)),
      kept_attended(buffer_of(device, rows * config.q_size(), dtype)),
      logits(buffer_of(device, rows * config.vocabulary, DType::f32)) {}

DeviceModel::DeviceModel(const GgufFile& file, DType dtype, int device)
    : device_(cuda::device(device)),
      place_{DeviceType::cuda, device},
      dtype_(dtype),
      config_(read_model_config(file)),
      attention_(attention_spec(config_, dtype), place_),
      workspace_(device_, kWorkspaceBytes) {
  const cuda::ContextScope scope(device_);
  const int most_major = cuda::driver().version / 1000;
  matmuls_ = std::make_unique<MatmulContext>(open_cublaslt(cublaslt_candidates("", most_major)),
                                             workspace_.data(), workspace_.bytes());
  const auto matmul = [&](std::int64_t out_features, std::int64_t in_features, DType out_dtype) {
    return std::make_unique<DeviceMatmul>(*matmuls_,
                                          MatmulShape{out_features, in_features, dtype, out_dtype});
  };
  qkv_ = matmul(config_.q_size() + 2 * config_.kv_size(), config_.hidden, dtype);
  output_ = matmul(config_.hidden, config_.q_size(), DType::f32);
  gate_up_ = matmul(2 * config_.ffn, config_.hidden, dtype);
  down_ = matmul(config_.hidden, config_.ffn, DType::f32);
  head_ = matmul(config_.vocabulary, config_.hidden, DType::f32);
  for (std::int64_t i = 0; i < config_.layers; ++i) {
    const auto product = [&](LayerProduct which) {
      return upload(load_product(file, config_, i, which));
    };
    layers_.push_back({upload_f32(load_norm(file, config_, i, LayerNorm::attention)),
                       upload_f32(load_norm(file, config_, i, LayerNorm::ffn)),
                       product(LayerProduct::qkv), product(LayerProduct::output),
                       product(LayerProduct::gate_up), product(LayerProduct::down)});
  }
  output_norm_ = upload_f32(load_output_norm(file, config_));
  embedding_ =
      upload({config_.vocabulary, config_.hidden, dequantize(embedding_tensor(file, config_))});
  if (file.find_tensor("output.weight") != nullptr) {
    head_weight_ = upload(load_head(file, config_));
  }
}

cuda::DeviceBuffer DeviceModel::upload(const Matrix& weight) const {
  if (dtype_ == DType::f32) return upload_f32(weight.values);
  std::vector<std::uint16_t> narrow(weight.values.size());
  std::ranges::transform(weight.values, narrow.begin(), f32_to_bf16);
  cuda::DeviceBuffer buffer(device_, narrow.size() * sizeof(narrow[0]));
  cuda::copy_to_device(buffer.data(), narrow.data(), buffer.bytes(), {});
  return buffer;
}

cuda::DeviceBuffer DeviceModel::upload_f32(const std::vector<float>& values) const {
  cuda::DeviceBuffer buffer(device_, values.size() * sizeof(float));
  cuda::copy_to_device(buffer.data(), values.data(), buffer.bytes(), {});
  return buffer;
}

TensorView DeviceModel::view(const cuda::DeviceBuffer& buffer, DType dtype,
                             std::initializer_list<std::int64_t> shape) const {
  return {buffer.data(), dtype, shape, place_};
}

void DeviceModel::prepare(const StepShape& shape, Determinism determinism) {
  const MatmulChoice choice = matmul_choice(determinism);
  for (DeviceMatmul* const matmul : {qkv_.get(), output_.get(), gate_up_.get(), down_.get()}) {
    matmul->prepare(shape.tokens, choice);
  }
  // The last layer has the rows alone.
  for (DeviceMatmul* const matmul : {output_.get(), gate_up_.get(), down_.get(), head_.get()}) {
    matmul->prepare(shape.rows, choice);
  }
}

void DeviceModel::forward(const DeviceStep& step, Plan& plan, std::span<const KvCache> kv,
                          DeviceActivations& a, Stream stream, DeviceTimer* timer) {
  const std::int64_t hidden = config_.hidden;
  const std::int64_t heads = config_.heads;
  const std::int64_t kv_heads = config_.kv_heads;
  const std::int64_t dim = config_.head_dim;
  const MatmulChoice choice = matmul_choice(plan.limits().determinism);
  std::int64_t n = step.token_index.shape[0];
  const auto mark = [&](double StepTimes::*kind) {
    if (timer != nullptr) timer->mark(kind, stream);
  };
  const auto matmul = [&](DeviceMatmul& product, const void* x, const cuda::DeviceBuffer& weight,
                          void* y) {
    mark(&StepTimes::matmul);
    product.run(n, x, weight.data(), y, stream, choice);
    mark(&StepTimes::other);
  };
  const auto norm_weight = [&](const cuda::DeviceBuffer& weight) {
    return view(weight, DType::f32, {hidden});
  };

  mark(&StepTimes::other);
  gather_rows(step.token_pool, step.token_index, view(a.ids, DType::i32, {n, 1}), stream);
  gather_rows(view(embedding_, dtype_, {config_.vocabulary, hidden}), view(a.ids, DType::i32, {n}),
              view(a.residual, DType::f32, {n, hidden}), stream);
  rms_norm(view(a.residual, DType::f32, {n, hidden}), norm_weight(layers_[0].attention_norm),
           view(a.normed, dtype_, {n, hidden}), config_.norm_eps, 0, {}, stream);

  const cuda::DeviceBuffer* residual = &a.residual;
  for (std::size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    const bool last = i + 1 == layers_.size();
    matmul(*qkv_, a.normed.data(), layer.qkv, a.qkv.data());
    const TensorView qkv = view(a.qkv, dtype_, {n, heads + 2 * kv_heads, dim});
    const TensorView q = qkv.slice(1, 0, heads);
    RopeAndCacheArgs rope;
    rope.rope = config_.rope;
    rope.stream = stream;
    apply_rope_and_write_kv_cache(q, qkv.slice(1, heads, heads + kv_heads),
                                  qkv.slice(1, heads + kv_heads, heads + 2 * kv_heads),
                                  step.positions, q, kv[i], step.slots, rope);
    mark(&StepTimes::attention);
    RunArgs args;
    args.out = view(a.attended, dtype_, {n, heads, dim});
    args.stream = stream;
    attention_.run(plan, q, std::vector<KvCache>(step.levels.size(), kv[i]), args);
    mark(&StepTimes::other);

    const cuda::DeviceBuffer* attended = &a.attended;
    if (last && step.logit_rows.defined()) {
      // Nobody reads the others any more.
      const std::int64_t rows = step.logit_rows.shape[0];
      if (rows == 0) return;
      gather_rows(view(a.attended, dtype_, {n, heads * dim}), step.logit_rows,
                  view(a.kept_attended, dtype_, {rows, heads * dim}), stream);
      gather_rows(view(a.residual, DType::f32, {n, hidden}), step.logit_rows,
                  view(a.kept_residual, DType::f32, {rows, hidden}), stream);
      attended = &a.kept_attended;
      residual = &a.kept_residual;
      n = rows;
    }
    const TensorView delta = view(a.delta, DType::f32, {n, hidden});
    const TensorView sums = view(*residual, DType::f32, {n, hidden});
    const TensorView normed = view(a.normed, dtype_, {n, hidden});
    matmul(*output_, attended->data(), layer.output, a.delta.data());
    fused_add_rms_norm(delta, sums, norm_weight(layer.ffn_norm), normed, config_.norm_eps, 0, {},
                       stream);
    matmul(*gate_up_, a.normed.data(), layer.gate_up, a.gate_up.data());
    act_and_mul(view(a.gate_up, dtype_, {n, 2 * config_.ffn}),
                view(a.activated, dtype_, {n, config_.ffn}), Activation::silu, stream);
    matmul(*down_, a.activated.data(), layer.down, a.delta.data());
    fused_add_rms_norm(delta, sums,
                       norm_weight(last ? output_norm_ : layers_[i + 1].attention_norm), normed,
                       config_.norm_eps, 0, {}, stream);
  }
  matmul(*head_, a.normed.data(), head_weight_.bytes() > 0 ? head_weight_ : embedding_,
         a.logits.data());
}

}  // namespace tilewright::engine
