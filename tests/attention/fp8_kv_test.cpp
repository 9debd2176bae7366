// SPDX-License-Identifier: Apache-2.0
// fp8 caches end to end: keys and values written with scales by tensor, request and head, in two
// steps, then attention with the same scales, against float64 on the quantised values.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <numeric>
#include <string>
#include <vector>

#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

enum class Granularity { number, tensor, request, head, request_and_head };

// A scale in the form of a granularity, with values between 1/64 and 1.
struct TestScale {
  Tensor tensor;
  Scale scale;
  std::int64_t requests = 1;
  std::int64_t heads = 1;

  TestScale(Granularity granularity, std::int64_t all_requests, std::int64_t all_heads,
            Random& random) {
    const auto draw = [&] {
      return static_cast<double>(static_cast<float>((1 + 63 * random.uniform()) / 64));
    };
    if (granularity == Granularity::number) {
      scale = static_cast<float>(draw());
      return;
    }
    const bool by_request =
        granularity == Granularity::request || granularity == Granularity::request_and_head;
    const bool by_head =
        granularity == Granularity::head || granularity == Granularity::request_and_head;
    requests = by_request ? all_requests : 1;
    heads = by_head ? all_heads : 1;
    if (granularity == Granularity::tensor) {
      tensor = float_tensor({draw()});
    } else {
      tensor = Tensor(DType::f32, {requests, heads}, {heads + 3, 1});
      for (std::int64_t r = 0; r < requests; ++r) {
        for (std::int64_t h = 0; h < heads; ++h) tensor.set({r, h}, draw());
      }
    }
    scale = tensor.view();
  }

  double at(std::int64_t request, std::int64_t head) const {
    if (!tensor.defined()) return scale.value;
    if (tensor.shape().size() == 1) return tensor.get({0});
    return tensor.get({requests == 1 ? 0 : request, heads == 1 ? 0 : head});
  }
};

struct Step {
  std::vector<std::int64_t> slots;
  std::vector<std::int64_t> indptr{0};
  std::vector<double> k, v;
};

class Fp8Kv : public testing::TestWithParam<Granularity> {
 protected:
  static constexpr std::int64_t kPageSize = 4;
  const Dims dims_{6, 3, 40, 24};
  const Lengths lengths_ = {{1, 33}, {7, 7}, {3, 18}, {1, 1}};

  // slot_of(request, token) says where a token goes, `tail` tokens a request are written by a
  // second call.
  template <typename SlotOf>
  void check(DType dtype, const KvCache& cache, const PageTable& table, const SlotOf& slot_of) {
    Random random(71);
    const auto count = static_cast<std::int64_t>(lengths_.size());
    const TestScale k_scale(GetParam(), count, dims_.kv_heads, random);
    const TestScale v_scale(GetParam(), count, dims_.kv_heads, random);
    std::vector<Request> requests = SimpleBatch::draw(dims_, DType::f32, lengths_, 72);
    for (const bool tail : {false, true}) {
      Step step;
      for (std::int64_t r = 0; r < count; ++r) add_tokens(requests[r], r, tail, slot_of, step);
      write(step, cache, k_scale, v_scale);
    }
    for (std::int64_t r = 0; r < count; ++r) quantise(requests[r], r, dtype, k_scale, v_scale);

    BatchTensors tensors(requests, dims_, DType::f32);
    const Tensor qo_indptr = int_tensor(query_indptr(requests));
    const Tensor kv_lens = int_tensor(kv_lengths(requests));
    AttentionSpec spec = make_spec(dims_, DType::f32, variants::causal());
    spec.kv_dtype = dtype;
    const Attention attention(spec);
    Plan plan({attention}, {.requests = count, .q_tokens = 12, .q_len = 7, .kv_len = 33});
    Batch batch;
    batch.qo_indptr = qo_indptr.view();
    if (table.form != PageTable::Form::ragged) batch.kv_lens = kv_lens.view();
    plan.update(batch, {PlanInput(attention, table)});
    RunArgs args = tensors.args();
    args.k_scale = k_scale.scale;
    args.v_scale = v_scale.scale;
    attention.run(plan, tensors.q.view(), cache, args);
    tensors.expect(requests, causal_semantics());
  }

