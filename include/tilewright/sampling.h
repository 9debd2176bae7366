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

// In which order filters act and of what distribution they take masses; docs/sampling.md has each
// in full.
enum class FilterOrder : std::uint8_t {
  // As Hugging Face transformers: top-k, top-p on what it kept (renormalised), min-p, typical-p.
  hf,
  // As SGLang's and FlashInfer's joint mode: top-k and top-p both see all tokens; min-p, typical-p.
  joint,
  vllm,  // min-p, top-k, top-p on what these kept (renormalised), typical-p
  // top-k, typical-p, top-p, min-p, each on what those before kept, of the distribution at
  // temperature 1; temperature shapes the draw alone.
  llamacpp,
};

// Bits of SamplingArgs::status.
enum class SamplingStatus : std::uint32_t {
  well = 0,
  nan = 1,            // a logit is NaN: it counts as -inf
  infinity = 2,       // a logit is +inf: such ones share all the mass
  no_candidate = 4,   // every logit is -inf or NaN: the lowest token allowed, 0 if none is
  bad_parameter = 8,  // on CUDA only: a parameter in a tensor was replaced, see sample()
  slot = 16,          // on CUDA only: the row's slot is out of range: token 0
  negative = 32,      // a probability is negative: it counts as 0
};

// What rows hold.
enum class SamplingInput : std::uint8_t {
  logits,
  // Probabilities, >= 0 and not necessarily normalised: a token's weight is its probability over
  // the largest one.
  probabilities,
};

// Natural logarithms of probabilities, each tensor optional (empty: not wanted).
struct LogProbs {
  TensorView chosen;  // f32 [rows]: of the token that is drawn
  TensorView ranks;   // i32 [rows]: of that token: 1 + how many tokens have a larger logit
  // f32 and i32 [rows, n], together, 1 <= n <= 2048: the n most likely tokens, by falling logit and
  // among equal ones by rising id. Behind the last token: -inf and id -1.
  TensorView best;
  TensorView best_ids;
};

// What a call gives beside its tokens, each tensor optional (empty: not wanted). Tokens kept are
// those that all filters keep and whose logit is not -inf. A row without a draw keeps its token
// alone: one of temperature 0, without a candidate, or whose slot is out of range.
struct SamplingOutputs {
  TensorView kept;           // i32 [rows, ceil(vocabulary / 32)]: bits as in SamplingArgs::allowed
  TensorView probabilities;  // f32 [rows, vocabulary]: of the draw; 0 for tokens that are dropped
  // f32 or the logits' dtype [rows, vocabulary]: logits after processing, -inf for tokens that are
  // dropped. Not for probabilities.
  TensorView masked_logits;
  LogProbs raw;        // log-softmax of the row as it is given
  LogProbs processed;  // of `probabilities`: only tokens that are kept have a rank
};

