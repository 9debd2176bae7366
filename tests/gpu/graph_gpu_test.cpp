// SPDX-License-Identifier: Apache-2.0
// A CUDA graph over an update and the runs of several layers, captured once and replayed with other
// batches: each time the bits are those of the same calls without a graph.
#include <cmath>
#include <deque>
#include <numeric>
#include <utility>
#include <vector>

#include "gpu/gpu_batch.h"
#include "support/attention_case.h"
#include "support/shared_prefix.h"

namespace tilewright::test {
namespace {

constexpr int kLayers = 3;
constexpr std::int64_t kPageSize = 16;
constexpr DType kDType = DType::f16;

// What an engine keeps at fixed addresses for a plan's limits, and refills for every step: the
// batch, its queries, the caches of its layers.
class Steps {
 public:
  Steps(const Dims& dims, const Limits& limits, std::uint64_t seed)
      : dims_(dims),
        limits_(limits),
        random_(seed),
        columns_((limits.kv_len + kPageSize - 1) / kPageSize),
        pages_(limits.requests * columns_),
        qo_indptr_(Tensor(DType::i32, {limits.requests + 1})),
        kv_lens_(Tensor(DType::i32, {limits.requests})),
        num_requests_(Tensor(DType::i32, {1})),
        table_(int_matrix(limits.requests, columns_)),
        q_(numbers(limits.q_tokens, dims.qo_heads)) {
    for (int layer = 0; layer < kLayers; ++layer) {
      k_.emplace_back(cache());
      v_.emplace_back(cache());
    }
  }

  // The next step's requests, in the same memory. What is behind them is rubbish.
  void refill(const Lengths& lengths, Stream stream) {
    const auto requests = static_cast<std::int64_t>(lengths.size());
    std::int64_t tokens = 0;
    Extents pool(static_cast<std::size_t>(pages_));
    std::iota(pool.begin(), pool.end(), 0);
    random_.shuffle(pool);
    qo_indptr_.host.set({0}, 0);
    for (std::int64_t r = 0; r < limits_.requests; ++r) {
      const bool live = r < requests;
      const auto [q_len, kv_len] =
          live ? lengths[static_cast<std::size_t>(r)] : Lengths::value_type{0, -7};
      tokens += q_len;
      qo_indptr_.host.set({r + 1}, live ? static_cast<double>(tokens) : -5.0);
      kv_lens_.host.set({r}, static_cast<double>(kv_len));
      for (std::int64_t column = 0; column < columns_; ++column) {
        const bool used = column * kPageSize < kv_len;
        table_.host.set({r, column}, used ? static_cast<double>(pool.back()) : -1.0);
        if (used) pool.pop_back();
      }
    }
    num_requests_.host.set({0}, static_cast<double>(requests));
    for (Mirror* mirror : {&qo_indptr_, &kv_lens_, &num_requests_, &table_}) {
      mirror->gpu.upload(stream);
    }
  }

  const Dims& dims() const { return dims_; }
  const Limits& limits() const { return limits_; }

  Batch batch(Device where) const {
    Batch batch;
    batch.qo_indptr = view(qo_indptr_, where);
    batch.kv_lens = view(kv_lens_, where);
    batch.num_requests = view(num_requests_, where);
    return batch;
  }
  PageTable table(Device where) const { return PageTable::padded(view(table_, where), kPageSize); }
  TensorView q(Device where) const { return view(q_, where); }
  KvCache cache(int layer, Device where) const {
    const auto i = static_cast<std::size_t>(layer);
    return KvCache::separate(view(k_[i], where), view(v_[i], where));
  }

 private:
  static TensorView view(const Mirror& mirror, Device where) {
    return where.type == DeviceType::cpu ? mirror.host.view() : mirror.gpu.view();
  }
  Tensor numbers(std::int64_t rows, int heads) {
    Tensor tensor(kDType, {rows, heads, dims_.head_dim});
    fill(tensor, rows * heads * dims_.head_dim);
    return tensor;
  }
  Tensor cache() {
    Tensor tensor(kDType, {pages_, kPageSize, dims_.kv_heads, dims_.head_dim});
    fill(tensor, pages_ * kPageSize * dims_.kv_heads * dims_.head_dim);
    return tensor;
  }
  void fill(Tensor& tensor, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      store_element(tensor.data(), kDType, i, static_cast<float>(random_.normal()));
    }
  }

