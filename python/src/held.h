// SPDX-License-Identifier: Apache-2.0
// The library's views in Python's hands: each value with the objects that own its memory.
#pragma once

#include <nanobind/nanobind.h>
#include <tilewright/kv_cache.h>
#include <tilewright/plan.h>

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "array.h"

namespace tilewright::python {

struct HeldTable {
  PageTable table;
  Keep keep;
};

struct HeldLevel {
  KvLevel level;
  Keep keep;
};

struct HeldBlocks {
  BlockStructure blocks;
  Keep keep;
  // The caller's arrays, where they are not in host memory.
  nb::object request_rows, indptr, indices, full;
};

struct HeldBatch {
  Batch batch;
  Keep keep;
};

// A plan, what its last update reads in place, and what its last copy of status words writes.
class HeldPlan {
 public:
  HeldPlan(nb::tuple attentions, const Limits& limits, nb::handle workspace);

  void prepare();
  // tables: dict of Attention -> PageTable or a list of Level (or PageTable); params: dict of
  // Attention -> dict; blocks: dict of Attention -> BlockStructure.
  void update(const HeldBatch& batch, nb::handle tables, nb::handle params, nb::handle blocks,
              nb::handle stream);

  void copy_status(nb::handle words, nb::handle stream);

  const nb::tuple& attentions() const { return attentions_; }
  Plan& plan() { return plan_; }

  // A plan's one user at a time, as updates and runs release the GIL. Error (invalid_state) when
  // another thread is at it.
  class Use {
   public:
    explicit Use(HeldPlan& plan);
    ~Use() { plan_.busy_.store(false, std::memory_order_release); }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    HeldPlan& plan_;
  };

 private:
  nb::tuple attentions_;
  Keep workspace_keep_;
  Plan plan_;
  Keep updated_;  // behind the last update that succeeded
  Keep failed_;   // behind the last that did not: nobody says which of the two the plan still reads
  Keep copied_;   // what the last copy of status words is written to
  std::atomic<bool> busy_{false};
};

// The largest element of an i32 array, at least 0; -1 for one that is not on the CPU.
std::int64_t largest(const TensorView& array);

// Tokens of the longest row a table tells of, at least 0; -1 where only kv_lens or a device tell.
// For limits: a malformed table gives some number, and an Error when it is used.
std::int64_t longest_row(const PageTable& table);

}  // namespace tilewright::python
