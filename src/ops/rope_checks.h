// SPDX-License-Identifier: Apache-2.0
// Parts of RoPE's and the cache write's front ends, for the operator that is both.
#pragma once

#include <tilewright/ops.h>

#include <cstdint>
#include <vector>

#include "base/rope.h"

namespace tilewright {

// How many axes positions have, and which one each pair turns by.
struct RopeAxes {
  int count = 1;
  std::vector<std::uint8_t> of_pair;
};
// Errors: sections that do not fit.
RopeAxes axes_of_pairs(const RopeSections& sections, std::size_t pairs);

// Checked, and as [axes, tokens].
TensorView positions_of_axes(const TensorView& positions, int axes, std::int64_t tokens,
                             Device device);

// Kept from call to call: the powers cost more than a decode step's rotation.
const RopeFrequencies& cached_frequencies(const RopeSpec& rope, int dim);

// The elements of a head that a table rotates.
std::int64_t check_cos_sin_cache(const TensorView& cos_sin_cache, std::int64_t head_dim,
                                 Device device);
// On the CPU: positions [axes, tokens] are rows of the table.
void check_positions_in_table(const TensorView& positions, const TensorView& cos_sin_cache);

// All that write_kv_cache checks.
void check_cache_write(const TensorView& k, const TensorView& v, const KvCache& cache,
                       const TensorView& slot_mapping, const Scale& k_scale, const Scale& v_scale,
                       const TensorView& token_indptr);

}  // namespace tilewright
