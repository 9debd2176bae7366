// SPDX-License-Identifier: Apache-2.0
// What is done to a logit before temperature: mask, biases, penalties, in this order. Each step is
// one IEEE f32 operation: the bits of src/sampling/process.cpp.
#pragma once

#include "arch/arithmetic.h"
#include "arch/memory.h"
#include "arch/numeric.h"
#include "arch/thread.h"
#include "sampling/params.h"

namespace tw {

TW_DEVICE bool changes_logits(const LogitProcess& p) {
  return p.allowed != nullptr || p.biases > 0 || p.counts != nullptr || p.prompt != nullptr;
}

TW_DEVICE bool bit_of(const u32* words, i32 i) {
  return (words[i / 32] >> (static_cast<u32>(i) % 32) & 1) != 0;
}

// The bias filter's bit of a token: with a vocabulary of up to as many bits no two tokens share
// one.
TW_DEVICE i32 bias_bit(i32 id) {
  return static_cast<i32>(static_cast<u32>(id) % (kBiasWords * 32));
}

// `p` is in shared memory. A call, as it is long and in the middle of every pass.
TW_DEVICE_CALL float process_logit(const LogitProcess& p, i32 id, float logit) {
  if (p.allowed != nullptr && !bit_of(p.allowed, id)) return -kInfinity;
  if (p.biases > 0 && bit_of(p.bias_filter, bias_bit(id))) {
    for (i32 i = 0; i < p.biases; ++i) {
      if (p.bias_ids[i] == id) logit = add_exact(logit, p.bias_values[i]);
    }
  }
  const i32 count = p.counts == nullptr ? 0 : p.counts[id];
  if (p.repetition != 1 && (count > 0 || (p.prompt != nullptr && bit_of(p.prompt, id)))) {
    logit = logit > 0 ? divide_exact(logit, p.repetition) : multiply_exact(logit, p.repetition);
  }
  if (count > 0 && p.frequency != 0)
    logit = subtract_exact(logit, multiply_exact(p.frequency, static_cast<float>(count)));
  if (count > 0 && p.presence != 0) logit = subtract_exact(logit, p.presence);
  return logit;
}

// The lowest token that the mask allows; 0 if there is none, or no mask.
TW_DEVICE i32 first_allowed(const LogitProcess& p, i32 vocabulary) {
  if (p.allowed == nullptr) return 0;
  for (i32 word = 0; word * 32 < vocabulary; ++word) {
    if (p.allowed[word] == 0) continue;
    const i32 id = word * 32 + lowest_bit(p.allowed[word]);
    return id < vocabulary ? id : 0;
  }
  return 0;
}

template <typename T>
TW_DEVICE T value_of_entry(const RowValues<T>& values, i64 entry) {
  if (values.data == nullptr) return values.value;
  return static_cast<const T*>(values.data)[entry * values.stride];
}

// Row `entry` of a table, or null.
template <typename T>
TW_DEVICE const T* row_of_table(const RowTable& table, i64 entry) {
  if (table.data == nullptr) return nullptr;
  return static_cast<const T*>(table.data) + entry * table.stride;
}

TW_DEVICE bool is_finite(float value) {
  return value - value == 0;
}

// Sets `shared` to that of an entry, bad numbers replaced: whether there were none. By the whole
// block, which fills `filter`.
TW_DEVICE bool process_of_entry(const ProcessParams& params, i64 entry, i32 vocabulary, u32* filter,
                                LogitProcess& shared) {
  LogitProcess p;
  p.allowed = row_of_table<u32>(params.allowed, entry);
  p.bias_ids = row_of_table<i32>(params.bias_ids, entry);
  p.bias_values = row_of_table<float>(params.bias_values, entry);
  p.biases = params.biases;
  p.bias_filter = filter;
  p.counts = row_of_table<i32>(params.output_counts, entry);
  p.prompt = row_of_table<u32>(params.prompt_bits, entry);
  p.repetition = value_of_entry(params.repetition, entry);
  p.frequency = value_of_entry(params.frequency, entry);
  p.presence = value_of_entry(params.presence, entry);
  bool good = p.repetition > 0 && is_finite(p.repetition) && is_finite(p.frequency) &&
              is_finite(p.presence);
  if (!(p.repetition > 0) || !is_finite(p.repetition)) p.repetition = 1;
  if (!is_finite(p.frequency)) p.frequency = 0;
  if (!is_finite(p.presence)) p.presence = 0;
  if (p.repetition == 1) {
    p.prompt = nullptr;
    if (p.frequency == 0 && p.presence == 0) p.counts = nullptr;
  }
  if (p.biases > 0) {
    for (i32 i = thread_id(); i < kBiasWords; i += num_threads()) filter[i] = 0;
    sync_block();
    bool used = false;
    bool bad = false;
    for (i32 i = thread_id(); i < p.biases; i += num_threads()) {
      const i32 id = p.bias_ids[i];
      if (id >= 0 && id < vocabulary) {
        atomic_or(&filter[bias_bit(id) / 32], 1U << (static_cast<u32>(bias_bit(id)) % 32));
        used = true;
      } else if (id != -1) {
        bad = true;
      }
    }
    if (any_of_block(bad)) good = false;
    if (!any_of_block(used)) p.biases = 0;
  }
  if (thread_id() == 0) shared = p;
  sync_block();
  return good;
}

}  // namespace tw
