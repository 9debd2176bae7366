// SPDX-License-Identifier: Apache-2.0
// Bytes outside the mask may be anything: NaN and infinities in unused pages, behind a row's last
// key, and in masked keys inside a tile never reach an output; and what is not finite in one
// request stays there.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/not_finite.h"
#include "support/shared_prefix.h"
#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// On the CPU.
void run_on_cpu(const AttentionSpec& spec, SimpleBatch& b, const Batch& view,
                const std::vector<ParamValue>& plan_params, const RunArgs& args) {
  const Attention attention(spec);
  Plan plan({attention}, b.limits());
  plan.update(view, b.inputs(attention, plan_params));
  b.run(plan, attention, args);
}

class Poison : public testing::TestWithParam<double> {};

TEST_P(Poison, UnusedBytesOfTheCache) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    check_unused_bytes({6, 2, 72, 72}, dtype, GetParam(), 0, run_on_cpu);
  }
}

// Keys that a mask takes from every query of their request, next to keys that it does not.
TEST_P(Poison, MaskedKeys) {
  const Dims dims{6, 3, 40, 40};
  for (const VariantKind kind :
       {VariantKind::causal, VariantKind::causal_window, VariantKind::causal_self,
        VariantKind::window_both, VariantKind::sink_window, VariantKind::chunked,
        VariantKind::modulo, VariantKind::not_one_key, VariantKind::window_by_request,
        VariantKind::run_bound_window, VariantKind::documents, VariantKind::head_mask,
        VariantKind::sigmoid, VariantKind::nothing}) {
    SCOPED_TRACE(variant_name(kind));
    for (const DType dtype : {DType::f32, DType::bf16}) {
      check_unseen_keys(kind, dims, dtype, GetParam(), 0, run_on_cpu);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Values, Poison, testing::Values(kNan, kInfinity, -kInfinity),
                         [](const testing::TestParamInfo<double>& value) {
                           return std::isnan(value.param) ? std::string("NaN")
                                  : value.param > 0       ? std::string("Infinity")
                                                          : std::string("MinusInfinity");
                         });

// A key that some queries of a tile see and others do not.
TEST(NotFinite, ReachesOnlyTheRowsThatSeeIt) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    check_seen_by_some({4, 2, 64, 64}, dtype, kNan, kNan, 0, run_on_cpu);
    check_seen_by_some({4, 2, 64, 64}, dtype, 0, kNan, 0, run_on_cpu);
    check_seen_by_some({4, 2, 64, 64}, dtype, 0, kInfinity, 0, run_on_cpu);
  }
}

// What a sick request has instead of its queries, keys or values.
void make_sick(Request& request, int what, double value, std::int64_t first_key, const Dims& dims) {
  if (what == 0) std::fill(request.q.begin(), request.q.end(), value);
  if (what == 1)
    std::fill(request.k.begin() + first_key * dims.kv_heads * dims.head_dim, request.k.end(),
              value);
  if (what == 2)
    std::fill(request.v.begin() + first_key * dims.kv_heads * dims.value_dim, request.v.end(),
              value);
}

// Request `sick` is NaN everywhere, every other output is as in `clean`.
void expect_only_sick(const BatchTensors& tensors, const BatchTensors& clean,
                      const std::vector<Request>& requests, std::size_t sick) {
  std::int64_t token = 0;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    for (std::int64_t i = 0; i < requests[r].q_len(); ++i, ++token) {
      for (std::int64_t head = 0; head < tensors.dims.qo_heads; ++head) {
        for (std::int64_t d = 0; d < tensors.dims.value_dim; ++d) {
          const double value = tensors.out.get({token, head, d});
          if (r == sick) {
            ASSERT_TRUE(std::isnan(value)) << "request " << r << " query " << i;
          } else {
            ASSERT_EQ(value, clean.out.get({token, head, d})) << "request " << r << " query " << i;
          }
        }
      }
    }
  }
}

