// SPDX-License-Identifier: Apache-2.0
#include "fuzz/batch_case.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

namespace tilewright::fuzz {
namespace {

using Form = PageTable::Form;

std::int32_t small(std::int64_t value) {
  return static_cast<std::int32_t>(value);
}

// Draws a batch, level by level, so that every rule holds.
class BatchMaker {
 public:
  BatchMaker(Draw& draw, const Limits& limits) : draw_(draw), limits_(limits) {}

  BatchCase make() {
    draw_queries();
    const std::int64_t levels = draw_.chance(0.5) ? draw_.range(1, limits_.levels) : 1;
    keys_.assign(static_cast<std::size_t>(tokens_), 0);
    for (std::int64_t level = 0; level < levels; ++level) draw_level(level, levels);
    draw_positions();
    return std::move(batch_);
  }

 private:
  void draw_queries() {
    std::vector<std::int32_t> indptr = {0};
    for (std::int64_t left = draw_.range(0, limits_.requests); left > 0; --left) {
      const std::int64_t most = draw_.chance(0.1) ? limits_.q_len : 12;
      const std::int64_t length = draw_.chance(0.5) ? draw_.range(0, most) : 1;
      if (indptr.back() + length > limits_.q_tokens) break;
      indptr.push_back(small(indptr.back() + length));
    }
    requests_ = static_cast<std::int64_t>(indptr.size()) - 1;
    tokens_ = indptr.back();
    if (draw_.chance(0.2)) {
      batch_.num_requests = Ints({small(requests_)});
      for (std::int64_t left = draw_.range(0, 3); left > 0; --left) {
        indptr.push_back(draw_.extreme32());
      }
    }
    batch_.qo_indptr = Ints(indptr);
  }

  // Rows as ranges of tokens, or of a shuffled list of them.
  std::vector<std::vector<std::int64_t>> draw_rows(LevelCase& level, bool may_be_requests) {
    std::vector<std::vector<std::int64_t>> rows;
    if (may_be_requests) {
      for (std::int64_t r = 0; r < requests_; ++r) {
        rows.emplace_back();
        for (std::int64_t t = batch_.qo_indptr[r]; t < batch_.qo_indptr[r + 1]; ++t) {
          rows.back().push_back(t);
        }
      }
      return rows;
    }
    std::vector<std::int32_t> order(static_cast<std::size_t>(tokens_));
    std::iota(order.begin(), order.end(), 0);
    const bool listed = draw_.chance(0.3);
    if (listed) draw_.shuffle(order);
    std::int64_t at = draw_.chance(0.3) ? draw_.range(0, tokens_) : 0;
    level.qo_indptr = Ints({small(at)});
    for (std::int64_t left = draw_.range(0, limits_.requests); left > 0; --left) {
      const std::int64_t end = draw_.chance(0.3) ? tokens_ : draw_.range(at, tokens_);
      rows.emplace_back();
      for (; at < end; ++at) rows.back().push_back(order[static_cast<std::size_t>(at)]);
      level.qo_indptr.values.push_back(small(at));
    }
    if (listed) level.q_rows = Ints(order);
    return rows;
  }

  void draw_level(std::int64_t index, std::int64_t levels) {
    LevelCase level;
    const bool last = index == levels - 1;
    const bool of_requests = draw_.chance(last ? 0.9 : 0.1);
    const auto rows = draw_rows(level, of_requests);
    level.form = static_cast<Form>(draw_.below(4));
    level.page_size = level.form == Form::ragged ? 1 : draw_.range(1, 9);
    std::vector<std::int32_t> lengths;
    const std::int64_t most = limits_.kv_len / levels;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      lengths.push_back(small(draw_.range(0, draw_.chance(0.3) ? most : std::min(most, 9L))));
    }
    const bool alike = level.form == Form::contiguous && draw_.chance(0.5);
    if (alike) std::fill(lengths.begin(), lengths.end(), lengths.empty() ? 0 : lengths[0]);
    const bool last_pages = level.form == Form::csr && draw_.chance(0.5);
    const bool told = alike || last_pages || level.form == Form::ragged;
    const bool given = !told || draw_.chance(0.3);
    draw_table(level, lengths, given, last_pages);
    if (given) {
      (levels == 1 && of_requests && draw_.chance(0.5) ? batch_.kv_lens : level.kv_lens) =
          Ints(lengths);
    }
    draw_kv_pos(level, rows, levels == 1 && of_requests);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      for (const std::int64_t token : rows[r]) keys_[static_cast<std::size_t>(token)] += lengths[r];
    }
    batch_.levels.push_back(std::move(level));
  }

