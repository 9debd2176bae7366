// SPDX-License-Identifier: Apache-2.0
// A plan says who computes which tile of a batch. It is made for limits once, and updated for every
// batch.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/block_structure.h>
#include <tilewright/kv_cache.h>
#include <tilewright/request_status.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace tilewright {

enum class Determinism : std::uint8_t {
  repeatable,       // the same bits for the same call, whatever the number of threads
  batch_invariant,  // a request's bits depend on nothing but itself
};

// The largest batch a plan is for. The workspace follows from it: no batch under the limits can
// overflow it.
struct Limits {
  std::int64_t requests = 0;
  std::int64_t q_tokens = 0;  // of all requests together
  std::int64_t q_len = 0;     // of one request
  std::int64_t kv_len = 0;    // of one request, all levels together
  int levels = 1;
  Determinism determinism = Determinism::repeatable;
  // Virtual workers; 0: what suits the device. Results of `repeatable` depend on it.
  int workers = 0;
  // Whether updates may give a BlockStructure. Only plans on a GPU ask: they have other kernels
  // then, and memory for the blocks of the tiles under way.
  bool block_structures = false;
};

// For context-parallel shards: this process holds keys whose position p has (p / size) % world ==
// rank. Key i of the shard is at position ((i / size) * world + rank) * size + i % size.
struct KvInterleave {
  std::int64_t size = 1;
  std::int64_t world = 1;
  std::int64_t rank = 0;
};

// What a step's requests look like: lengths and positions, the same for all attentions of a plan.
// Tensors are i32 on the plan's device and are read by update(); only q_pos must stay as it is
// until the last run.
struct Batch {
  // [requests + 1], from 0: request r has the query tokens [qo_indptr[r], qo_indptr[r + 1]).
  TensorView qo_indptr;
  // Optional [requests]: KV tokens; else ragged tables and last_page_len tell them.
  TensorView kv_lens;
  // Optional [1]: live requests, the rest of qo_indptr is padding.
  TensorView num_requests;
  // At most one of the two; neither: the queries are the last tokens, kv_len - q_len + i.
  TensorView q_pos;         // optional [q tokens]: positions, in any order within a request
  TensorView q_pos_offset;  // optional [requests]: position of a request's first query token
  // With world > 1 there is one level, without kv_pos, and q_pos or q_pos_offset is needed.
  KvInterleave interleave;
};

// One attention's KV in a plan, and the variant parameters that bind when the plan is made.
struct PlanInput {
  Attention attention;
  std::vector<KvLevel> levels;  // outermost (shared by most) first; the plain case is one level
  std::vector<ParamValue> params;
  // Optional: for masks that only an evaluation of every element decides. On a GPU only where
  // Limits::block_structures says so; its lists are checked there, see RequestStatus.
  BlockStructure blocks;

  PlanInput(Attention a, const PageTable& table, std::vector<ParamValue> p = {})
      : attention(std::move(a)), levels{KvLevel{table, {}, {}, {}, {}}}, params(std::move(p)) {}
  PlanInput(Attention a, std::vector<KvLevel> l, std::vector<ParamValue> p = {})
      : attention(std::move(a)), levels(std::move(l)), params(std::move(p)) {}
};

// Counts of the last update, for tests, benchmarks and curious people.
struct PlanStats {
  std::int64_t tiles = 0;           // query tiles x KV heads
  std::int64_t blocks = 0;          // (query tile, KV block) pairs computed
  std::int64_t full_blocks = 0;     // of these, without any masking
  std::int64_t skipped_blocks = 0;  // under the lengths, but proven empty by the mask
  std::int64_t split_tiles = 0;     // computed by several workers and merged
  std::int64_t kv_bytes = 0;  // bytes of K and V that a run reads, each (tile, block) pair counted
  double balance = 1;         // mean over largest worker's cost
  // Rows of outer levels that were not worth being computed for all their requests at once: they
  // were read with each of the rows below them.
  std::int64_t folded_rows = 0;
};