  template <typename SlotOf>
  void add_tokens(const Request& request, std::int64_t r, bool tail, const SlotOf& slot_of,
                  Step& step) const {
    const std::int64_t split = request.kv_len() - std::min<std::int64_t>(2, request.kv_len());
    const std::int64_t begin = tail ? split : 0;
    const std::int64_t end = tail ? request.kv_len() : split;
    const auto append = [&](const std::vector<double>& from, std::int64_t dim,
                            std::vector<double>& to) {
      to.insert(to.end(), from.begin() + begin * dims_.kv_heads * dim,
                from.begin() + end * dims_.kv_heads * dim);
    };
    append(request.k, dims_.head_dim, step.k);
    append(request.v, dims_.value_dim, step.v);
    for (std::int64_t token = begin; token < end; ++token) step.slots.push_back(slot_of(r, token));
    step.indptr.push_back(static_cast<std::int64_t>(step.slots.size()));
  }

  void write(const Step& step, const KvCache& cache, const TestScale& k_scale,
             const TestScale& v_scale) const {
    const auto tokens = static_cast<std::int64_t>(step.slots.size());
    Tensor k(DType::f32, {tokens, dims_.kv_heads, dims_.head_dim});
    Tensor v(DType::f32, {tokens, dims_.kv_heads, dims_.value_dim});
    k.set_row({0, 0, 0}, step.k.data(), static_cast<std::int64_t>(step.k.size()));
    v.set_row({0, 0, 0}, step.v.data(), static_cast<std::int64_t>(step.v.size()));
    write_kv_cache(k.view(), v.view(), cache, int_tensor(step.slots).view(), k_scale.scale,
                   v_scale.scale, int_tensor(step.indptr).view());
  }

  void quantise(Request& request, std::int64_t r, DType dtype, const TestScale& k_scale,
                const TestScale& v_scale) const {
    request.batch = r;
    const auto round_all = [&](std::vector<double>& values, std::int64_t dim,
                               const TestScale& scale, std::vector<double>& scales) {
      for (std::int64_t h = 0; h < dims_.kv_heads; ++h) scales.push_back(scale.at(r, h));
      for (std::size_t i = 0; i < values.size(); ++i) {
        const std::int64_t head = static_cast<std::int64_t>(i) / dim % dims_.kv_heads;
        const float quotient =
            static_cast<float>(values[i]) / static_cast<float>(scale.at(r, head));
        values[i] = rounded(quotient, dtype);
      }
    };
    round_all(request.k, dims_.head_dim, k_scale, request.k_scale);
    round_all(request.v, dims_.value_dim, v_scale, request.v_scale);
  }
};

TEST_P(Fp8Kv, Paged) {
  for (const DType dtype : {DType::f8e4m3, DType::f8e5m2}) {
    SCOPED_TRACE(dtype_name(dtype));
    const std::int64_t columns = 9;
    const auto rows = static_cast<std::int64_t>(lengths_.size());
    std::vector<std::int64_t> pages(static_cast<std::size_t>(rows * columns));
    std::iota(pages.begin(), pages.end(), 0);
    Random random(73);
    random.shuffle(pages);
    Tensor table = int_matrix(rows, columns);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t c = 0; c < columns; ++c) {
        table.set({r, c}, static_cast<double>(pages[static_cast<std::size_t>(r * columns + c)]));
      }
    }
    Tensor k(dtype, {rows * columns, kPageSize, dims_.kv_heads, dims_.head_dim});
    Tensor v(dtype, {rows * columns, kPageSize, dims_.kv_heads, dims_.value_dim});
    check(dtype, KvCache::separate(k.view(), v.view()), PageTable::padded(table.view(), kPageSize),
          [&](std::int64_t r, std::int64_t token) {
            const auto page = static_cast<std::int64_t>(table.get({r, token / kPageSize}));
            return page * kPageSize + token % kPageSize;
          });
  }
}

TEST_P(Fp8Kv, Ragged) {
  std::vector<std::int64_t> indptr{0};
  for (const auto& [q, kv] : lengths_) indptr.push_back(indptr.back() + kv);
  const Tensor kv_indptr = int_tensor(indptr);
  Tensor k(DType::f8e4m3, {indptr.back(), dims_.kv_heads, dims_.head_dim});
  Tensor v(DType::f8e4m3, {indptr.back(), dims_.kv_heads, dims_.value_dim});
  check(DType::f8e4m3, KvCache::separate(k.view(), v.view()), PageTable::ragged(kv_indptr.view()),
        [&](std::int64_t r, std::int64_t token) {
          return indptr[static_cast<std::size_t>(r)] + token;
        });
}

INSTANTIATE_TEST_SUITE_P(Scales, Fp8Kv,
                         testing::Values(Granularity::number, Granularity::tensor,
                                         Granularity::request, Granularity::head,
                                         Granularity::request_and_head));

}  // namespace
}  // namespace tilewright::test
