// SPDX-License-Identifier: Apache-2.0
// What the kernel that makes plans on the device is given: a batch and the page tables of one or
// several attentions, all on the device, and where their plans go. Sizes come from the tensors'
// shapes, so that nothing is read outside them whatever the device's data says.
#pragma once

#include "plan/param_slot.h"
#include "plan/update_memory.h"
#include "plan/view.h"

namespace tilewright::plan {

inline constexpr int kMaxMaskParams = 16;

// A tensor of rank 1. Sizes and strides have 32 bits here: a size beyond is one that no index
// reaches, and addresses take one instruction.
struct IntList {
  const std::int32_t* data = nullptr;
  std::int32_t stride = 1;
  std::int32_t size = -1;  // -1: it is not given

  TILEWRIGHT_HD bool given() const { return size >= 0; }
  TILEWRIGHT_HD bool has(std::int32_t i) const { return i < size; }
  TILEWRIGHT_HD std::int32_t operator[](std::int32_t i) const {
    return data[static_cast<std::int64_t>(i) * stride];
  }
};

enum class TableForm : std::int32_t { padded, csr, ragged, contiguous };

// One level beside its LevelPages.
struct LevelInput {
  TableForm form = TableForm::contiguous;
  std::int32_t num_rows = -1;  // of qo_indptr; -1: rows are the requests
  IntList qo_indptr;
  IntList kv_lens;  // of the level or, where it is the only one, of the batch
  IntList kv_pos;
  IntList last_page_len;
  std::int32_t row_tokens = 0;   // that a row holds; padded, contiguous
  std::int32_t num_entries = 0;  // padded: rows of the table; csr: its page ids
  std::int32_t num_row_ids = 0;  // padded
  std::int32_t indptr_size = 0;  // csr, ragged
  std::int32_t num_q_rows = 0;   // entries of LevelPages::q_rows
  std::int32_t num_pages = 0;    // of the level's cache; 0: not known
};

// Status words of requests and, behind them, of the batch, in two arrays that updates take in turn:
// while one is written the other, which nobody reads any more, is cleared for the next update.
// Whose turn it is follows from a count of all blocks so far: each update has the same number.
struct StatusMemory {
  std::uint32_t* words = nullptr;   // [2][requests + 1]
  std::uint32_t* blocks = nullptr;  // [1]: those of two updates, then from 0 again
};

// What the kernel that copies the words of the last update is given.
struct StatusCopy {
  const std::uint32_t* words = nullptr;  // StatusMemory's
  const std::int32_t* turn = nullptr;    // Header::status_turn
  std::int32_t stride = 0;               // requests + 1
  std::int32_t count = 0;
  std::int32_t* to = nullptr;  // [count]: host memory that the device reaches
};

struct BatchInput {
  IntList qo_indptr;
  const std::int32_t* num_requests = nullptr;
  IntList q_pos_offset;
  std::int32_t num_q_pos = -1;  // entries of View::q_pos; -1: it is not given
};

struct PlanLimits {
  std::int32_t requests = 0;
  std::int32_t q_tokens = 0;
  std::int32_t q_len = 0;
  std::int32_t kv_len = 0;
  std::int32_t rows = 0;  // of all levels
};

// One attention.
struct PartInput {
  alignas(16) View view;  // of the plan to be made: pointers, config, tables
  alignas(16) UpdateArrays arrays;
  std::int32_t mask = 0;       // which of the kernel's masks
  bool has_long_rows = false;  // under the limits, where rows are the requests
  // Where all of Config::workers have a share, which is so from this cost on: 2^64 / workers,
  // rounded up. A product's upper half is a quotient then, if the other factor is less than 2^64 /
  // workers.
  std::int64_t cost_for_all = 0;
  std::uint64_t worker_reciprocal = 0;
  LevelInput levels[kMaxLevels];
  ParamSlot params[kMaxMaskParams] = {};  // of the mask
};

template <int kParts>
struct UpdateParams {
  BatchInput batch;
  PlanLimits limits;
  StatusMemory status;
  PartInput parts[kParts];
};

}  // namespace tilewright::plan
