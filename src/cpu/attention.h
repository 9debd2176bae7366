// SPDX-License-Identifier: Apache-2.0
// Attention on the CPU: one call over a plan that was made for its batch.
#pragma once

#include <tilewright/attention.h>

#include <array>
#include <cstddef>

#include "cpu/attention_plan.h"
#include "cpu/compiled_variant.h"

namespace tilewright::cpu {

// Sets what of a plan does not depend on the batch: the schedule's constants for this backend and
// the kernels. `kv_bytes_per_head`: the K and V of one head at the limits' length.
void configure(const AttentionSpec& spec, const CompiledVariant& variant,
               std::int64_t kv_bytes_per_head, int workers, bool batch_invariant,
               AttentionPlan& plan);

// A checked call: every tensor fits the plan.
struct AttentionCall {
  const AttentionSpec* spec = nullptr;
  const CompiledVariant* variant = nullptr;
  const AttentionPlan* plan = nullptr;
  Bindings bindings;  // all parameters, those bound at plan included
  TensorView q;
  std::array<KvCache, kMaxLevels> kv;  // by level
  TensorView out;
  TensorView lse;
  float sm_scale = 1;
  Scale q_scale, k_scale, v_scale, out_scale;
  TensorView sinks;
  bool zero_padding = false;
};

// Memory that a run needs and that plans share between their attentions. Sizes in bytes, multiples
// of 64.
struct RunMemory {
  std::byte* slots = nullptr;    // partial results of split items, slot_bytes each, two a worker
  std::byte* levels = nullptr;   // partial results of levels, for plans with several
  std::byte* scratch = nullptr;  // scratch_bytes a thread
  std::size_t scratch_bytes = 0;
  int threads = 1;
};

std::size_t slot_bytes(const plan::Config& config, int value_dim);
// Of all levels; 0 for one.
std::size_t level_bytes(const AttentionSpec& spec, std::int64_t q_tokens, int levels);
std::size_t scratch_bytes(const AttentionSpec& spec, const CompiledVariant& variant);

// Allocates nothing.
void run_attention(const AttentionCall& call, const RunMemory& memory);

}  // namespace tilewright::cpu
