// SPDX-License-Identifier: Apache-2.0
// Draws one token from one row of logits.
#pragma once

#include <tilewright/sampling.h>

#include <cstdint>
#include <vector>

#include "sampling/chunks.h"
#include "sampling/process.h"
#include "sampling/row_passes.h"
#include "sampling/typical_passes.h"

namespace tilewright {

struct RowParams {
  float temperature = 1;
  std::int64_t top_k = 0;  // <= 0: off
  float top_p = 1;
  float min_p = 0;
  float typical_p = 1;  // >= 1 or <= 0: off
  FilterOrder order = FilterOrder::hf;
  std::uint64_t random = 0;    // 64 uniform bits
  bool probabilities = false;  // what the row has, made by take_probabilities()
};

// The tokens that may be drawn from a row, and what their weights are made of.
struct Survivors {
  std::vector<std::int32_t> ids;  // ascending
  std::vector<float> values;      // not -inf
  WeightScale scale;
  std::uint64_t mass = 0;  // of their weights
};

// Holds the buffers that a row needs; one a thread.
class RowSampler {
 public:
  // With `parallel`, passes over long lists are dealt out to threads; the result is the same.
  explicit RowSampler(bool parallel = false) : chunks_(parallel) {}

  // The row's logits after mask, biases and penalties, in a buffer that lives until the next call.
  Logits process(const Logits& row, const RowProcess& process);

  // The row's probabilities in the same buffer: -inf where there is none. `status` gets the bits
  // that are lost by it.
  Logits take_probabilities(const Logits& row, std::uint32_t& status);

  // With `status`, writes bits of SamplingStatus there. `otherwise`: the token where every logit is
  // -inf. With `survivors`, tells what the token was drawn from; itself, where there is no draw.
  std::int32_t sample(const Logits& row, const RowParams& params, std::int32_t* status = nullptr,
                      std::int32_t otherwise = 0, Survivors* survivors = nullptr);

  // All tokens whose logit is not -inf, at temperature 1.
  Survivors all_tokens(const Logits& row, bool probabilities);

  // The ids of the k largest entries, or of all, by falling value and rising id.
  std::vector<std::int32_t> largest_entries(const Logits& row, std::int64_t k);

  // Filters the row for mass() and weight_of(); `row` is read by these. Arguments as sample() has
  // them. A row whose token is certain has one weight of 1.
  void weigh(const Logits& row, const RowParams& params, std::int32_t* status = nullptr,
             std::int32_t otherwise = 0);
  std::uint64_t mass() const { return mass_; }
  // 0 where the filters dropped the token.
  std::uint64_t weight_of(std::int32_t id) const;
  // body(id, weight) of the tokens that have one, in ascending order.
  template <typename Body>
  void for_weights(const Body& body) const;

  // The tokens that the filters keep, in ascending order: for tests. Temperature above 0.
  std::vector<std::int32_t> kept_tokens(const Logits& row, const RowParams& params);

 private:
  struct List {
    std::vector<float> values;
    std::vector<std::int32_t> ids;
  };
  // What is left of a row after its filters: entries of `list` that are `kept` and not below
  // `least_weight`.
  struct Distribution {
    Logits list;
    Kept kept;
    std::uint64_t least_weight = 0;
    WeightScale scale;
    bool summed = false;  // masses_ has the masses of what is left already
  };
  // What comes first, and what of it is summed: the largest logits and their number or mass, or the
  // mass of the most typical tokens.
  enum class Measure { count, mass, typical_mass };
  struct Ranking {
    Measure measure;
    WeightScale scale;
    float mean_exponent = 0;  // for typical_mass

