// SPDX-License-Identifier: Apache-2.0
// Sampling tokens from logits, without sorting.
#pragma once

#include <tilewright/tensor_view.h>

#include <cstdint>

namespace tilewright {

// A number for all rows, or a tensor of the dtype said where it is used: [rows], or [slots] where
// SamplingArgs::slots says which entry a row has.
template <typename T>
struct PerRow {
  T value{};
  TensorView tensor;

  PerRow() = default;
  PerRow(T v) : value(v) {}                   // NOLINT(google-explicit-constructor)
  PerRow(const TensorView& t) : tensor(t) {}  // NOLINT(google-explicit-constructor)
};

// Bits of SamplingArgs::status.
enum class SamplingStatus : std::uint32_t {
  well = 0,
  nan = 1,            // a logit is NaN: it counts as -inf
  infinity = 2,       // a logit is +inf: such ones share all the mass
  no_candidate = 4,   // every logit is -inf or NaN: token 0
  bad_parameter = 8,  // on CUDA only: a parameter in a tensor was replaced, see sample()
  slot = 16,          // on CUDA only: the row's slot is out of range: token 0
};

// Filters apply jointly to the softmax of logits / temperature: top-k first, then top-p on what
// top-k kept (renormalised), then min-p; ties at a threshold go to the lowest token id.
struct SamplingArgs {
  PerRow<float> temperature{1.0F};  // f32, >= 0; 0 is greedy: the arg max, lowest id among equals
  PerRow<std::int32_t> top_k{0};    // i32; <= 0 or >= vocabulary: off
  // f32; >= 1: off; keeps the smallest set of the most likely tokens whose mass reaches top_p.
  PerRow<float> top_p{1.0F};
  // f32 in [0, 1]; 0: off; drops tokens below min_p times the largest probability.
  PerRow<float> min_p{0.0F};
  PerRow<std::int64_t> seeds{0};  // i64: one seed a request
  PerRow<std::int64_t> steps{0};  // i64: how many tokens the request has drawn before
  // i32 [rows], optional: parameters live in slots that requests keep while rows come and go. Every
  // tensor of parameters, seeds and steps among them, then has one extent, [slots], and row r reads
  // entry slots[r]. Entries outside [0, slots) are an error; on CUDA the row gets token 0 and its
  // status says so. Not read where no parameter is a tensor.
  TensorView slots;
  // i32 [rows], optional, written: bits of SamplingStatus.
  TensorView status;
  Stream stream;
};

// tokens[r] (i32 or i64, [rows]) is drawn from row r of logits [rows, vocabulary] (f32, f16, bf16;
// rows strided). The random number of a row is Philox4x32-10 (Salmon et al., SC'11) of its seed and
// step and nothing else: the same seed, step and logits give the same token in any batch. NaN
// logits count as -inf; +inf takes all the mass (shared evenly by several of them); a row of -inf
// alone gives token 0. Errors: invalid_argument, also for a temperature below 0 or NaN, a min_p
// outside [0, 1] and a NaN top_p in an entry that a row reads. All tensors are on one device. On
// CUDA these three are not checked where they are tensors: such a temperature counts as 0, top_p as
// 1, min_p as the nearest number in [0, 1], NaN as 0, and the row's status says bad_parameter.
TILEWRIGHT_API void sample(const TensorView& logits, const SamplingArgs& args,
                           const TensorView& tokens);

}  // namespace tilewright
