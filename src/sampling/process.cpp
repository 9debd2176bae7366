// SPDX-License-Identifier: Apache-2.0
#include "sampling/process.h"

#include <algorithm>
#include <bit>

#include "base/element.h"
#include "base/numeric.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sampling/process.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "base/simd_io-inl.h"

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;
using I32 = hn::ScalableTag<std::int32_t>;
using Vec = hn::Vec<F32>;
using Mask = hn::Mask<F32>;

// Lanes i, i + 1, ... of a bit a token; i is a multiple of the lanes. Words hold whole vectors.
HWY_INLINE Mask load_bits(F32 d, const std::uint32_t* words, std::size_t i) {
  static_assert(std::endian::native == std::endian::little);
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(words) + i / 8;
  std::uint8_t bits[8] = {};
  const std::size_t lanes = hn::Lanes(d);
  std::memcpy(bits, bytes, std::max<std::size_t>(1, lanes / 8));
  if (lanes < 8) bits[0] = static_cast<std::uint8_t>(bits[0] >> (i % 8));
  return hn::LoadMaskBits(d, bits);
}

HWY_INLINE hn::Vec<I32> load_counts(I32 d, const std::int32_t* from, Whole /*part*/) {
  return hn::LoadU(d, from);
}
HWY_INLINE hn::Vec<I32> load_counts(I32 d, const std::int32_t* from, First part) {
  HWY_ALIGN std::int32_t lanes[hn::MaxLanes(I32())] = {};
  std::memcpy(lanes, from, part.count * sizeof(std::int32_t));
  return hn::Load(d, lanes);
}

template <typename T>
void process_range(const Logits& row, std::int64_t begin, std::int64_t end, const RowProcess& p,
                   float* out) {
  const F32 d;
  const I32 di;
  const auto repetition = hn::Set(d, p.repetition);
  const auto frequency = hn::Set(d, p.frequency);
  const auto presence = hn::Set(d, p.presence);
  const auto nothing = hn::Set(d, -std::numeric_limits<float>::infinity());
  const T* values = static_cast<const T*>(row.values);
  for_lanes(d, static_cast<std::size_t>(end - begin), [&](std::size_t i, auto part) HWY_ATTR {
    const std::size_t at = static_cast<std::size_t>(begin) + i;
    Vec logit = load(d, values + at, part);
    Mask seen = hn::Lt(hn::Zero(d), hn::Zero(d));
    Vec count = hn::Zero(d);
    Mask output = seen;
    if (p.counts != nullptr) {
      const auto counts = load_counts(di, p.counts + at, part);
      output = hn::RebindMask(d, hn::Gt(counts, hn::Zero(di)));
      seen = output;
      count = hn::ConvertTo(d, counts);
    }
    if (p.repetition != 1) {
      if (p.prompt != nullptr) seen = hn::Or(seen, load_bits(d, p.prompt, at));
      const auto penalised = hn::IfThenElse(hn::Gt(logit, hn::Zero(d)), hn::Div(logit, repetition),
                                            hn::Mul(logit, repetition));
      logit = hn::IfThenElse(seen, penalised, logit);
    }
    if (p.frequency != 0) {
      logit = hn::IfThenElse(output, hn::Sub(logit, hn::Mul(frequency, count)), logit);
    }
    if (p.presence != 0) logit = hn::IfThenElse(output, hn::Sub(logit, presence), logit);
    if (p.allowed != nullptr) logit = hn::IfThenElse(load_bits(d, p.allowed, at), logit, nothing);
    store(d, logit, out + at, part);
  });
}

