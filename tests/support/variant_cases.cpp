// SPDX-License-Identifier: Apache-2.0
#include "support/variant_cases.h"

#include <algorithm>
#include <cmath>

namespace tilewright::test {
namespace {

// The windows and caps that have a function of their own in `variants`.
VariantCase ready_made_variant(VariantKind kind, const Dims& dims, Random& random) {
  VariantCase c;
  std::int64_t left = -1;
  std::int64_t right = -1;
  double cap = 0;
  switch (kind) {
    case VariantKind::full:
      c.variant = variants::full();
      break;
    case VariantKind::causal:
      c.variant = variants::causal();
      right = 0;
      break;
    case VariantKind::causal_window:
      c.variant = variants::causal(left = 7);
      right = 0;
      break;
    case VariantKind::causal_window_long:
      c.variant = variants::causal(left = 130);
      right = 0;
      break;
    case VariantKind::causal_self:
      c.variant = variants::causal(left = 0);
      right = 0;
      break;
    case VariantKind::window_both:
      c.variant = variants::sliding_window(left = 5, right = 3);
      break;
    case VariantKind::window_right:
      c.variant = variants::sliding_window(-1, right = 4);
      break;
    case VariantKind::window_left:
      c.variant = variants::sliding_window(left = 9, -1);
      break;
    case VariantKind::soft_cap:
      c.variant = variants::causal(-1, cap = 2.5);
      right = 0;
      break;
    case VariantKind::soft_cap_at_run:
      c.variant = variants::causal(left = 40, 30.0);
      right = 0;
      cap = 1.5;
      c.logits_soft_cap = 1.5F;
      break;
    case VariantKind::full_soft_cap:
      c.variant = variants::full(cap = 4.0);
      break;
    default: {
      c.variant = variants::alibi();
      right = 0;
      std::vector<double> slopes;
      slopes.reserve(dims.qo_heads);
      for (int head = 0; head < dims.qo_heads; ++head) {
        slopes.push_back(std::ldexp(1.0 + random.uniform(), -1 - head % 8));
      }
      slopes = c.add_reals(c.run_params, "slope", slopes);
      c.semantics.logit = [slopes](double logit, const Element& at) {
        return logit + slopes[at.q_head] * static_cast<double>(at.kv_pos - at.q_pos);
      };
      break;
    }
  }
  if (cap > 0) {
    c.semantics.logit = [cap](double logit, const Element&) {
      return cap * std::tanh(logit / cap);
    };
  }
  if (left >= 0 || right >= 0) {
    c.semantics.mask = [left, right](const Element& at) {
      return (left < 0 || at.kv_pos >= at.q_pos - left) &&
             (right < 0 || at.kv_pos <= at.q_pos + right);
    };
  }
  return c;
}

// Masks with bounds that the plan knows: half-planes in positions, chunks, parameters.
VariantCase closed_form_variant(VariantKind kind, const Dims& dims, std::int64_t requests,
                                Random& random) {
  using namespace expr;  // NOLINT(google-build-using-namespace)
  VariantCase c;
  const auto random_integers = [&](std::int64_t count, std::int64_t low, std::int64_t high) {
    Extents values(count);
    for (auto& value : values) value = random.range(low, high);
    return values;
  };
  switch (kind) {
    case VariantKind::window_by_head: {
      const Param window = Param::integer("window", 1);
      const auto values =
          c.add_integers(c.plan_params, "window", random_integers(dims.qo_heads, 0, 90));
      c.variant.mask = kv_pos() <= q_pos() && q_pos() - kv_pos() < window(q_head());
      c.semantics.mask = [values](const Element& at) {
        return at.kv_pos <= at.q_pos && at.q_pos - at.kv_pos < values[at.q_head];
      };
      break;
    }
    case VariantKind::window_by_request: {
      const Param window = Param::integer("window", 1);
      const auto values = c.add_integers(c.plan_params, "window", random_integers(requests, 0, 90));
      c.variant.mask = kv_pos() <= q_pos() && kv_pos() > q_pos() - window(batch());
      c.semantics.mask = [values](const Element& at) {
        return at.kv_pos <= at.q_pos && at.kv_pos > at.q_pos - values[at.batch];
      };
      break;
    }
    case VariantKind::chunked:
      c.variant.mask =
          kv_pos() <= q_pos() && floor_div(kv_pos(), Expr(48)) == floor_div(q_pos(), Expr(48));
      c.semantics.mask = [](const Element& at) {
        return at.kv_pos <= at.q_pos &&
               floor_quotient(at.kv_pos, 48) == floor_quotient(at.q_pos, 48);
      };
      break;
    case VariantKind::sink_window:
      c.variant.mask = kv_pos() <= q_pos() && (kv_pos() < 4 || q_pos() - kv_pos() < 20);
      c.semantics.mask = [](const Element& at) {
        return at.kv_pos <= at.q_pos && (at.kv_pos < 4 || at.q_pos - at.kv_pos < 20);
      };
      break;
    case VariantKind::prefix_lm: {
      const Param prefix = Param::integer("prefix", 1);
      const auto values = c.add_integers(c.plan_params, "prefix", random_integers(requests, 0, 40));
      c.variant.mask = kv_pos() < prefix(batch()) || kv_pos() <= q_pos();
      c.semantics.mask = [values](const Element& at) {
        return at.kv_pos < values[at.batch] || at.kv_pos <= at.q_pos;
      };
      break;
    }
    case VariantKind::not_one_key:
      c.variant.mask = !(kv_pos() == 3) && (kv_pos() < q_pos() || q_pos() >= kv_pos());
      c.semantics.mask = [](const Element& at) { return at.kv_pos != 3 && at.kv_pos <= at.q_pos; };
      break;
    default:  // nothing: contradictory bounds
      c.variant.mask = kv_pos() < q_pos() - 2 && kv_pos() > q_pos();
      c.semantics.mask = [](const Element&) { return false; };
      break;
  }
  return c;
}

// Masks that only an evaluation of every element decides, and transforms of logits and outputs.
VariantCase elementwise_variant(VariantKind kind, const Dims& dims, std::int64_t requests,
                                Random& random) {
  using namespace expr;  // NOLINT(google-build-using-namespace)
  VariantCase c;
  switch (kind) {
    case VariantKind::modulo:
      c.variant.mask = mod(kv_pos() + q_pos(), Expr(3)) != 0 || kv_pos() == q_pos();
      c.semantics.mask = [](const Element& at) {
        return floor_remainder(at.kv_pos + at.q_pos, 3) != 0 || at.kv_pos == at.q_pos;
      };
      break;
    case VariantKind::documents: {
      // Packed documents: ids by request and position, 0 behind the table's end.
      const Param document = Param::integer("document", 2);
      constexpr std::int64_t kColumns = 100;
      auto table = std::make_shared<Tensor>(int_matrix(requests, kColumns, 5));
      for (std::int64_t r = 0; r < requests; ++r) {
        std::int64_t id = 1;
        for (std::int64_t i = 0; i < kColumns; ++i) {
          if (random.chance(0.1)) ++id;
          table->set({r, i}, static_cast<double>(id));
        }
      }
      c.plan_params.emplace_back("document", table->view());
      c.tensors.push_back(table);
      c.variant.mask =
          kv_pos() <= q_pos() && document(batch(), kv_pos()) == document(batch(), q_pos());
      c.semantics.mask = [table](const Element& at) {
        const auto id = [&](std::int64_t position) {
          return position >= 0 && position < kColumns ? table->get({at.batch, position}) : 0.0;
        };
        return at.kv_pos <= at.q_pos && id(at.kv_pos) == id(at.q_pos);
      };
      break;
    }
    case VariantKind::run_bound_window: {
      const Param window = Param::integer("window", 0, Bind::run);
      c.run_params.emplace_back("window", 12.0);
      c.variant.mask = kv_pos() <= q_pos() && q_pos() - kv_pos() <= window();
      c.semantics.mask = [](const Element& at) {
        return at.kv_pos <= at.q_pos && at.q_pos - at.kv_pos <= 12;
      };
      break;
    }
    case VariantKind::head_mask:
      c.variant.mask = mod(kv_pos(), q_head() + 1) == 0 && q_pos() >= kv_pos() - kv_head();
      c.semantics.mask = [](const Element& at) {
        return at.kv_pos % (at.q_head + 1) == 0 && at.q_pos >= at.kv_pos - at.kv_head;
      };
      break;
    case VariantKind::bias_table: {
      const Param bias = Param::real("bias", 2);
      constexpr std::int64_t kDistances = 33;
      auto table = std::make_shared<Tensor>(
          Tensor(DType::f32, {dims.qo_heads, kDistances}, {kDistances + 7, 1}));
      for (std::int64_t head = 0; head < dims.qo_heads; ++head) {
        for (std::int64_t i = 0; i < kDistances; ++i) table->set({head, i}, random.normal());
      }
      c.run_params.emplace_back("bias", table->view());
      c.tensors.push_back(table);
      const Expr distance = min(max(q_pos() - kv_pos() + 16, Expr(0)), Expr(32));
      c.variant.logits = logit() + bias(q_head(), distance);
      c.semantics.logit = [table](double logit, const Element& at) {
        const std::int64_t distance_index =
            std::clamp<std::int64_t>(at.q_pos - at.kv_pos + 16, 0, 32);
        return logit + table->get({at.q_head, distance_index});
      };
      break;
    }
    case VariantKind::all_functions: {
      const Param a = Param::real("a").with_default(0.75);
      const Expr x = logit();
      c.variant.logits =
          where(x > 0.0, tanh(x * a()) * 2.0, -exp(min(-x, Expr(1.0))) + sigmoid(x)) +
          log(max(abs(x), Expr(0.125))) / 3.0 - to_real(kv_len() - kv_pos() + q_len()) * 0.001 +
          to_real(q_pos() > kv_pos()) * 0.5;
      c.semantics.logit = [](double x_value, const Element& at) {
        const double first =
            x_value > 0 ? std::tanh(x_value * 0.75) * 2
                        : -std::exp(std::min(-x_value, 1.0)) + 1 / (1 + std::exp(-x_value));
        return first + std::log(std::max(std::fabs(x_value), 0.125)) / 3 -
               static_cast<double>(at.kv_len - at.kv_pos + at.q_len) * 0.001 +
               (at.q_pos > at.kv_pos ? 0.5 : 0.0);
      };
      break;
    }
    case VariantKind::sigmoid:
      c.variant.softmax = false;
      c.variant.logits = sigmoid(logit() - 1.0);
      c.variant.mask = kv_pos() <= q_pos();
      // Rows without keys are not transformed: they are 0.
      c.variant.output = value() * 0.5 + 0.25;
      c.semantics.softmax = false;
      c.semantics.logit = [](double x, const Element&) { return 1 / (1 + std::exp(1 - x)); };
      c.semantics.output = [](double x, const Element&) { return x * 0.5 + 0.25; };
      c.semantics.mask = [](const Element& at) { return at.kv_pos <= at.q_pos; };
      break;
    case VariantKind::output_gate: {
      const Param gate = Param::real("gate", 1);
      std::vector<double> values(dims.qo_heads);
      for (double& value : values) value = random.normal();
      values = c.add_reals(c.run_params, "gate", values);
      c.variant.mask = kv_pos() <= q_pos();
      c.variant.output = value() * gate(q_head());
      c.semantics.mask = [](const Element& at) { return at.kv_pos <= at.q_pos; };
      c.semantics.output = [values](double x, const Element& at) { return x * values[at.q_head]; };
      break;
    }
    case VariantKind::striped: {
      // Diagonal stripes, single keys and whole blocks: nothing that half-planes can say.
      const Expr distance = q_pos() - kv_pos();
      c.variant.mask = bit_and(shift_right(distance, 6), 3) == 0 || mod(kv_pos(), 331) == 5 ||
                       mod(floor_div(kv_pos(), 128), 5) == 4;
      c.semantics.mask = [](const Element& at) {
        return floor_remainder(floor_quotient(at.q_pos - at.kv_pos, 64), 4) == 0 ||
               at.kv_pos % 331 == 5 || at.kv_pos / 128 % 5 == 4;
      };
      break;
    }
    default:  // rope
      c.variant = variants::causal();
      c.semantics.mask = [](const Element& at) { return at.kv_pos <= at.q_pos; };
      c.variant.rope = RopeSpec{kind == VariantKind::rope ? 0 : 8, 1000.0, 0.5,
                                kind == VariantKind::rope_interleaved};
      c.semantics.rope = c.variant.rope;
      break;
  }
  return c;
}

}  // namespace

const char* variant_name(VariantKind kind) {
  static constexpr const char* kNames[] = {"full",
                                           "causal",
                                           "causal_window",
                                           "causal_window_long",
                                           "causal_self",
                                           "window_both",
                                           "window_right",
                                           "window_left",
                                           "soft_cap",
                                           "soft_cap_at_run",
                                           "full_soft_cap",
                                           "alibi",
                                           "window_by_head",
                                           "window_by_request",
                                           "chunked",
                                           "sink_window",
                                           "modulo",
                                           "prefix_lm",
                                           "documents",
                                           "not_one_key",
                                           "nothing",
                                           "run_bound_window",
                                           "head_mask",
                                           "bias_table",
                                           "all_functions",
                                           "sigmoid",
                                           "output_gate",
                                           "rope",
                                           "rope_interleaved",
                                           "striped"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(VariantKind::count));
  return kNames[static_cast<std::size_t>(kind)];
}

Extents VariantCase::add_integers(std::vector<ParamValue>& params, const std::string& name,
                                  Extents values) {
  tensors.push_back(std::make_shared<Tensor>(int_tensor(values)));
  params.emplace_back(name, tensors.back()->view());
  return values;
}

std::vector<double> VariantCase::add_reals(std::vector<ParamValue>& params, const std::string& name,
                                           std::vector<double> values) {
  for (double& value : values) value = rounded(value, DType::f32);
  tensors.push_back(std::make_shared<Tensor>(float_tensor(values)));
  params.emplace_back(name, tensors.back()->view());
  return values;
}

VariantCase make_variant(VariantKind kind, const Dims& dims, std::int64_t requests,
                         Random& random) {
  if (kind <= VariantKind::alibi) return ready_made_variant(kind, dims, random);
  switch (kind) {
    case VariantKind::window_by_head:
    case VariantKind::window_by_request:
    case VariantKind::chunked:
    case VariantKind::sink_window:
    case VariantKind::prefix_lm:
    case VariantKind::not_one_key:
    case VariantKind::nothing:
      return closed_form_variant(kind, dims, requests, random);
    default:
      return elementwise_variant(kind, dims, requests, random);
  }
}

}  // namespace tilewright::test