  void draw_kv_pos(LevelCase& level, const std::vector<std::vector<std::int64_t>>& rows,
                   bool plain) {
    bool needed = false;
    for (const auto& row : rows) {
      for (const std::int64_t token : row) {
        needed = needed ||
                 keys_[static_cast<std::size_t>(token)] != keys_[static_cast<std::size_t>(row[0])];
      }
    }
    if ((plain || !needed) && !draw_.chance(0.2)) return;
    level.kv_pos.given = true;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      level.kv_pos.values.push_back(small(draw_.range(0, 100)));
    }
  }

  std::int32_t draw_page(const LevelCase& level) {
    return small(draw_.range(0, level.cache_pages - 1));
  }

  void draw_table(LevelCase& level, const std::vector<std::int32_t>& lengths, bool given,
                  bool last_pages) {
    const auto rows = static_cast<std::int64_t>(lengths.size());
    const std::int64_t longest =
        lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
    const auto pages = [&](std::int64_t length) {
      return (length + level.page_size - 1) / level.page_size;
    };
    level.cache_pages = draw_.range(1, 20);
    if (level.form == Form::contiguous) {
      level.page_size = given ? longest + draw_.range(0, 2) : longest;
      level.cache_pages = rows + draw_.range(rows > 0 ? 0 : 1, 1);
    } else if (level.form == Form::padded) {
      const std::int64_t columns = std::max<std::int64_t>(pages(longest), 1) + draw_.range(0, 2);
      const std::int64_t lines = rows + draw_.range(0, 2);
      level.indices.columns = columns;
      level.indices.given = true;
      std::vector<std::int32_t> ids(static_cast<std::size_t>(lines));
      std::iota(ids.begin(), ids.end(), 0);
      if (draw_.chance(0.3)) {
        draw_.shuffle(ids);
        level.row_ids = Ints(ids);
      }
      level.indices.values.assign(static_cast<std::size_t>(lines * columns), draw_.extreme32());
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t length = lengths[static_cast<std::size_t>(r)];
        for (std::int64_t c = 0; c < pages(length); ++c) {
          const std::int64_t at = ids[static_cast<std::size_t>(r)] * columns + c;
          level.indices.values[static_cast<std::size_t>(at)] = draw_page(level);
        }
      }
    } else {
      const bool csr = level.form == Form::csr;
      const std::int64_t first = draw_.chance(0.2) ? draw_.range(0, 3) : 0;
      level.indptr = Ints({small(first)});
      level.indices.given = csr;
      level.indices.values.assign(static_cast<std::size_t>(csr ? first : 0), -7);
      level.last_page_len.given = last_pages;
      for (const std::int32_t length : lengths) {
        const std::int64_t more = given ? draw_.range(0, 1) : 0;
        const std::int64_t count = csr ? pages(length) : length;
        level.indptr.values.push_back(small(level.indptr.values.back() + count + more));
        level.last_page_len.values.push_back(
            length == 0 ? 1 : small((length - 1) % level.page_size + 1));
        if (!csr) continue;
        for (std::int64_t i = 0; i < count; ++i) level.indices.values.push_back(draw_page(level));
        if (more > 0) level.indices.values.push_back(draw_.extreme32());
      }
      if (!csr) level.cache_pages = level.indptr.values.back() + draw_.range(1, 2);
    }
  }

  void draw_positions() {
    if (draw_.chance(0.6)) return;
    if (draw_.chance(0.5)) {
      batch_.q_pos.given = true;
      for (std::int64_t i = tokens_ + draw_.range(0, 2); i > 0; --i) {
        batch_.q_pos.values.push_back(small(draw_.range(0, 200)));
      }
    } else {
      batch_.q_pos_offset.given = true;
      for (std::int64_t i = requests_ + draw_.range(0, 2); i > 0; --i) {
        batch_.q_pos_offset.values.push_back(small(draw_.range(0, 200)));
      }
    }
    if (batch_.levels.size() > 1 || batch_.levels[0].kv_pos.given || draw_.chance(0.5)) return;
    batch_.interleave = {draw_.range(1, 20), draw_.range(1, 4), 0};
    batch_.interleave.rank = draw_.range(0, batch_.interleave.world - 1);
  }

  Draw& draw_;
  const Limits& limits_;
  BatchCase batch_;
  std::int64_t requests_ = 0;
  std::int64_t tokens_ = 0;
  std::vector<std::int64_t> keys_;  // of each token, in the levels before
};