// One request's NaN, in queries, keys or values, changes no bit of the others.
TEST(NotFinite, StaysInItsRequest) {
  const Dims dims{6, 2, 64, 64};
  const Lengths lengths = {{1, 700}, {1, 50}, {17, 90}, {1, 700}, {40, 40}};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SimpleBatch clean(dims, dtype, lengths, 16, 57);
    const Attention attention(make_spec(dims, dtype, variants::causal()));
    Plan plan({attention}, clean.limits());
    clean.bits(plan, attention);
    for (int what = 0; what < 3; ++what) {
      for (const std::size_t sick : {std::size_t{0}, std::size_t{2}, std::size_t{4}}) {
        SCOPED_TRACE(testing::Message()
                     << dtype_name(dtype) << " what " << what << " request " << sick);
        std::vector<Request> requests = SimpleBatch::draw(dims, dtype, lengths, 57);
        make_sick(requests[sick], what, kNan, 0, dims);
        SimpleBatch b(dims, dtype, requests, 16, 57);
        b.bits(plan, attention);
        expect_only_sick(b.tensors, clean.tensors, requests, sick);
      }
    }
  }
}

// The same where requests share a prefix, and so the tiles in which it is computed.
TEST(NotFinite, StaysInItsRequestBehindASharedPrefix) {
  const Dims dims{6, 2, 64, 64};
  const Lengths lengths = {{1, 30}, {3, 70}, {1, 5}, {40, 40}, {1, 9}, {2, 33}};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Attention attention(make_spec(dims, dtype, variants::causal()));
    for (const Determinism mode : {Determinism::repeatable, Determinism::batch_invariant}) {
      const auto outputs = [&](const SharedPrefix& b) {
        Limits limits = b.limits();
        limits.determinism = mode;
        Plan plan({attention}, limits);
        plan.update(b.batch(), {PlanInput(attention, b.levels())});
        EXPECT_EQ(plan.stats(attention).folded_rows, mode == Determinism::repeatable ? 0 : 1);
        BatchTensors tensors(b.requests, dims, dtype);
        attention.run(plan, tensors.q.view(), b.caches(), tensors.args());
        return tensors;
      };
      SharedPrefix b(dims, dtype, 900, lengths, 61);
      const std::vector<Request> healthy = b.requests;
      const BatchTensors clean = outputs(b);
      clean.expect(healthy, causal_semantics());
      for (int what = 0; what < 3; ++what) {
        for (const std::size_t sick : {std::size_t{0}, std::size_t{3}}) {
          if (what != 0 && sick == 0) continue;  // the reference is slow
          SCOPED_TRACE(testing::Message()
                       << dtype_name(dtype) << " what " << what << " request " << sick);
          b.requests = healthy;
          make_sick(b.requests[sick], what, kNan, b.prefix, dims);
          b.store();
          const BatchTensors tensors = outputs(b);
          if (what == 0) {
            expect_only_sick(tensors, clean, b.requests, sick);
          } else {
            tensors.expect(b.requests, causal_semantics());
          }
        }
      }
    }
  }
}

// Logits far beyond what exp can take: the softmax is shifted. Small integers and sm_scale = 1 / 8
// keep them exact in f32.
TEST(LargeLogits, DoNotOverflow) {
  const Dims dims{2, 1, 64, 64};
  std::vector<Request> requests = SimpleBatch::draw(dims, DType::f32, {{1, 300}, {20, 40}}, 58);
  for (Request& request : requests) {
    for (double& x : request.q) x = std::round(x * 64);
    for (double& x : request.k) x = x < 0 ? -4 : 4;
  }
  SimpleBatch b(dims, DType::f32, requests, 16, 59);
  const Attention attention(make_spec(dims, DType::f32, variants::causal()));
  Plan plan({attention}, b.limits());
  b.bits(plan, attention);
  EXPECT_GT(std::fabs(b.tensors.lse.get({0, 0})), 200);
  b.tensors.expect(requests, causal_semantics());
}

// A bias of -1e30 on every key, as some engines mask: the row still sees its keys.
TEST(LargeLogits, VeryNegativeLogitsAreNotMasks) {
  const Dims dims{2, 1, 16, 16};
  Variant variant;
  variant.logits = expr::logit() - 1e30;
  SimpleBatch b(dims, DType::f32, {{3, 20}}, 16, 60);
  const Attention attention(make_spec(dims, DType::f32, variant));
  Plan plan({attention}, b.limits());
  b.bits(plan, attention);
  // f32 cannot tell the logits apart at this distance: the mean of the values.
  Semantics semantics;
  semantics.logit = [](double, const Element&) { return -1e30; };
  b.tensors.expect(b.requests, semantics);
}

}  // namespace
}  // namespace tilewright::test
