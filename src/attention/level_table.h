// SPDX-License-Identifier: Apache-2.0
// The page table of one level: checks of its form, lengths of its rows, page ids in use.
#pragma once

#include <tilewright/plan.h>

#include "attention/batch_checks.h"
#include "cpu/attention_plan.h"

namespace tilewright {

class LevelTable {
 public:
  // `rows` of the level are in use. `batch_kv_lens` may be undefined.
  LevelTable(const KvLevel& level, int index, std::int64_t rows, const TensorView& batch_kv_lens,
             const Limits& limits, Device device, bool only_level, cpu::LevelPages& pages)
      : table_(level.table),
        kv_lens_(level.kv_lens),
        batch_kv_lens_(batch_kv_lens),
        limits_(limits),
        device_(device),
        rows_(rows),
        index_(index),
        only_level_(only_level),
        pages_(pages) {}

  void read_table();
  std::int64_t kv_len(std::int64_t row) const;
  void note_pages(std::int64_t row, std::int64_t kv_len);

 private:
  FieldName member(const char* field) const { return {index_, field}; }
  std::int64_t capacity(std::int64_t row) const;  // tokens that the row's table entries can hold

  const PageTable& table_;
  const TensorView& kv_lens_;
  const TensorView& batch_kv_lens_;
  const Limits& limits_;
  Device device_;
  std::int64_t rows_;
  int index_;
  bool only_level_;
  cpu::LevelPages& pages_;
};

}  // namespace tilewright