void damage_tensor(Ints& tensor, Draw& draw) {
  if (!tensor.given) {
    tensor.given = true;
    for (std::uint64_t left = draw.below(9); left > 0; --left) {
      tensor.values.push_back(small(draw.range(0, 20)));
    }
    return;
  }
  std::vector<std::int32_t>& values = tensor.values;
  const std::size_t at = values.empty() ? 0 : draw.below(values.size());
  switch (draw.below(9)) {
    case 0:
    case 1:
      if (!values.empty()) values[at] = draw.extreme32();
      break;
    case 2:
    case 3:
      if (!values.empty()) values[at] = small(std::int64_t{values[at] / 2} * 2 + 1);
      break;
    case 4:
      if (!values.empty()) values.erase(values.begin() + static_cast<std::ptrdiff_t>(at));
      break;
    case 5:
      values.push_back(draw.extreme32());
      break;
    case 6:
      tensor.given = false;
      break;
    case 7:
      tensor.dtype = draw.chance(0.5) ? DType::i64 : DType::f32;
      break;
    default:
      tensor.columns = tensor.columns < 0 ? draw.range(0, 3) : -1;
      break;
  }
}

}  // namespace

TensorView Ints::view() const {
  if (!given) return {};
  if (columns < 0) return {values.data(), dtype, {size()}};
  return {values.data(), dtype, {rows(), columns}};
}

std::vector<Ints*> LevelCase::tensors() {
  return {&indices, &indptr, &row_ids, &last_page_len, &kv_lens, &qo_indptr, &q_rows, &kv_pos};
}

KvLevel LevelCase::view() const {
  PageTable table;
  table.form = form;
  table.page_size = page_size;
  table.num_pages = num_pages;
  table.indices = indices.view();
  table.indptr = indptr.view();
  table.row_ids = row_ids.view();
  table.last_page_len = last_page_len.view();
  return {table, kv_lens.view(), qo_indptr.view(), q_rows.view(), kv_pos.view()};
}

std::vector<Ints*> BatchCase::tensors() {
  std::vector<Ints*> all = {&qo_indptr, &kv_lens, &num_requests, &q_pos, &q_pos_offset};
  for (LevelCase& level : levels) {
    for (Ints* tensor : level.tensors()) all.push_back(tensor);
  }
  return all;
}

Batch BatchCase::view() const {
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  batch.kv_lens = kv_lens.view();
  batch.num_requests = num_requests.view();
  batch.q_pos = q_pos.view();
  batch.q_pos_offset = q_pos_offset.view();
  batch.interleave = interleave;
  return batch;
}

BatchCase draw_batch(Draw& draw, const Limits& limits) {
  return BatchMaker(draw, limits).make();
}

void damage(BatchCase& batch, Draw& draw) {
  const std::vector<Ints*> tensors = batch.tensors();
  switch (draw.below(10)) {
    case 0:
      if (!batch.levels.empty()) {
        LevelCase& level = batch.levels[draw.below(batch.levels.size())];
        level.page_size = draw.chance(0.5) ? draw.extreme() : draw.range(0, 9);
      }
      break;
    case 1:
      if (!batch.levels.empty()) {
        batch.levels[draw.below(batch.levels.size())].form = static_cast<Form>(draw.below(4));
      }
      break;
    case 2: {
      KvInterleave& shard = batch.interleave;
      std::int64_t* fields[] = {&shard.size, &shard.world, &shard.rank};
      *fields[draw.below(3)] = draw.extreme();
      break;
    }
    case 3:
      if (draw.chance(0.5) && !batch.levels.empty()) {
        batch.levels.pop_back();
      } else if (!batch.levels.empty()) {
        batch.levels.push_back(batch.levels[draw.below(batch.levels.size())]);
      }
      break;
    default:
      damage_tensor(*tensors[draw.below(tensors.size())], draw);
      break;
  }
}

std::string BatchCase::text() const {
  std::string text;
  const auto add = [&](std::string_view name, const Ints& tensor) {
    if (!tensor.given) return;
    text += fmt::format("  {} {} columns {} {}\n", name, dtype_name(tensor.dtype), tensor.columns,
                        tensor.values);
  };
  add("qo_indptr", qo_indptr);
  add("kv_lens", kv_lens);
  add("num_requests", num_requests);
  add("q_pos", q_pos);
  add("q_pos_offset", q_pos_offset);
  text += fmt::format("  interleave size {} world {} rank {}\n", interleave.size, interleave.world,
                      interleave.rank);
  for (const LevelCase& level : levels) {
    text += fmt::format("level: form {} page_size {} cache_pages {}\n",
                        static_cast<int>(level.form), level.page_size, level.cache_pages);
    add("indices", level.indices);
    add("indptr", level.indptr);
    add("row_ids", level.row_ids);
    add("last_page_len", level.last_page_len);
    add("kv_lens", level.kv_lens);
    add("qo_indptr", level.qo_indptr);
    add("q_rows", level.q_rows);
    add("kv_pos", level.kv_pos);
  }
  return text;
}

}  // namespace tilewright::fuzz
