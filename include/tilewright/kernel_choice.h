// SPDX-License-Identifier: Apache-2.0
// Which CUDA kernel an attention takes and why, and what a batch of given lengths costs there. None
// of this needs a GPU or compiles anything.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/export.h>
#include <tilewright/plan.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tilewright {

// A kernel as a plan launches it. Its name there is that of its KernelReport.
struct KernelChoice {
  // "decode": tiles of at most 16 packed rows alone, on every GPU. "hopper": any batch, by Hopper's
  // own instructions. "portable": any batch, on every GPU. "scalar": the same of f32 queries.
  std::string kernel;
  std::string name;
  std::string arch;
  bool lists_blocks = false;  // it reads block structures
  int tile_rows = 0;          // packed rows (query tokens x group size) of a tile, at most
  int block_tokens = 0;       // keys of a block
  int key_stages = 0;         // blocks of keys in shared memory at a time
  int value_stages = 0;       // blocks of values
  // Tiles of at most 16 packed rows: sets of 16 keys that each warp has in shared memory at a time.
  // 0: they take the blocks of longer tiles.
  int decode_stages = 0;
  int threads = 0;         // of a block of threads
  int blocks_per_sm = 0;   // of threads
  int shared_bytes = 0;    // of a block of threads
  int heads_together = 1;  // KV heads that neighbouring blocks of threads compute at the same time
  // What keeps the plan from the kernel of decode alone, and what keeps that of any batch from
  // Hopper's: all reasons, as text; empty where it is that kernel, or where a faster one is taken.
  std::vector<std::string> not_decode;
  std::vector<std::string> not_hopper;
};

struct KernelChoices {
  KernelChoice requests;  // of updates whose rows are simply the requests: the usual case
  KernelChoice rows;      // of updates with several levels, or with a level's own query rows
};

// What plans of these limits launch for an attention. `arch`: "sm_80", "sm_90a", ... Errors:
// invalid_argument for what Attention and Plan refuse anywhere; not_supported where the kernels do
// not take the spec.
TILEWRIGHT_API KernelChoices choose_kernels(const AttentionSpec& spec, const Limits& limits,
                                            const std::string& arch);

// ---- what a batch costs ----

// A GPU in figures: what bounds can be computed from.
struct GpuModel {
  std::string name;
  std::string arch;
  int num_sms = 0;
  std::int64_t l2_bytes = 0;
  double bytes_per_second = 0;       // of its memory
  double operations_per_second = 0;  // dense products of 16-bit elements
};
// Those whose data sheets the library knows: "a100", "h100", "h200".
TILEWRIGHT_API std::vector<GpuModel> gpu_models();
// Error (invalid_argument) that lists the names.
TILEWRIGHT_API GpuModel gpu_model(const std::string& name);

// So many requests of `q_len` query tokens that attend to `kv_len` keys each, the queries' own
// among them. The first `shared_len` of these keys are the same ones for all of these requests: a
// row of an outer level, which the plan computes once, or reads for each where that costs less.
struct RequestLengths {
  std::int64_t requests = 1;
  std::int64_t q_len = 1;
  std::int64_t kv_len = 1;
  std::int64_t shared_len = 0;
};
// The smallest limits that such a batch fits, with two levels where keys are shared. Error
// (invalid_argument) for lengths that none fits.
TILEWRIGHT_API Limits limits_of(const std::vector<RequestLengths>& batch);

struct BatchWork {
  std::int64_t requests = 0;
  std::int64_t q_tokens = 0;
  std::int64_t kv_tokens = 0;  // shared ones once
  PlanStats stats;             // as Plan::stats on such a GPU

  // The schedule: section A are whole tiles that workers take in turn, section B is cut into a
  // share for each worker (docs/design.md). Items are (request, KV head, tile), heads that are
  // computed together count as one.
  int workers = 0;
  int b_workers = 0;  // with a share of section B
  std::int64_t a_items = 0;
  std::int64_t b_items = 0;
  double a_share = 0;  // of all work, by the plan's cost model
  double b_share = 0;
  // Mean over largest of what all workers do: the part of its bound that the batch can reach, where
  // kernels are perfect.
  double balance = 1;
  // Tokens that one copy by the tensor memory accelerator brings, of pages of the size that was
  // given: 0 where keys are copied row by row.
  int box_tokens = 0;

  // The bounds: what must be read, written and multiplied at least, whatever the schedule.
  std::int64_t kv_bytes = 0;  // of K and V that some query needs, each once
  std::int64_t qo_bytes = 0;  // of queries and outputs
  // Attending (query, key) pairs of all query heads; where only an evaluation of a mask could tell,
  // pairs that it may allow.
  double pairs = 0;
  double operations = 0;  // of the two products, two a multiplication and addition
  double memory_us = 0;
  double compute_us = 0;

  double bound_us() const { return memory_us > compute_us ? memory_us : compute_us; }
};

// Makes the schedule that a GPU would make of a batch, on the host, by the kernel that
// choose_kernels() names: that of `rows` where keys are shared. `params`: the variant's, those that
// bind at plan. `page_size`: of the page table; 0: none, keys lie ragged or contiguous. Errors:
// those of choose_kernels(); of Plan::update for lengths over the limits and for params;
// invalid_argument for a model without SMs or speed.
TILEWRIGHT_API BatchWork explain_batch(const AttentionSpec& spec, const Limits& limits,
                                       const std::vector<RequestLengths>& batch,
                                       const GpuModel& gpu,
                                       const std::vector<ParamValue>& params = {},
                                       std::int64_t page_size = 16);

}  // namespace tilewright