  Dims dims_;
  Limits limits_;
  Random random_;
  std::int64_t columns_;
  std::int64_t pages_;
  Mirror qo_indptr_, kv_lens_, num_requests_, table_, q_;
  std::deque<Mirror> k_, v_;
};

// Outputs of every layer and attention.
class LayerOutputs {
 public:
  LayerOutputs(const Steps& steps, std::size_t attentions) : attentions_(attentions) {
    const std::int64_t rows = steps.limits().q_tokens;
    const Extents shape = {rows, steps.dims().qo_heads, steps.dims().value_dim};
    const Extents lse_shape = {rows, steps.dims().qo_heads};
    for (std::size_t i = 0; i < kLayers * attentions; ++i) {
      out_.emplace_back(Tensor(kDType, shape, row_major(shape), kSentinel));
      lse_.emplace_back(Tensor(DType::f32, lse_shape, row_major(lse_shape), kSentinel));
    }
  }

  // Rows that nobody writes show afterwards.
  void refill(Stream stream) {
    for (std::deque<Mirror>* list : {&out_, &lse_}) {
      for (Mirror& mirror : *list) {
        mirror.host.refill();
        mirror.gpu.upload(stream);
      }
    }
  }
  void download(Stream stream) {
    for (std::deque<Mirror>* list : {&out_, &lse_}) {
      for (Mirror& mirror : *list) mirror.gpu.download(stream);
    }
  }

  // A different padding by layer.
  RunArgs args(int layer, std::size_t attention, Device where, Stream stream) const {
    const std::size_t i = index(layer, attention);
    RunArgs args;
    args.out = where.type == DeviceType::cpu ? out_[i].host.view() : out_[i].gpu.view();
    args.lse = where.type == DeviceType::cpu ? lse_[i].host.view() : lse_[i].gpu.view();
    args.padding = layer == 1 ? Padding::zero : Padding::keep;
    args.stream = stream;
    return args;
  }

  // All bytes, guards included.
  bool equals(const LayerOutputs& other) const {
    for (std::size_t i = 0; i < out_.size(); ++i) {
      if (out_[i].host.snapshot() != other.out_[i].host.snapshot() ||
          lse_[i].host.snapshot() != other.lse_[i].host.snapshot()) {
        return false;
      }
    }
    return true;
  }
  // But for roundings: of weights to f16, and of outputs.
  void expect_near(const LayerOutputs& other) const {
    for (std::size_t i = 0; i < out_.size(); ++i) {
      EXPECT_TRUE(out_[i].host.guards_intact());
      EXPECT_TRUE(lse_[i].host.guards_intact());
      for (const auto& [mine, theirs] : {std::pair(&out_[i].host, &other.out_[i].host),
                                         std::pair(&lse_[i].host, &other.lse_[i].host)}) {
        const TensorView a = mine->view();
        const TensorView b = theirs->view();
        for (std::int64_t at = 0; at < a.numel(); ++at) {
          const double x = load_element(a.data, a.dtype, at);
          const double y = load_element(b.data, b.dtype, at);
          if (x == y) continue;
          ASSERT_NEAR(x, y, 4e-3 + 2e-3 * std::abs(y)) << "output " << i << " element " << at;
        }
      }
    }
  }

 private:
  std::size_t index(int layer, std::size_t attention) const {
    return static_cast<std::size_t>(layer) * attentions_ + attention;
  }