// A tile, or a part of one, that a worker computes: the unit of a plan's pictures. Costs are in the
// plan's own unit, in which it balances its workers.
struct PlanPiece {
  std::int32_t worker = 0;
  std::int32_t level = 0;
  std::int32_t row = 0;      // of the level; with one level: the request
  std::int32_t request = 0;  // the first one of the row
  std::int32_t kv_head = 0;
  std::int32_t tile = 0;         // of the row's query tokens x group size
  std::int32_t first_block = 0;  // among the KV blocks that the tile needs, not those it skips
  std::int32_t num_blocks = 0;
  std::int64_t start = 0;  // cost of what the worker does before it
  std::int64_t cost = 0;
};

class PlanImpl;

// Movable. Not thread-safe: one update or run at a time; two streams take two plans.
class TILEWRIGHT_API Plan {
 public:
  // A plan serves one or several attentions on one device. `workspace`: u8 [at least
  // workspace_bytes()], 256-byte aligned, owned by the caller and used until the plan is gone; left
  // out, the plan allocates its own.
  Plan(std::vector<Attention> attentions, const Limits& limits, const TensorView& workspace = {});
  Plan(Plan&&) noexcept;
  Plan& operator=(Plan&&) noexcept;
  ~Plan();

  // On the CPU it holds scratch for num_threads() threads, as of now: plans never use more.
  static std::size_t workspace_bytes(const std::vector<Attention>& attentions,
                                     const Limits& limits);

  // Compiles and loads all that update and run can reach; after it they never compile, load,
  // allocate or synchronise.
  Plan& prepare();

  // Makes the schedules of this batch, for every attention of the plan: `inputs` has each of them
  // once. Errors: invalid_argument for tensors or values that are malformed (indptr not monotone, a
  // negative length or page, ...), limit_exceeded for a batch over the limits.
  void update(const Batch& batch, const std::vector<PlanInput>& inputs, Stream stream = {});

  const Limits& limits() const;
  const std::vector<Attention>& attentions() const;
  // Of a plan on a GPU this and pieces() copy the schedule and what masks read, wait for the last
  // update, and ask the mask of every tile once more: not for every step. Error (invalid_state)
  // while the update's stream is captured into a graph.
  PlanStats stats(const Attention& attention) const;
  // Who computes what of the last update, by worker and start: every (tile, block) once. What no
  // worker owns in advance is listed with the one that would be free first. Takes time and memory
  // by the number of tiles.
  std::vector<PlanPiece> pieces(const Attention& attention) const;
  // A word for each request of the last update: 0 when it is well, else bits of RequestStatus: its
  // outputs are zeros then. On the CPU, where bad values raise an Error, always 0. On a GPU this
  // waits for the last update.
  std::vector<std::int32_t> status() const;
  // The same without waiting: puts the words into `words`, i32 [at least as many as the last
  // update's qo_indptr has requests] in host memory, behind what the stream has been given. On a
  // GPU that memory must be page-locked (cudaHostAlloc, torch's pin_memory()) and stay until the
  // copy is done; the call may be captured into a graph behind the update, and each replay copies
  // its own words. Error (invalid_state) before the first update.
  void copy_status(const TensorView& words, Stream stream = {}) const;
  // In debug mode an update() or run() first waits for the last update, and raises invalid_argument
  // where that has marked requests: it says which ones and why, and the plan has no batch then.
  // Calls on a stream that is being captured do not look, nor do those that follow an update on
  // such a stream, until the capture is over. On the CPU, where bad values raise at once, there is
  // nothing to look at. A new plan is in debug mode where the environment's TILEWRIGHT_DEBUG is
  // neither empty nor 0.
  void set_debug(bool on);
  bool debug() const;

  PlanImpl& impl() { return *impl_; }
  const PlanImpl& impl() const { return *impl_; }

 private:
  std::unique_ptr<PlanImpl> impl_;
};

}  // namespace tilewright
