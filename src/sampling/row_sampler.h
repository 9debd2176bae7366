// SPDX-License-Identifier: Apache-2.0
// Draws one token from one row of logits.
#pragma once

#include <tilewright/sampling.h>

#include <cstdint>
#include <vector>

#include "sampling/chunks.h"
#include "sampling/process.h"
#include "sampling/row_passes.h"

namespace tilewright {

struct RowParams {
  float temperature = 1;
  std::int64_t top_k = 0;  // <= 0: off
  float top_p = 1;
  float min_p = 0;
  FilterOrder order = FilterOrder::hf;
  std::uint64_t random = 0;  // 64 uniform bits
};

// Holds the buffers that a row needs; one a thread.
class RowSampler {
 public:
  // With `parallel`, passes over long lists are dealt out to threads; the result is the same.
  explicit RowSampler(bool parallel = false) : chunks_(parallel) {}

  // The row's logits after mask, biases and penalties, in a buffer that lives until the next call.
  Logits process(const Logits& row, const RowProcess& process);

  // With `status`, writes bits of SamplingStatus there. `otherwise`: the token where every logit is
  // -inf.
  std::int32_t sample(const Logits& row, const RowParams& params, std::int32_t* status = nullptr,
                      std::int32_t otherwise = 0);

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
  enum class Measure { count, mass };
  static constexpr std::int64_t kSmallList = 256;  // sorted instead of searched
  static constexpr std::int64_t kSample = 256;

  float find_maxima(const Logits& row);
  std::int32_t status_of(const Logits& row, float largest) const;
  std::int32_t arg_max(const Logits& row, float largest) const;
  Distribution filter(const Logits& row, float largest, const RowParams& params);
  void filter_top_k(std::int64_t k, Distribution& distribution);
  void filter_top_p(float p, Distribution& distribution);
  // Keeps the most likely tokens whose mass reaches `target`; all if they have less.
  void filter_joint_top_p(std::uint64_t target, Distribution& distribution);
  // Makes a list of what is left: then least_weight is 0 and all of the list is kept.
  void drop_light(Distribution& distribution);
  // The draw's weights are to be those at `temperature`.
  void use_temperature(float temperature, Distribution& distribution);
  std::int32_t draw(const Distribution& distribution, std::uint64_t random);

  // The entries of `list` that are kept, as a list in one of the two buffers.
  Logits compact_list(const Logits& list, const Kept& kept);
  // A lower bound of the threshold behind `rank` blocks' largest entries.
  float block_threshold(std::int64_t rank);
  std::uint64_t total_mass(const Distribution& distribution);

  // The smallest set of largest entries whose measure reaches `target`, which must be at most
  // `total`, the measure of the list, has all entries above a threshold and some at it.
  struct Threshold {
    float value;
    std::int64_t ties;    // how many entries at the threshold are needed
    std::int64_t equals;  // how many there are
  };
  struct Pivots {
    float low;
    float high;
  };
  // The threshold is known to be in `bounds`.
  Threshold find_threshold(const Logits& list, Measure measure, std::uint64_t target,
                           std::uint64_t total, const WeightScale& scale, Pivots bounds);
  static Kept kept_at(const Logits& list, const Threshold& threshold);
  Threshold walk(const Logits& list, Measure measure, std::uint64_t target,
                 const WeightScale& scale);
  // kSample entries of the list into sorted_, largest first.
  void take_sample(const Logits& list);
  // Around the threshold below which the list's measure is `rest`, by the sample.
  Pivots pivots_of_sample(const Logits& list, Measure measure, double rest,
                          const WeightScale& scale, Pivots bounds);
  Split split(const Logits& list, Measure measure, Pivots pivots, const WeightScale& scale,
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
  std::vector<float> maxima_;          // of the row's blocks
  std::vector<float> sorted_;          // scratch of small sorts
  std::vector<std::uint64_t> masses_;  // of the list's blocks
  std::vector<std::int64_t> written_;  // by chunk
  List lists_[2];
  int next_list_ = 0;
  std::vector<float> middles_[2];
  TopPSplit split_;
};

}  // namespace tilewright