  std::size_t attentions_;
  std::deque<Mirror> out_, lse_;
};

// An update, and every layer's run of every attention.
void run_step(Plan& plan, const Steps& steps, const LayerOutputs& outputs, Device where,
              Stream stream = {}) {
  std::vector<PlanInput> inputs;
  for (const Attention& attention : plan.attentions()) {
    inputs.emplace_back(attention, steps.table(where));
  }
  plan.update(steps.batch(where), inputs, stream);
  for (int layer = 0; layer < kLayers; ++layer) {
    for (std::size_t i = 0; i < plan.attentions().size(); ++i) {
      plan.attentions()[i].run(plan, steps.q(where), steps.cache(layer, where),
                               outputs.args(layer, i, where, stream));
    }
  }
}

std::vector<Attention> attentions_on(Device where, const Dims& dims) {
  return {Attention(make_spec(dims, kDType, variants::causal()), where),
          Attention(make_spec(dims, kDType, variants::causal(70, 20.0)), where)};
}

class GraphsOnGpu : public GpuTest {
 protected:
  // A graph made before any batch was seen, replayed with `batches`.
  void expect_replays(const Dims& dims, const Limits& limits, const std::vector<Lengths>& batches) {
    const cuda::ContextScope scope(0);
    const cuda::OwnedStream stream(cuda::device(0));
    const Stream on = stream.get();
    const std::vector<Attention> attentions = attentions_on(kGpu, dims);
    Steps steps(dims, limits, 5);
    LayerOutputs replayed(steps, attentions.size());
    LayerOutputs eager(steps, attentions.size());
    LayerOutputs on_cpu(steps, attentions.size());
    Plan plan(attentions, limits);
    plan.prepare();
    cuda::synchronize({});
    // Nothing in it may compile, load, allocate or wait: capturing fails then.
    const cuda::Graph graph(cuda::device(0), on,
                            [&] { run_step(plan, steps, replayed, kGpu, on); });
    Plan cpu_plan(attentions_on(Device{}, dims), limits);
    for (std::size_t i = 0; i < batches.size() && !HasFailure(); ++i) {
      SCOPED_TRACE(testing::Message() << "batch " << i);
      steps.refill(batches[i], on);
      replayed.refill(on);
      graph.launch(on);
      replayed.download(on);
      for (const std::int32_t word : plan.status()) EXPECT_EQ(word, 0);

      Plan fresh(attentions, limits);
      eager.refill(on);
      cuda::synchronize({});
      run_step(fresh, steps, eager, kGpu, on);
      eager.download(on);
      EXPECT_TRUE(replayed.equals(eager)) << "other bits than without a graph";

      on_cpu.refill(on);
      run_step(cpu_plan, steps, on_cpu, Device{});
      replayed.expect_near(on_cpu);
    }
  }
};

TEST_F(GraphsOnGpu, ReplayOtherBatches) {
  const Limits limits{8, 300, 130, 420};
  const Lengths decode = {{1, 17}, {1, 400}, {1, 64}, {1, 65}, {1, 1}};
  Lengths longer = decode;
  for (auto& [q_len, kv_len] : longer) ++kv_len;
  expect_replays({8, 2, 64, 64}, limits,
                 {decode,
                  longer,
                  {{1, 20}},                              // fewer requests
                  {{1, 9}, {130, 130}, {1, 80}, {1, 3}},  // a prefill among them
                  {{1, 420}, {1, 419}, {1, 418}, {1, 417}, {1, 1}, {1, 2}, {1, 3}, {1, 4}},
                  {{100, 120}, {100, 400}, {100, 100}},  // prefills alone
                  {},                                    // nothing
                  {{0, 30}, {1, 0}, {0, 0}, {5, 300}},   // empty ones
                  {{4, 404}, {4, 11}, {4, 4}},           // speculation
                  decode});
}

// A plan for decodes makes a graph of decodes.
TEST_F(GraphsOnGpu, DecodeOnlyLimits) {
  const Limits limits{32, 32, 1, 260};
  std::vector<Lengths> batches;
  Random random(8);
  for (const std::int64_t requests : {32, 1, 17, 0, 5, 32}) {
    Lengths lengths;
    for (std::int64_t r = 0; r < requests; ++r) lengths.emplace_back(1, random.range(1, 260));
    batches.push_back(lengths);
  }
  batches.push_back(Lengths(32, {1, 260}));
  expect_replays({16, 2, 128, 128}, limits, batches);
}

// Of the plan's own records a graph keeps addresses only: what others make of the plan in between
// does not show.
TEST_F(GraphsOnGpu, BetweenOtherUpdatesOfThePlan) {
  const Dims dims{8, 2, 64, 64};
  const Limits limits{6, 60, 40, 200};
  const cuda::ContextScope scope(0);
  const cuda::OwnedStream stream(cuda::device(0));
  const Stream on = stream.get();
  const std::vector<Attention> attentions = attentions_on(kGpu, dims);
  Steps steps(dims, limits, 6);
  Steps others(dims, limits, 7);
  LayerOutputs first(steps, attentions.size());
  LayerOutputs again(steps, attentions.size());
  LayerOutputs other(others, attentions.size());
  Plan plan(attentions, limits);
  plan.prepare();
  cuda::synchronize({});
  const cuda::Graph graph(cuda::device(0), on, [&] { run_step(plan, steps, first, kGpu, on); });
  const cuda::Graph graph_again(cuda::device(0), on,
                                [&] { run_step(plan, steps, again, kGpu, on); });
  steps.refill({{1, 60}, {30, 199}, {1, 200}}, on);
  first.refill(on);
  again.refill(on);
  graph.launch(on);
  others.refill({{40, 40}, {1, 7}}, on);
  run_step(plan, others, other, kGpu, on);
  graph_again.launch(on);
  first.download(on);
  again.download(on);
  EXPECT_TRUE(first.equals(again));
}

// Levels, whose joins are launches of their own; whether a prefix is folded into the requests' rows
// is found on the device, anew for each batch.
TEST_F(GraphsOnGpu, LevelsOfOtherLengths) {
  const Dims dims{8, 2, 64, 64};
  const cuda::ContextScope scope(0);
  const cuda::OwnedStream stream(cuda::device(0));
  const Stream on = stream.get();
  const Attention attention(make_spec(dims, kDType, variants::causal()), kGpu);
  constexpr std::int64_t kMostPrefix = 600;
  SharedPrefix shared(dims, kDType, kMostPrefix, Lengths(10, {1, 30}), 12);
  const Limits limits = shared.limits();
  Mirror prefix_len(int_tensor({kMostPrefix}));
  GpuCopies copies;
  const Batch batch = copies.batch(shared.batch());
  std::vector<KvLevel> levels = copies.levels(shared.levels());
  levels[0].kv_lens = prefix_len.gpu.view();
  std::vector<KvCache> caches;
  for (const KvCache& cache : shared.caches()) caches.push_back(copies.cache(cache));
  BatchTensors tensors(shared.requests, dims, kDType);
  const TensorView q = copies(tensors.q.view());
  OnGpu out(tensors.out);
  OnGpu lse(tensors.lse);
  RunArgs args;
  args.out = out.view();
  args.lse = lse.view();
  args.stream = on;
  Plan plan({attention}, limits);
  plan.prepare();
  cuda::synchronize({});
  const auto step = [&](Plan& with) {
    with.update(batch, {PlanInput(attention, levels)}, on);
    attention.run(with, q, caches, args);
  };
  const cuda::Graph graph(cuda::device(0), on, [&] { step(plan); });
  for (const std::int64_t length :
       {kMostPrefix, std::int64_t{1}, std::int64_t{0}, std::int64_t{300}}) {
    SCOPED_TRACE(length);
    prefix_len.host.set({0}, static_cast<double>(length));
    prefix_len.gpu.upload(on);
    std::vector<std::uint8_t> bits[2];
    for (std::vector<std::uint8_t>& all : bits) {
      tensors.out.refill();
      tensors.lse.refill();
      out.upload(on);
      lse.upload(on);
      if (&all == &bits[0]) {
        graph.launch(on);
      } else {
        Plan fresh({attention}, limits);
        step(fresh);
        cuda::synchronize(on);
      }
      out.download(on);
      lse.download(on);
      all = tensors.out.snapshot();
      const std::vector<std::uint8_t> logs = tensors.lse.snapshot();
      all.insert(all.end(), logs.begin(), logs.end());
    }
    EXPECT_TRUE(bits[0] == bits[1]) << "other bits than without a graph";
    // The reference's requests have as much of the prefix, and are that much earlier.
    std::vector<Request> expected = shared.requests;
    const std::int64_t k = dims.kv_heads * dims.head_dim;
    for (Request& request : expected) {
      const std::int64_t cut = kMostPrefix - length;
      request.k.erase(request.k.begin() + length * k, request.k.begin() + kMostPrefix * k);
      request.v.erase(request.v.begin() + length * k, request.v.begin() + kMostPrefix * k);
      request.kv_pos.resize(request.kv_pos.size() - static_cast<std::size_t>(cut));
      for (std::int64_t& position : request.q_pos) position -= cut;
    }
    tensors.expect(expected, causal_semantics(), {}, gpu_arithmetic(kDType));
  }
}

}  // namespace
}  // namespace tilewright::test
