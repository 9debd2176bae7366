// SPDX-License-Identifier: Apache-2.0
#include <tilewright/c_plan.h>

#include <algorithm>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

namespace {

std::vector<Attention> read_attentions(const tw_attention* const* attentions, std::size_t count) {
  const Path path("attentions");
  check_count("num_attentions", count);
  if (count > 0) required(path, attentions);
  std::vector<Attention> list;
  for (std::size_t i = 0; i < count; ++i) {
    list.push_back(required({path, i}, attentions[i]).attention);
  }
  return list;
}

}  // namespace

void tw_plan::require_batch() const {
  if (failed) {
    raise(ErrorCode::invalid_state,
          "plan has no batch: its last tw_plan_update() failed; call it with one first");
  }
}

namespace tilewright::c_api {

Limits read_limits(const Path& path, const tw_limits* limits) {
  const tw_limits given = read_struct(path, limits);
  Limits most;
  most.requests = given.requests;
  most.q_tokens = given.q_tokens;
  most.q_len = given.q_len;
  most.kv_len = given.kv_len;
  most.levels = given.levels == 0 ? 1 : given.levels;
  most.determinism =
      read_enum({path, "determinism"}, given.determinism, Determinism::batch_invariant);
  most.workers = given.workers;
  most.block_structures = read_flag({path, "block_structures"}, given.block_structures);
  return most;
}

tw_limits c_limits(const Limits& limits) {
  tw_limits result{};
  result.requests = limits.requests;
  result.q_tokens = limits.q_tokens;
  result.q_len = limits.q_len;
  result.kv_len = limits.kv_len;
  result.levels = limits.levels;
  result.determinism = static_cast<std::int32_t>(limits.determinism);
  result.workers = limits.workers;
  result.block_structures = limits.block_structures ? 1 : 0;
  return result;
}

Batch read_batch(const Path& path, const tw_batch* batch) {
  const tw_batch given = read_struct(path, batch);
  Batch result;
  result.qo_indptr = read_tensor({path, "qo_indptr"}, given.qo_indptr);
  result.kv_lens = read_tensor({path, "kv_lens"}, given.kv_lens);
  result.num_requests = read_tensor({path, "num_requests"}, given.num_requests);
  result.q_pos = read_tensor({path, "q_pos"}, given.q_pos);
  result.q_pos_offset = read_tensor({path, "q_pos_offset"}, given.q_pos_offset);
  result.interleave.size = given.interleave_size == 0 ? 1 : given.interleave_size;
  result.interleave.world = given.interleave_world == 0 ? 1 : given.interleave_world;
  result.interleave.rank = given.interleave_rank;
  return result;
}

}  // namespace tilewright::c_api

tw_status tw_plan_workspace_bytes(const tw_attention* const* attentions, size_t num_attentions,
                                  const tw_limits* limits, size_t* bytes) {
  return guarded([&] {
    required("bytes", bytes) = Plan::workspace_bytes(read_attentions(attentions, num_attentions),
                                                     read_limits("limits", limits));
  });
}

tw_status tw_plan_create(const tw_attention* const* attentions, size_t num_attentions,
                         const tw_limits* limits, const tw_tensor* workspace, tw_plan** plan) {
  return guarded([&] {
    hand_out("plan", plan, read_attentions(attentions, num_attentions),
             read_limits("limits", limits), read_optional_tensor("workspace", workspace));
  });
}

void tw_plan_destroy(tw_plan* plan) {
  give_back(plan);
}

tw_status tw_plan_prepare(tw_plan* plan) {
  return guarded([&] { required("plan", plan).plan.prepare(); });
}

tw_status tw_plan_update(tw_plan* plan, const tw_batch* batch, const tw_plan_input* inputs,
                         size_t num_inputs, tw_stream stream) {
  return guarded([&] {
    tw_plan& updated = required("plan", plan);
    updated.failed = true;
    const Batch next = read_batch("batch", batch);
    updated.plan.update(next, updated.scratch.inputs(inputs, num_inputs), read_stream(stream));
    updated.failed = false;
  });
}

tw_status tw_plan_get_limits(const tw_plan* plan, tw_limits* limits) {
  return guarded(
      [&] { write_struct("limits", limits, c_limits(required("plan", plan).plan.limits())); });
}

tw_status tw_plan_get_stats(const tw_plan* plan, const tw_attention* attention,
                            tw_plan_stats* stats) {
  return guarded([&] {
    required("plan", plan).require_batch();
    const PlanStats counted = plan->plan.stats(required("attention", attention).attention);
    tw_plan_stats result{};
    result.tiles = counted.tiles;
    result.blocks = counted.blocks;
    result.full_blocks = counted.full_blocks;
    result.skipped_blocks = counted.skipped_blocks;
    result.split_tiles = counted.split_tiles;
    result.kv_bytes = counted.kv_bytes;
    result.balance = counted.balance;
    result.folded_rows = counted.folded_rows;
    write_struct("stats", stats, result);
  });
}

tw_status tw_plan_get_pieces(const tw_plan* plan, const tw_attention* attention,
                             tw_plan_piece* pieces, size_t capacity, size_t* count) {
  return guarded([&] {
    required("plan", plan).require_batch();
    required("count", count);
    const StructList<tw_plan_piece> list("pieces", pieces, capacity);
    const std::vector<PlanPiece> all =
        plan->plan.pieces(required("attention", attention).attention);
    for (std::size_t i = 0; i < std::min(capacity, all.size()); ++i) {
      const PlanPiece& piece = all[i];
      tw_plan_piece result{};
      result.worker = piece.worker;
      result.level = piece.level;
      result.row = piece.row;
      result.request = piece.request;
      result.kv_head = piece.kv_head;
      result.tile = piece.tile;
      result.first_block = piece.first_block;
      result.num_blocks = piece.num_blocks;
      result.start = piece.start;
      result.cost = piece.cost;
      list.write(i, result);
    }
    *count = all.size();
  });
}

tw_status tw_plan_get_status(const tw_plan* plan, int32_t* words, size_t capacity, size_t* count) {
  return guarded([&] {
    required("plan", plan).require_batch();
    if (capacity > 0) required("words", words);
    required("count", count);
    const std::vector<std::int32_t> all = plan->plan.status();
    std::copy_n(all.begin(), std::min(capacity, all.size()), words);
    *count = all.size();
  });
}

tw_status tw_describe_status(int32_t word, const char** text) {
  return guarded([&] {
    required("text", text);
    thread_local std::string words;
    words = describe_status(word);
    *text = words.c_str();
  });
}

tw_status tw_plan_copy_status(const tw_plan* plan, const tw_tensor* words, tw_stream stream) {
  return guarded([&] {
    required("plan", plan).require_batch();
    plan->plan.copy_status(read_tensor("words", words), read_stream(stream));
  });
}

tw_status tw_plan_set_debug(tw_plan* plan, int32_t debug) {
  return guarded([&] { required("plan", plan).plan.set_debug(read_flag("debug", debug)); });
}

tw_status tw_plan_get_debug(const tw_plan* plan, int32_t* debug) {
  return guarded([&] { required("debug", debug) = required("plan", plan).plan.debug() ? 1 : 0; });
}
