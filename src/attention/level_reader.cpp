// SPDX-License-Identifier: Apache-2.0
#include "attention/level_reader.h"

#include "attention/batch_checks.h"
#include "attention/level_table.h"

namespace tilewright {

LevelReader::LevelReader(const Batch& batch, const Limits& limits, Device device,
                         cpu::AttentionPlan& plan, const KvLevel& level, int index)
    : batch_(batch), limits_(limits), device_(device), plan_(plan), level_(level), index_(index) {}

std::int64_t LevelReader::count_rows() const {
  if (rows_are_requests()) return plan_.schedule.header->num_requests;
  const FieldName name{index_, "qo_indptr"};
  require_integers(name.text(), level_.qo_indptr, -1, device_);
  require(level_.qo_indptr.shape[0] >= 1, "{} is {}: it must have one entry more than rows", name,
          level_.qo_indptr);
  const std::int64_t rows = level_.qo_indptr.shape[0] - 1;
  require_limit(rows, "requests", limits_.requests, "the number of rows of levels[{}]", index_);
  require_indptr(name.text(), level_.qo_indptr, rows, false);
  const std::int64_t end = element(level_.qo_indptr, rows);
  if (level_.q_rows.defined()) {
    require(end <= level_.q_rows.shape[0], "{}[{}] is {}: levels[{}].q_rows has {} entries", name,
            rows, end, index_, level_.q_rows.shape[0]);
  } else {
    require(end <= plan_.schedule.header->q_tokens, "{}[{}] is {}: the batch has {} query tokens",
            name, rows, end, plan_.schedule.header->q_tokens);
  }
  return rows;
}

void LevelReader::read_q_rows() {
  if (!level_.q_rows.defined()) return;
  const FieldName name{index_, "q_rows"};
  require_integers(name.text(), level_.q_rows, -1, device_);
  require_last_dim_contiguous(name.text(), level_.q_rows);
  require(!rows_are_requests(), "{} is given without levels[{}].qo_indptr: it tells their rows",
          name, index_);
  plan_.levels[index_].q_rows = static_cast<const std::int32_t*>(level_.q_rows.data);
}

plan::Row LevelReader::read_row(std::int64_t index) const {
  const TensorView& indptr = rows_are_requests() ? batch_.qo_indptr : level_.qo_indptr;
  plan::Row row;
  row.level = index_;
  row.index = static_cast<std::int32_t>(index);
  row.q_begin = static_cast<std::int32_t>(element(indptr, index));
  row.q_len = static_cast<std::int32_t>(element(indptr, index + 1)) - row.q_begin;
  return row;
}

std::int32_t LevelReader::first_position(const plan::Row& row) const {
  if (level_.kv_pos.defined()) return static_cast<std::int32_t>(element(level_.kv_pos, row.index));
  if (plan_.token_levels == nullptr) return 0;
  const std::int32_t behind = plan_.token_keys[plan_.token_of(row, 0)];
  for (std::int32_t i = 1; i < row.q_len; ++i) {
    const std::int32_t keys = plan_.token_keys[plan_.token_of(row, i)];
    require(keys == behind,
            "levels[{}].kv_pos is missing: row {} covers query tokens with {} and {} keys in the "
            "levels before",
            index_, row.index, behind, keys);
  }
  return behind;
}

void LevelReader::require_positions(const plan::Row& row) const {
  if (row.kv_len == 0) return;
  const KvInterleave& shard = batch_.interleave;
  std::int64_t last = std::int64_t{row.kv_pos} + row.kv_len - 1;
  if (shard.world > 1) {
    // No product may overflow: turns are at most 2^30 * 2^31.
    const std::int64_t index = row.kv_len - 1;
    const std::int64_t chunk = index / shard.size * shard.world + shard.rank;
    last = chunk <= kMaxPosition32 / shard.size ? chunk * shard.size + index % shard.size
                                                : kMaxPosition32 + 1;
  }
  require(last <= kMaxPosition32,
          "levels[{}] has a row of {} keys, row {}, whose last would be at a position beyond "
          "2^31 - 1",
          index_, row.kv_len, row.index);
}

void LevelReader::cover_tokens(const plan::Row& row) {
  const auto level = static_cast<std::uint8_t>(1U << index_);
  for (std::int32_t i = 0; i < row.q_len; ++i) {
    const std::int64_t token = plan_.token_of(row, i);
    require((plan_.token_levels[token] & level) == 0,
            "levels[{}].q_rows has query token {} twice: a level's rows must not share tokens",
            index_, token);
    plan_.token_levels[token] |= level;
    const std::int64_t keys = std::int64_t{plan_.token_keys[token]} + row.kv_len;
    require_limit(keys, "kv_len", limits_.kv_len, "the KV length of request {}",
                  plan_.request_of(token));
    plan_.token_keys[token] = static_cast<std::int32_t>(keys);
  }
}

void LevelReader::read() {
  plan::Header& header = *plan_.schedule.header;
  cpu::LevelPages& pages = plan_.levels[index_];
  pages = {};
  read_q_rows();
  const std::int64_t rows = count_rows();
  const bool only_level = plan_.num_levels == 1;
  const TensorView none;
  LevelTable table(level_, index_, rows, only_level && rows_are_requests() ? batch_.kv_lens : none,
                   limits_, device_, only_level, pages);
  table.read_table();
  for (const auto& [field, tensor] :
       {std::pair<const char*, const TensorView&>("kv_lens", level_.kv_lens),
        {"kv_pos", level_.kv_pos}}) {
    if (!tensor.defined()) continue;
    const FieldName name{index_, field};
    require_integers(name.text(), tensor, -1, device_);
    require(tensor.shape[0] >= rows, "{} is {}: it must have {} entries", name, tensor, rows);
  }
  require(!level_.kv_pos.defined() || batch_.interleave.world == 1,
          "levels[{}].kv_pos is given: with batch.interleave.world {} the shard tells positions",
          index_, batch_.interleave.world);
  for (std::int64_t r = 0; r < rows; ++r) {
    plan::Row row = read_row(r);
    const std::int64_t length = table.kv_len(r);
    require_limit(length, "kv_len", limits_.kv_len, "the length of row {} of levels[{}]", r,
                  index_);
    row.kv_len = static_cast<std::int32_t>(length);
    if (row.q_len == 0) continue;
    for (std::int32_t i = 0; pages.q_rows != nullptr && i < row.q_len; ++i) {
      const std::int64_t token = plan_.token_of(row, i);
      require(token >= 0 && token < header.q_tokens,
              "levels[{}].q_rows[{}] is {}: it must be in [0, {}), the batch's query tokens",
              index_, row.q_begin + i, token, header.q_tokens);
    }
    table.note_pages(r, row.kv_len);
    row.kv_pos = first_position(row);
    require_positions(row);
    if (plan_.token_levels != nullptr) cover_tokens(row);
    row.segment = header.num_segments++;
    plan_.segments[row.segment] = {row.level, row.index, row.kv_len, -1};
    plan_.schedule.rows[header.num_rows++] = row;
  }
}

}  // namespace tilewright
