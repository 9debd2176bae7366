// SPDX-License-Identifier: Apache-2.0
// The arguments of sample(): checks, and the entries of one row.
#pragma once

#include <tilewright/sampling.h>

namespace tilewright {

// Errors as sample() documents them. Nothing of a GPU's memory is read.
void check_sampling(const TensorView& logits, const SamplingArgs& args, const TensorView& tokens);

// The extent of the tensors of parameters; 0 where there are none.
std::int64_t sampling_entries(const SamplingArgs& args);

// The entry of tensors of parameters that a row reads.
inline std::int64_t entry_of(const SamplingArgs& args, std::int64_t row) {
  if (!args.slots.defined()) return row;
  return static_cast<const std::int32_t*>(args.slots.data)[row * args.slots.strides[0]];
}

template <typename T>
T value_of(const PerRow<T>& argument, std::int64_t entry) {
  if (!argument.tensor.defined()) return argument.value;
  return static_cast<const T*>(argument.tensor.data)[entry * argument.tensor.strides[0]];
}

}  // namespace tilewright