    bool typical() const { return measure == Measure::typical_mass; }
    Typicality typicality() const { return {scale, mean_exponent}; }
    float score(float logit) const { return typical() ? typicality().score(logit) : logit; }
    std::uint64_t weight(float logit) const {
      return measure == Measure::count ? 1 : token_weight(logit, scale);
    }
  };
  // The smallest set of first entries whose measure reaches `target`, which must be at most
  // `total`, the measure of the list, has all entries whose scores are above a threshold and some
  // at it.
  struct Threshold {
    float score;
    std::uint64_t rest;   // what the measure of entries at the threshold must reach
    std::int64_t equals;  // how many there are
  };
  struct Pivots {
    float low;
    float high;
  };
  static constexpr std::int64_t kSmallList = 256;  // sorted instead of searched
  static constexpr std::int64_t kSample = 256;

  std::uint64_t entry_weight(std::int64_t i) const;  // of weighed_'s list
  float find_maxima(const Logits& row);
  std::int32_t status_of(const Logits& row, float largest) const;
  std::int32_t arg_max(const Logits& row, float largest) const;
  Distribution filter(const Logits& row, float largest, const RowParams& params);
  // Filters do nothing where they are off.
  void filter_top_k(std::int64_t k, Distribution& distribution);
  // May sum what is left already: least_weight must be set before.
  void filter_top_p(float p, Distribution& distribution);
  // Min-p; `first` is the largest logit of what is left.
  static void set_least_weight(float p, float first, Distribution& distribution);
  // Joint top-k and top-p, and min-p.
  void filter_jointly(const RowParams& params, Distribution& distribution);
  // Keeps the most likely tokens whose mass reaches `target`; all if they have less.
  void keep_mass(std::uint64_t target, Distribution& distribution);
  // Makes a list of what is left: then least_weight is 0 and all of the list is kept.
  void drop_light(Distribution& distribution);
  // False where it is off.
  bool filter_typical_p(float p, Distribution& distribution);
  Moments total_moments(const Logits& list, const WeightScale& scale);
  // The id of the last of the entries at a typical threshold that are needed.
  std::int32_t last_typical_tie(const Logits& list, const Threshold& threshold,
                                const Typicality& typicality);
  // The entries whose scores are kept, as a list in one of the two buffers.
  Logits compact_typical_list(const Logits& list, const Kept& kept, bool ties_only,
                              const Typicality& typicality);
  // A typical threshold, and a list that has all entries that it keeps.
  struct TypicalCut {
    Threshold threshold;
    Logits list;
  };
  TypicalCut find_typical(const Logits& list, const Ranking& ranking, std::uint64_t target,
                          std::uint64_t total);
  // A split, with a copy of all entries from the lower pivot on as a list in one of the two
  // buffers.
  Logits split_near_list(const Logits& list, const Typicality& typicality, Pivots pivots,
                         std::vector<float>& middle, Split& result);
  // The draw's weights are to be those at `temperature`, relative to `largest`.
  void use_temperature(float temperature, float largest, Distribution& distribution);
  std::int32_t draw(const Distribution& distribution, std::uint64_t random);
  Survivors survivors_of(const Distribution& distribution);

  // Parts of a split by chunks, whose middles are moved together.
  static Split join_parts(const std::vector<Split>& parts, std::vector<float>& middle);

  // A copy in chunks: copy(chunk, its begin, end, values, ids) returns how many it wrote.
  template <typename Copy>
  Logits copy_list(const Logits& list, const Copy& copy);
  // The entries of `list` that are kept, as a list in one of the two buffers.
  Logits compact_list(const Logits& list, const Kept& kept);
  // A lower bound of the threshold behind `rank` blocks' largest entries.
  float block_threshold(std::int64_t rank);
  std::uint64_t total_mass(const Distribution& distribution);