void process_pass(const Logits& row, std::int64_t begin, std::int64_t end, const RowProcess& p,
                  float* out) {
  visit_wide_float(row.dtype, [&](auto t) { process_range<decltype(t)>(row, begin, end, p, out); });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {
namespace {

HWY_EXPORT(process_pass);

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename T>
const T* row_of(const TensorView& table, std::int64_t entry) {
  return static_cast<const T*>(table.data) + entry * table.strides[0];
}

template <typename T>
T value_of(const PerRow<T>& argument, std::int64_t entry) {
  return argument.tensor.defined() ? *row_of<T>(argument.tensor, entry) : argument.value;
}

bool bit_of(const std::uint32_t* words, std::int64_t i) {
  return (words[i / 32] >> (i % 32) & 1) != 0;
}

// Of a token that is allowed.
float penalised(const RowProcess& p, std::int32_t id, float logit) {
  const std::int32_t count = p.counts == nullptr ? 0 : p.counts[id];
  if (p.repetition != 1 && (count > 0 || (p.prompt != nullptr && bit_of(p.prompt, id)))) {
    logit = logit > 0 ? logit / p.repetition : logit * p.repetition;
  }
  if (count > 0 && p.frequency != 0) logit -= p.frequency * static_cast<float>(count);
  if (count > 0 && p.presence != 0) logit -= p.presence;
  return logit;
}

}  // namespace

RowProcess row_process_of(const SamplingArgs& args, std::int64_t entry, std::int64_t vocabulary) {
  RowProcess p;
  if (args.allowed.defined()) {
    const auto* words = row_of<std::uint32_t>(args.allowed, entry);
    const bool all = std::all_of(words, words + vocabulary / 32,
                                 [](std::uint32_t word) { return word == ~std::uint32_t{0}; });
    const std::uint32_t last = (std::uint32_t{1} << (vocabulary % 32)) - 1;
    const bool end = last == 0 || (words[vocabulary / 32] & last) == last;
    if (!all || !end) p.allowed = words;
  }
  if (args.bias_ids.defined()) {
    const auto* ids = row_of<std::int32_t>(args.bias_ids, entry);
    const std::int64_t count = args.bias_ids.shape[1];
    if (std::any_of(ids, ids + count, [](std::int32_t id) { return id >= 0; })) {
      p.bias_ids = ids;
      p.bias_values = row_of<float>(args.bias_values, entry);
      p.biases = count;
    }
  }
  const float repetition = value_of(args.repetition_penalty, entry);
  if (args.output_counts.defined()) {
    p.frequency = value_of(args.frequency_penalty, entry);
    p.presence = value_of(args.presence_penalty, entry);
    if (repetition != 1 || p.frequency != 0 || p.presence != 0) {
      p.counts = row_of<std::int32_t>(args.output_counts, entry);
    }
  }
  if (args.prompt_bits.defined() && repetition != 1) {
    p.prompt = row_of<std::uint32_t>(args.prompt_bits, entry);
  }
  if (p.counts != nullptr || p.prompt != nullptr) p.repetition = repetition;
  return p;
}

std::int32_t first_allowed(const RowProcess& process, std::int64_t vocabulary) {
  if (process.allowed == nullptr) return 0;
  for (std::int64_t word = 0; word * 32 < vocabulary; ++word) {
    if (process.allowed[word] == 0) continue;
    const std::int64_t id = word * 32 + std::countr_zero(process.allowed[word]);
    return id < vocabulary ? static_cast<std::int32_t>(id) : 0;
  }
  return 0;
}

void process_logits(const Logits& row, std::int64_t begin, std::int64_t end,
                    const RowProcess& process, float* out) {
  if (process.allowed == nullptr) {
    HWY_DYNAMIC_DISPATCH(process_pass)(row, begin, end, process, out);
    return;
  }
  // A grammar allows few tokens: where it allows none nothing is read.
  constexpr std::int64_t kBlock = 256;
  std::int64_t pending = begin;
  for (std::int64_t block = begin; block < end; block += kBlock) {
    const std::int64_t block_end = std::min(end, block + kBlock);
    const auto* words = process.allowed + block / 32;
    if (std::any_of(words, process.allowed + (block_end + 31) / 32,
                    [](std::uint32_t word) { return word != 0; })) {
      continue;
    }
    if (pending < block) HWY_DYNAMIC_DISPATCH(process_pass)(row, pending, block, process, out);
    std::fill(out + block, out + block_end, -kInfinity);
    pending = block_end;
  }
  if (pending < end) HWY_DYNAMIC_DISPATCH(process_pass)(row, pending, end, process, out);
}

void process_biased(const Logits& row, const RowProcess& process,
                    std::vector<std::pair<std::int32_t, float>>& scratch, float* out) {
  scratch.clear();
  for (std::int64_t i = 0; i < process.biases; ++i) {
    if (process.bias_ids[i] >= 0) scratch.emplace_back(process.bias_ids[i], process.bias_values[i]);
  }
  // Stable: those of one token stay in order.
  std::stable_sort(scratch.begin(), scratch.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (std::size_t i = 0; i < scratch.size();) {
    const std::int32_t id = scratch[i].first;
    float logit = load_element(row.values, row.dtype, id);
    for (; i < scratch.size() && scratch[i].first == id; ++i) logit += scratch[i].second;
    const bool allowed = process.allowed == nullptr || bit_of(process.allowed, id);
    out[id] = allowed ? penalised(process, id, logit) : -kInfinity;
  }
}

}  // namespace tilewright
#endif  // HWY_ONCE
