// SPDX-License-Identifier: Apache-2.0
// A batch and its page tables as plain arrays: drawn well-formed, damaged, and what it means, told
// by rules written down a second time.
#pragma once

#include <tilewright/plan.h>

#include <cstdint>
#include <string>
#include <vector>

#include "fuzz/draw.h"

namespace tilewright::fuzz {

// An i32 tensor [entries], or [rows, columns], in memory of exactly its size.
struct Ints {
  std::vector<std::int32_t> values;
  std::int64_t columns = -1;  // rank 1 when negative
  bool given = false;
  DType dtype = DType::i32;

  Ints() = default;
  explicit Ints(std::vector<std::int32_t> list) : values(std::move(list)), given(true) {}
  std::int64_t size() const { return static_cast<std::int64_t>(values.size()); }
  std::int64_t rows() const { return columns > 0 ? size() / columns : size(); }
  std::int64_t operator[](std::int64_t i) const { return values[static_cast<std::size_t>(i)]; }
  TensorView view() const;
};

struct LevelCase {
  PageTable::Form form = PageTable::Form::contiguous;
  std::int64_t page_size = 1;
  std::int64_t num_pages = 0;  // as the table tells it; 0: not known
  std::int64_t cache_pages = 1;
  Ints indices, indptr, row_ids, last_page_len;
  Ints kv_lens, qo_indptr, q_rows, kv_pos;

  std::vector<Ints*> tensors();
  KvLevel view() const;
};

struct BatchCase {
  Ints qo_indptr, kv_lens, num_requests, q_pos, q_pos_offset;
  KvInterleave interleave;
  std::vector<LevelCase> levels;

  std::vector<Ints*> tensors();
  Batch view() const;
  std::string text() const;
};

// A batch under the limits.
BatchCase draw_batch(Draw& draw, const Limits& limits);
// Changes entries, shapes, dtypes and fields.
void damage(BatchCase& batch, Draw& draw);

// Where a query token finds a key.
struct KeyPlace {
  int level = 0;
  std::int64_t page = 0;
  std::int64_t offset = 0;
  std::int64_t position = 0;
};

struct TokenMeaning {
  std::int64_t request = 0;
  std::int64_t q_pos = 0;
  std::vector<KeyPlace> keys;
};

struct Meaning {
  std::string wrong_in_update;  // why it must be refused; empty: it must be taken
  std::string wrong_in_run;
  std::vector<TokenMeaning> tokens;
};

Meaning meaning_of(const BatchCase& batch, const Limits& limits);

}  // namespace tilewright::fuzz
