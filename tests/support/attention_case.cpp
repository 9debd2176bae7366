// SPDX-License-Identifier: Apache-2.0
#include "support/attention_case.h"

#include <algorithm>
#include <cmath>

namespace tilewright::test {

const char* length_name(LengthKind kind) {
  static constexpr const char* kNames[] = {"decode", "prefill",  "append", "cross",
                                           "empty",  "one_long", "mixed",  "tiny"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(LengthKind::count));
  return kNames[static_cast<std::size_t>(kind)];
}

Lengths draw_lengths(const Case& c, Random& random) {
  const std::int64_t page = c.page_size;
  const auto edge = [&] {
    return std::max<std::int64_t>(
        0, random.pick<std::int64_t>({0, 1, page - 1, page, page + 1, 2 * page, 63, 64, 65, 130}));
  };
  Lengths lengths;
  switch (c.lengths) {
    case LengthKind::decode:
      for (const std::int64_t kv :
           {page - 1, page, page + 1, std::int64_t{1}, std::int64_t{0}, std::int64_t{64}, edge()}) {
        lengths.emplace_back(1, kv);
      }
      break;
    case LengthKind::prefill:
      for (const std::int64_t length : {33, 1, 129, 0, 4, 65}) lengths.emplace_back(length, length);
      break;
    case LengthKind::append:
      for (const std::int64_t q : {4, 33, 1, 0, 129}) lengths.emplace_back(q, q + edge());
      break;
    case LengthKind::cross:
      for (const std::int64_t q : {33, 1, 4, 0, 7}) lengths.emplace_back(q, edge());
      break;
    case LengthKind::empty:
      lengths = {{1, 0}, {0, 0}, {3, 0}, {0, 5}};
      break;
    case LengthKind::one_long:
      lengths = {{random.pick<std::int64_t>({1, 3}), random.range(690, 1500)}};
      break;
    case LengthKind::tiny: {
      std::int64_t tokens = kTinyLimits.q_tokens;
      for (std::int64_t r = random.range(1, kTinyLimits.requests); r > 0; --r) {
        const std::int64_t q = random.chance(0.5) ? 1 : random.range(0, kTinyLimits.q_len);
        if (q > tokens) break;
        tokens -= q;
        lengths.emplace_back(q, random.range(0, random.chance(0.2) ? 2 : kTinyLimits.kv_len));
      }
      break;
    }
    default:
      lengths = {
          {1, random.range(600, 750)}, {33, 33 + edge()}, {1, edge()}, {0, edge()}, {17, 17}};
      break;
  }
  random.shuffle(lengths);
  // The reference is slow: what would take it too long is left out.
  std::int64_t budget = 30'000'000;
  Lengths kept;
  for (const auto& [q, kv] : lengths) {
    const std::int64_t cost = q * kv * c.dims().qo_heads * (c.head_dim + c.value_dim);
    if (cost > budget) continue;
    budget -= cost;
    kept.emplace_back(q, kv);
  }
  if (kept.empty()) kept.emplace_back(1, 17);
  return kept;
}

Tensor token_tensor(StrideKind kind, DType dtype, std::int64_t tokens, std::int64_t heads,
                    std::int64_t dim, std::uint8_t fill, bool aligned) {
  const Extents shape = {tokens, heads, dim};
  const int unit = static_cast<int>(16 / dtype_bytes(dtype));
  switch (kind) {
    case StrideKind::fused:  // a slice of q, k and v in one row
      return {dtype, shape, {(heads + 4) * dim, dim, 1}, fill, aligned ? unit : 1};
    case StrideKind::head_major:
      return {dtype, shape, strides_in_order(shape, {1, 0, 2}, aligned ? unit : 3), fill};
    default:
      return {dtype, shape, row_major(shape), fill};
  }
}

ScaleCase make_scale(ScaleKind kind, std::int64_t requests, std::int64_t heads, Random& random) {
  ScaleCase s;
  s.values.assign(requests, std::vector<double>(heads, 1.0));
  if (kind == ScaleKind::none) return s;
  const std::int64_t rows =
      kind == ScaleKind::by_request || kind == ScaleKind::by_both ? requests : 1;
  const std::int64_t columns = kind == ScaleKind::by_head || kind == ScaleKind::by_both ? heads : 1;
  std::vector<double> flat(rows * columns);
  for (double& value : flat) value = rounded(0.5 + random.uniform(), DType::f32);
  for (std::int64_t r = 0; r < requests; ++r) {
    for (std::int64_t h = 0; h < heads; ++h) {
      s.values[r][h] = flat[(rows > 1 ? r * columns : 0) + (columns > 1 ? h : 0)];
    }
  }
  if (kind == ScaleKind::numbers) {
    s.scale = Scale(static_cast<float>(flat[0]));
    return s;
  }
  s.tensor = kind == ScaleKind::one ? Tensor(DType::f32, {1}) : Tensor(DType::f32, {rows, columns});
  std::copy(flat.begin(), flat.end(), reinterpret_cast<float*>(s.tensor.data()));
  s.scale = Scale(s.tensor.view());
  return s;
}

CaseRun::CaseRun(const Case& c) : case_(c), random_(c.seed), dims_(c.dims()) {
  for (const auto& [q, kv] : draw_lengths(c, random_)) {
    Request request = random_request(random_, dims_, q, kv, c.q_dtype, c.kv_dtype,
                                     c.v_dtype.value_or(c.kv_dtype));
    if (c.cache == CacheForm::aliased) alias_values(request, dims_);
    request.batch = requests();
    requests_.push_back(std::move(request));
  }
  variant_ = make_variant(c.variant, dims_, requests(), random_);
  spec_.num_qo_heads = dims_.qo_heads;
  spec_.num_kv_heads = dims_.kv_heads;
  spec_.head_dim = dims_.head_dim;
  spec_.head_dim_vo = dims_.value_dim == dims_.head_dim ? 0 : dims_.value_dim;
  spec_.q_dtype = c.q_dtype;
  spec_.kv_dtype = c.kv_dtype;
  spec_.v_dtype = c.v_dtype;
  spec_.out_dtype = c.out_dtype;
  spec_.variant = variant_.variant;
}

void CaseRun::run_in(Plan& plan) {
  make_batch();
  make_arguments();
  update(plan);
  execute(plan);
  check();
}

void CaseRun::run() {
  make_batch();
  make_arguments();
  Plan plan({Attention(spec_)}, limits());
  update(plan);
  execute(plan);
  check();
  const auto first = out_.snapshot();
  out_.refill();
  update(plan);
  execute(plan);
  EXPECT_TRUE(first == out_.snapshot()) << "the second run gave other bits";
}

Limits CaseRun::limits() {
  Limits limits;
  limits.requests = requests() + random_.range(0, 3);
  limits.q_tokens = q_tokens_ + kPadding;
  for (const Request& request : requests_) {
    limits.q_len = std::max(limits.q_len, request.q_len());
    limits.kv_len = std::max(limits.kv_len, request.kv_len());
  }
  limits.q_len = std::max<std::int64_t>(limits.q_len, 1) + random_.range(0, 5);
  limits.kv_len = std::max<std::int64_t>(limits.kv_len, 1) + random_.range(0, 100);
  limits.q_tokens = std::max(limits.q_tokens, limits.q_len);
  limits.workers = case_.workers;
  return limits;
}

void CaseRun::make_batch() {
  Extents indptr = {0};
  Extents kv_lens;
  Extents positions;
  Extents offsets;
  for (Request& request : requests_) {
    const std::int64_t offset = random_.range(0, request.kv_len() + 3);
    offsets.push_back(offset);
    for (std::int64_t i = 0; i < request.q_len(); ++i) {
      if (case_.positions == PositionKind::offset) request.q_pos[i] = offset + i;
      if (case_.positions == PositionKind::explicit_any) {
        request.q_pos[i] = random_.range(0, request.kv_len() + 3);
      }
      positions.push_back(request.q_pos[i]);
    }
    indptr.push_back(indptr.back() + request.q_len());
    kv_lens.push_back(request.kv_len());
  }
  q_tokens_ = indptr.back();
  positions.resize(q_tokens_ + kPadding, -77);
  qo_indptr_ = int_tensor(indptr);
  kv_lens_ = int_tensor(kv_lens);
  table_ = make_table(case_.table, kv_lens, case_.page_size, random_);
  level_.table = table_.table;
  batch_.qo_indptr = qo_indptr_.view();
  if (!tells_lengths(case_.table) || random_.chance(0.3)) {
    (random_.chance(0.3) ? level_.kv_lens : batch_.kv_lens) = kv_lens_.view();
  }
  if (case_.positions == PositionKind::offset) {
    positions_ = int_tensor(offsets);
    batch_.q_pos_offset = positions_.view();
  } else if (case_.positions == PositionKind::explicit_any) {
    positions_ = int_tensor(positions);
    batch_.q_pos = positions_.view();
  }
  cache_ = std::make_unique<Cache>(case_.cache, table_.num_pages, table_.page_size, dims_,
                                   case_.kv_dtype, spec_.value_dtype());
  fill_cache(*cache_, table_, requests_);
}

void CaseRun::make_arguments() {
  const std::int64_t rows = q_tokens_ + kPadding;
  q_ = token_tensor(case_.strides, case_.q_dtype, rows, dims_.qo_heads, dims_.head_dim, kPoison,
                    case_.aligned);
  out_ = token_tensor(static_cast<StrideKind>((static_cast<int>(case_.strides) + case_.seed) % 3),
                      spec_.output_dtype(), rows, dims_.qo_heads, dims_.value_dim, kSentinel,
                      case_.aligned);
  const Extents lse_shape = {rows, dims_.qo_heads};
  lse_ = Tensor(DType::f32, lse_shape,
                random_.chance(0.5) ? row_major(lse_shape) : strides_in_order(lse_shape, {1, 0}, 2),
                kSentinel);
  put_queries(q_, requests_, dims_);
  args_.out = out_.view();
  if (spec_.variant.softmax) args_.lse = lse_.view();
  args_.params = variant_.run_params;
  args_.logits_soft_cap = variant_.logits_soft_cap;
  args_.padding = random_.chance(0.5) ? Padding::zero : Padding::keep;
  sm_scale_ = 1 / std::sqrt(static_cast<double>(dims_.head_dim));
  if (random_.chance(0.3)) {
    sm_scale_ = rounded(0.7 * sm_scale_, DType::f32);
    args_.sm_scale = static_cast<float>(sm_scale_);
  }
  for (auto [scale, target] :
       {std::pair(&q_scale_, &args_.q_scale), std::pair(&k_scale_, &args_.k_scale),
        std::pair(&v_scale_, &args_.v_scale), std::pair(&out_scale_, &args_.out_scale)}) {
    *scale = make_scale(case_.scales, requests(), dims_.kv_heads, random_);
    *target = scale->scale;
  }
  for (std::int64_t r = 0; r < requests(); ++r) {
    requests_[r].q_scale = q_scale_.values[r];
    requests_[r].k_scale = k_scale_.values[r];
    requests_[r].v_scale = v_scale_.values[r];
  }
  if (case_.sinks) {
    sink_values_ = random_sinks(dims_, random_);
    sinks_ = float_tensor(sink_values_);
    args_.sinks = sinks_.view();
  }
}

void CaseRun::update(Plan& plan) {
  plan.update(batch_, {PlanInput(plan.attentions()[0], {level_}, variant_.plan_params)});
}

double CaseRun::arithmetic() const {
  if (arithmetic_ > 0) return arithmetic_;
  return rounds_weights(spec_.q_dtype, spec_.kv_dtype, spec_.value_dtype()) ? kRoundedWeights
                                                                            : kArithmetic;
}

double CaseRun::lse_arithmetic() const {
  const bool two = arithmetic_ > 0 && spec_.variant.rope && spec_.q_dtype == DType::bf16;
  return two ? kTwoBf16 : kArithmetic;
}

void CaseRun::check() {
  EXPECT_TRUE(out_.guards_intact()) << "out: bytes that are not its elements were written";
  EXPECT_TRUE(lse_.guards_intact()) << "lse: bytes that are not its elements were written";
  std::int64_t first = 0;
  for (const Request& request : requests_) {
    Expected expected =
        reference_attention(request, dims_, variant_.semantics, sm_scale_, sink_values_);
    for (std::size_t i = 0; i < expected.out.size(); ++i) {
      const auto head = static_cast<std::int64_t>(i) / dims_.value_dim % dims_.qo_heads;
      const double scale = out_scale_.values[request.batch][head / dims_.group()];
      expected.out[i] *= scale;
      expected.magnitude[i] *= scale;
    }
    EXPECT_TRUE(matches(out_, variant_.semantics.softmax ? lse_ : no_tensor_, first, expected,
                        dims_, spec_.output_dtype(),
                        fmt::format("request {} ({} queries, {} keys)", request.batch,
                                    request.q_len(), request.kv_len()),
                        arithmetic(), lse_arithmetic()));
    first += request.q_len();
  }
  for (std::int64_t token = first; token < first + kPadding; ++token) {
    for (std::int64_t head = 0; head < dims_.qo_heads; ++head) {
      check_padding(token, head);
    }
  }
}

void CaseRun::check_padding(std::int64_t token, std::int64_t head) {
  const bool zero = args_.padding == Padding::zero;
  for (std::int64_t d = 0; d < dims_.value_dim; ++d) {
    ASSERT_TRUE(zero ? out_.get({token, head, d}) == 0 : out_.untouched({token, head, d}))
        << "padding row " << token << " of out, head " << head << " dim " << d;
  }
  if (!spec_.variant.softmax) return;
  ASSERT_TRUE(zero ? lse_.get({token, head}) == -INFINITY : lse_.untouched({token, head}))
      << "padding row " << token << " of lse, head " << head;
}

}  // namespace tilewright::test
