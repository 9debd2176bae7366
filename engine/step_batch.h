// SPDX-License-Identifier: Apache-2.0
// What one step computes, as arrays that the library reads in place: new tokens of several
// sequences, and where their keys and values are.
#pragma once

#include <tilewright/tilewright.h>

#include <cstdint>
#include <vector>

namespace tilewright::engine {

// One level of the step's KV: rows of pages, each for the query tokens of some sequences that stand
// next to each other (KvLevel, all vectors i32).
struct StepLevel {
  std::vector<std::int32_t> qo_indptr;    // rows + 1
  std::vector<std::int32_t> kv_lens;      // a row: tokens
  std::vector<std::int32_t> kv_pos;       // a row: position of its first token
  std::vector<std::int32_t> page_indptr;  // rows + 1: into pages
  std::vector<std::int32_t> pages;

  KvLevel view(std::int64_t page_size) const;
};

struct StepBatch {
  // Below 0: -1 - r for what the step before samples in row r.
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> positions;     // a token
  std::vector<std::int32_t> slots;         // a token: where its K and V go
  std::vector<std::int32_t> qo_indptr{0};  // sequences + 1
  std::vector<std::int32_t> kv_lens;       // a sequence: all levels, its new tokens included
  // Pages that several sequences share, outermost first; the last one has a row for each sequence.
  std::vector<StepLevel> levels;
  std::vector<std::int64_t> logit_rows;  // the tokens whose logits are wanted, ascending

  // The same step with all pages in one level, without tokens, slots and logit rows: for a plan.
  StepBatch without_levels() const;
  // For Plan::update(); they point into this batch.
  Batch plan_batch() const;
  PlanInput plan_input(const Attention& attention, std::int64_t page_size) const;
};

}  // namespace tilewright::engine