  // The threshold is known to be in `bounds`.
  Threshold find_threshold(const Logits& list, const Ranking& ranking, std::uint64_t target,
                           std::uint64_t total, Pivots bounds);
  // Of rankings by logit.
  static Kept kept_at(const Logits& list, const Threshold& threshold, const Ranking& ranking);
  Threshold walk(const Logits& list, const Ranking& ranking, std::uint64_t target);
  // kSample entries of the list into sorted_, the first ones first.
  void take_sample(const Logits& list, const Ranking& ranking);
  void sort_sample(const Ranking& ranking);
  // Around the threshold below which the list's measure is `rest`, by the sample.
  Pivots pivots_of_sample(const Logits& list, const Ranking& ranking, double rest, Pivots bounds);
  Split split(const Logits& list, const Ranking& ranking, Pivots pivots,
              std::vector<float>& middle);

  // A list split by mass, with what drawing needs.
  struct TopPSplit {
    std::vector<std::uint64_t> masses;  // of each block, above the pivots; then what is kept
    std::vector<std::int32_t> counts;   // of each block, between the pivots
    std::vector<float> middle;          // these entries
  };
  Pivots top_p_pivots(const Distribution& distribution, float p);
  BlockSplit split_for_top_p(const Logits& list, Pivots pivots, const WeightScale& scale);
  void add_kept_middle(const Distribution& distribution);

  Chunks chunks_;
  std::vector<float> processed_;
  std::vector<std::pair<std::int32_t, float>> biases_;
  std::vector<float> maxima_;  // of the row's blocks
  std::vector<float> sorted_;  // scratch of small sorts
  std::vector<std::pair<float, float>> scored_;
  std::vector<std::uint64_t> masses_;  // of the list's blocks
  std::vector<std::int64_t> written_;  // by chunk
  List lists_[2];
  int next_list_ = 0;
  std::vector<float> middles_[2];
  TopPSplit split_;
  // Of weigh().
  Distribution weighed_;
  std::uint64_t mass_ = 0;
  std::int32_t certain_ = -1;  // the only token, or -1
};

template <typename Body>
void RowSampler::for_weights(const Body& body) const {
  if (certain_ >= 0) {
    body(certain_, std::uint64_t{1});
    return;
  }
  for (std::int64_t i = 0; i < weighed_.list.count; ++i) {
    const std::uint64_t weight = entry_weight(i);
    if (weight > 0) body(weighed_.list.id(i), weight);
  }
}

// body(sampler, row) of all rows of logits, over threads.
template <typename Body>
void for_rows_by_samplers(const TensorView& logits, const Body& body) {
  const std::int64_t rows = logits.shape[0];
  // Buffers stay with their threads: to allocate them for each call costs as much as to sample.
  if (rows < num_threads()) {
    thread_local RowSampler sampler(true);
    for (std::int64_t row = 0; row < rows; ++row) body(sampler, row);
    return;
  }
  // Short rows are grouped until they are worth a thread.
  const std::int64_t grain = std::max<std::int64_t>(1, 16384 / logits.shape[1]);
  parallel_for(rows, grain, [&](std::int64_t begin, std::int64_t end) {
    thread_local RowSampler sampler(false);
    for (std::int64_t row = begin; row < end; ++row) body(sampler, row);
  });
}

template <typename Copy>
Logits RowSampler::copy_list(const Logits& list, const Copy& copy) {
  List& out = lists_[next_list_];
  next_list_ ^= 1;
  chunks_.reserve(list.count, out.values);
  chunks_.reserve(list.count, out.ids);
  written_.resize(static_cast<std::size_t>(chunks_.count(list.count)));
  chunks_.run(list.count, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
    written_[static_cast<std::size_t>(chunk)] =
        copy(chunk, begin, end, Chunks::region(out.values, chunk), Chunks::region(out.ids, chunk));
  });
  std::int64_t total = 0;
  for (std::size_t chunk = 0; chunk < written_.size(); ++chunk) {
    const auto index = static_cast<std::int64_t>(chunk);
    Chunks::move_together(out.values, index, written_[chunk], total);
    Chunks::move_together(out.ids, index, written_[chunk], total);
    total += written_[chunk];
  }
  return {out.values.data(), DType::f32, out.ids.data(), total};
}

}  // namespace tilewright