// Logits are processed first, in this order (vLLM's), each step for the tokens that it concerns:
// mask, biases, repetition, frequency, presence. Each operation is one of IEEE f32; f16 and bf16
// logits are widened before. All of it is off where it is not given; with SamplingArgs::slots it is
// read by slot, as other parameters are.
//
// Filters apply to the softmax of logits / temperature in the order that is said; ties at a
// threshold go to the lowest token id.
struct SamplingArgs {
  // With probabilities a temperature is 1 or 0, nothing is processed, and the order of filters is
  // not llamacpp.
  SamplingInput input = SamplingInput::logits;
  PerRow<float> temperature{1.0F};  // f32, >= 0; 0 is greedy: the arg max, lowest id among equals
  PerRow<std::int32_t> top_k{0};    // i32; <= 0 or >= vocabulary: off
  // f32; >= 1: off; keeps the smallest set of the most likely tokens whose mass reaches top_p.
  PerRow<float> top_p{1.0F};
  // f32 in [0, 1]; 0: off; drops tokens below min_p times the largest probability.
  PerRow<float> min_p{0.0F};
  // f32; >= 1 or <= 0: off; keeps the smallest set of the tokens whose -log p is nearest to the
  // entropy whose mass reaches typical_p (locally typical sampling, arXiv 2202.00666).
  PerRow<float> typical_p{1.0F};
  FilterOrder order = FilterOrder::hf;  // of all rows
  PerRow<std::int64_t> seeds{0};        // i64: one seed a request
  PerRow<std::int64_t> steps{0};        // i64: how many tokens the request has drawn before
  // i32 [rows, ceil(vocabulary / 32)], optional: token i is allowed if bit i % 32 of word i / 32 is
  // set, as in xgrammar's masks. The logit of any other token is -inf whatever else is given, so
  // that it is never drawn, but for token 0 where no token is allowed.
  TensorView allowed;
  // i32 and f32 [rows, n], together, optional: bias_values[r, j] is added to the logit of token
  // bias_ids[r, j]. An id of -1 is unused; a token's biases are added one after the other.
  TensorView bias_ids;
  TensorView bias_values;
  // i32 [rows, vocabulary], optional: how often a token was generated; negative counts as 0.
  TensorView output_counts;
  // i32 [rows, ceil(vocabulary / 32)], optional: tokens of the prompt, bits as in `allowed`.
  TensorView prompt_bits;
  // f32, > 0 and finite; 1: off. The logit of a token of output or prompt is divided by it if it is
  // positive, else multiplied (CTRL, arXiv 1909.05858).
  PerRow<float> repetition_penalty{1.0F};
  // f32, finite; 0: off. Logits of generated tokens are lowered by frequency_penalty * count, then
  // by presence_penalty.
  PerRow<float> frequency_penalty{0.0F};
  PerRow<float> presence_penalty{0.0F};
  // i32 [rows], optional: parameters live in slots that requests keep while rows come and go. Every
  // tensor of parameters, seeds and steps among them, then has one extent, [slots], and row r reads
  // entry slots[r]. Entries outside [0, slots) are an error; on CUDA the row gets token 0 and its
  // status says so. Not read where no parameter is a tensor.
  TensorView slots;
  // i32 [rows], optional, written: bits of SamplingStatus.
  TensorView status;
  SamplingOutputs outputs;
  Stream stream;
};

// tokens[r] (i32 or i64, [rows]) is drawn from row r of logits [rows, vocabulary] (f32, f16, bf16;
// rows strided). The random number of a row is Philox4x32-10 (Salmon et al., SC'11) of its seed and
// step and nothing else: the same seed, step and logits give the same token in any batch. NaN
// logits count as -inf; +inf takes all the mass (shared evenly by several of them); a row of -inf
// alone gives the lowest token allowed. `tokens` may be empty where an output is wanted.
//
// All tensors are on one device. Errors: invalid_argument, also where an entry that a row reads has
// a temperature below 0 or NaN, a min_p outside [0, 1], a NaN top_p or typical_p, a penalty out of
// its range or a bias id outside [-1, vocabulary). On CUDA these are not checked where they are
// tensors: such a temperature counts as 0, top_p and typical_p as 1, min_p as the nearest number in
// [0, 1], NaN as 0, a penalty and a bias as not given, with probabilities a temperature
// that is not 0 as 1, and the row's status says bad_parameter.
TILEWRIGHT_API void sample(const TensorView& logits, const SamplingArgs& args,
                           const TensorView& tokens);

// values[r] and indices[r] are the k largest entries of row r of logits [rows, vocabulary] (f32,
// f16, bf16; rows strided), by falling value and among equal ones by rising index. NaN counts as
// -inf; behind the last entry of a row there is -inf with index -1. values [rows, k] has the dtype
// of the logits, indices [rows, k] is i32 or i64; 1 <= k <= 2048. All are on one device. Errors:
// invalid_argument.
TILEWRIGHT_API void top_k(const TensorView& logits, const TensorView& values,
                          const TensorView& indices, Stream stream = {});

}  // namespace tilewright
