// SPDX-License-Identifier: Apache-2.0
#include "attention/batch_reader.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/checks.h"

namespace tilewright {

// "levels[0].indices": a name that becomes text only when a message needs it, and never allocates.
struct FieldName {
  struct Text {
    std::array<char, 40> characters{};
    std::size_t size = 0;
    operator std::string_view() const {  // NOLINT(google-explicit-constructor)
      return {characters.data(), size};
    }
  };

  int level;
  const char* field;

  Text text() const {
    Text text;
    const auto size = text.characters.size();
    const auto end =
        level < 0 ? fmt::format_to_n(text.characters.data(), size, "batch.{}", field)
                  : fmt::format_to_n(text.characters.data(), size, "levels[{}].{}", level, field);
    text.size = std::min(end.size, text.characters.size());
    return text;
  }
};

}  // namespace tilewright

template <>
struct fmt::formatter<tilewright::FieldName> : fmt::formatter<std::string_view> {
  auto format(const tilewright::FieldName& name, fmt::format_context& context) const {
    return fmt::formatter<std::string_view>::format(name.text(), context);
  }
};

namespace tilewright {
namespace {

constexpr std::int64_t kMaxPageSize = 1024;

std::int64_t element(const TensorView& tensor, std::int64_t i) {
  return static_cast<const std::int32_t*>(tensor.data)[i * tensor.strides[0]];
}

// A rank-1 i32 tensor of `count` elements (-1: any).
void require_integers(std::string_view name, const TensorView& tensor, std::int64_t count,
                      Device device) {
  require_rank(name, tensor, {1});
  require_dtype(name, tensor, {DType::i32});
  require_device(name, tensor, device);
  require_shape(name, tensor, {count});
}

// `what` and its arguments name the value.
template <typename... Args>
void require_limit(std::int64_t value, std::string_view limit, std::int64_t most,
                   fmt::format_string<Args...> what, Args&&... args) {
  if (value <= most) return;
  raise(ErrorCode::limit_exceeded, "{} is {}: the plan's limit ({}) is {}",
        fmt::format(what, std::forward<Args>(args)...), value, limit, most);
}

// [indptr[i], indptr[i + 1]) for all i < count.
void require_indptr(std::string_view name, const TensorView& indptr, std::int64_t count,
                    bool from_zero) {
  const std::int64_t first = element(indptr, 0);
  require(from_zero ? first == 0 : first >= 0, "{}[0] is {}: it must be {}", name, first,
          from_zero ? "0" : "at least 0");
  for (std::int64_t i = 0; i < count; ++i) {
    require(element(indptr, i) <= element(indptr, i + 1),
            "{}[{}] is {} and {}[{}] is {}: it must not decrease", name, i, element(indptr, i),
            name, i + 1, element(indptr, i + 1));
  }
}

}  // namespace

BatchReader::BatchReader(const Batch& batch, const Limits& limits, Device device)
    : batch_(batch), limits_(limits), device_(device) {
  require_integers("batch.qo_indptr", batch.qo_indptr, -1, device);
  require(batch.qo_indptr.shape[0] >= 1,
          "batch.qo_indptr is {}: it must have one entry more than there are requests",
          batch.qo_indptr);
  std::int64_t requests = batch.qo_indptr.shape[0] - 1;
  if (batch.num_requests.defined()) {
    require_integers("batch.num_requests", batch.num_requests, 1, device);
    const std::int64_t live = element(batch.num_requests, 0);
    require(live >= 0 && live <= requests,
            "batch.num_requests is {}: it must be in [0, {}], the requests of qo_indptr", live,
            requests);
    requests = live;
  }
  require_limit(requests, "requests", limits.requests, "the number of requests");
  num_requests_ = static_cast<int>(requests);
  require_indptr("batch.qo_indptr", batch.qo_indptr, requests, true);
  require_limit(q_begin(requests), "q_tokens", limits.q_tokens, "the number of query tokens");
  for (std::int64_t r = 0; r < requests; ++r) {
    require_limit(q_begin(r + 1) - q_begin(r), "q_len", limits.q_len,
                  "the query length of request {}", r);
  }
  if (batch.kv_lens.defined()) {
    require_rank("batch.kv_lens", batch.kv_lens, {1});
    require(batch.kv_lens.shape[0] >= requests, "batch.kv_lens is {}: it must have {} entries",
            batch.kv_lens, requests);
    require_integers("batch.kv_lens", batch.kv_lens, -1, device);
  }
  const KvInterleave& shard = batch.interleave;
  require(
      shard.size >= 1 && shard.world >= 1 && shard.rank >= 0 && shard.rank < shard.world,
      "batch.interleave has size {}, world {}, rank {}: size and world must be at least 1, rank "
      "in [0, world)",
      shard.size, shard.world, shard.rank);
  require(shard.world == 1 || batch.q_pos.defined() || batch.q_pos_offset.defined(),
          "batch.interleave has world {}: q_pos or q_pos_offset must be given", shard.world);
  require(!batch.q_pos.defined() || !batch.q_pos_offset.defined(),
          "batch.q_pos and batch.q_pos_offset are both given: at most one");
  if (batch.q_pos.defined()) {
    require_integers("batch.q_pos", batch.q_pos, -1, device);
    require(batch.q_pos.shape[0] >= q_begin(requests),
            "batch.q_pos is {}: it must have {} entries, one a query token", batch.q_pos,
            q_begin(requests));
  }
  if (batch.q_pos_offset.defined()) {
    require_integers("batch.q_pos_offset", batch.q_pos_offset, -1, device);
    require(batch.q_pos_offset.shape[0] >= requests,
            "batch.q_pos_offset is {}: it must have {} entries", batch.q_pos_offset, requests);
  }
}

std::int64_t BatchReader::q_begin(std::int64_t request) const {
  return element(batch_.qo_indptr, request);
}

// One level on its way into the plan.
struct BatchReader::LevelReader {
  const BatchReader& batch;
  const KvLevel& level;
  const PageTable& table;
  int index;
  bool only_level;
  std::int64_t rows = 0;
  cpu::LevelPages& pages;

  FieldName member(const char* field) const { return {index, field}; }

  void read_table();
  std::int64_t kv_len(std::int64_t row) const;
  std::int64_t capacity(std::int64_t row) const;  // tokens that the row's table entries can hold
  // The position of a row's first key.
  std::int32_t kv_pos(std::int64_t index_of_row, const plan::Row& row,
                      const cpu::AttentionPlan& plan) const;
  void note_pages(std::int64_t row, std::int64_t kv_len);
};

void BatchReader::LevelReader::read_table() {
  const Device device = batch.device_;
  pages = {};
  pages.page_size = table.page_size;
  if (table.form != PageTable::Form::contiguous) {
    require(table.page_size >= 1 && table.page_size <= kMaxPageSize,
            "{} is {}: it must be in [1, {}]", member("page_size"), table.page_size, kMaxPageSize);
  }
  switch (table.form) {
    case PageTable::Form::padded:
      require_rank(member("indices").text(), table.indices, {2});
      require_dtype(member("indices").text(), table.indices, {DType::i32});
      require_device(member("indices").text(), table.indices, device);
      require_last_dim_contiguous(member("indices").text(), table.indices);
      pages.indices = static_cast<const std::int32_t*>(table.indices.data);
      pages.row_stride = table.indices.strides[0];
      if (table.row_ids.defined()) {
        require_integers(member("row_ids").text(), table.row_ids, -1, device);
        require_last_dim_contiguous(member("row_ids").text(), table.row_ids);
        require(table.row_ids.shape[0] >= rows, "{} is {}: it must have {} entries",
                member("row_ids"), table.row_ids, rows);
        pages.row_ids = static_cast<const std::int32_t*>(table.row_ids.data);
      } else {
        require(table.indices.shape[0] >= rows, "{} is {}: it must have {} rows", member("indices"),
                table.indices, rows);
      }
      break;
    case PageTable::Form::csr:
    case PageTable::Form::ragged: {
      const bool csr = table.form == PageTable::Form::csr;
      require_integers(member("indptr").text(), table.indptr, -1, device);
      require_last_dim_contiguous(member("indptr").text(), table.indptr);
      require(table.indptr.shape[0] >= rows + 1, "{} is {}: it must have {} entries",
              member("indptr"), table.indptr, rows + 1);
      require_indptr(member("indptr").text(), table.indptr, rows, false);
      pages.indptr = static_cast<const std::int32_t*>(table.indptr.data);
      if (!csr) {
        require(table.page_size == 1, "{} is {}: a ragged table has 1", member("page_size"),
                table.page_size);
        break;
      }
      require_integers(member("indices").text(), table.indices, -1, device);
      require_last_dim_contiguous(member("indices").text(), table.indices);
      require(element(table.indptr, rows) <= table.indices.shape[0],
              "{}[{}] is {}: it must be at most {}, the entries of {}", member("indptr"), rows,
              element(table.indptr, rows), table.indices.shape[0], member("indices"));
      pages.indices = static_cast<const std::int32_t*>(table.indices.data);
      if (table.last_page_len.defined()) {
        require_integers(member("last_page_len").text(), table.last_page_len, -1, device);
        require(table.last_page_len.shape[0] >= rows, "{} is {}: it must have {} entries",
                member("last_page_len"), table.last_page_len, rows);
      }
      break;
    }
    case PageTable::Form::contiguous:
      require(table.page_size >= 0, "{} is {}: it must not be negative", member("length"),
              table.page_size);
      pages.page_size = std::max<std::int64_t>(table.page_size, 1);
      break;
  }
}

std::int64_t BatchReader::LevelReader::capacity(std::int64_t row) const {
  switch (table.form) {
    case PageTable::Form::padded:
      return table.indices.shape[1] * table.page_size;
    case PageTable::Form::csr:
      return (element(table.indptr, row + 1) - element(table.indptr, row)) * table.page_size;
    case PageTable::Form::ragged:
      return element(table.indptr, row + 1) - element(table.indptr, row);
    case PageTable::Form::contiguous:
      return table.page_size;
  }
  return 0;
}

std::int64_t BatchReader::LevelReader::kv_len(std::int64_t row) const {
  const auto given = [&](const auto& what, const TensorView& lens) {
    const std::int64_t length = element(lens, row);
    require(length >= 0, "{}[{}] is {}: it must not be negative", what, row, length);
    require_limit(length, "kv_len", batch.limits_.kv_len, "{}[{}]", what, row);
    require(length <= capacity(row), "{}[{}] is {}: levels[{}] has pages for {} tokens in this row",
            what, row, length, index, capacity(row));
    return length;
  };
  if (level.kv_lens.defined()) return given(member("kv_lens"), level.kv_lens);
  if (only_level && batch.batch_.kv_lens.defined()) {
    return given("batch.kv_lens", batch.batch_.kv_lens);
  }
  if (table.last_page_len.defined() && table.form == PageTable::Form::csr) {
    if (capacity(row) == 0) return 0;
    const std::int64_t last = element(table.last_page_len, row);
    require(last >= 1 && last <= table.page_size,
            "{}[{}] is {}: it must be in [1, {}], the page size", member("last_page_len"), row,
            last, table.page_size);
    return capacity(row) - table.page_size + last;
  }
  require(table.form == PageTable::Form::ragged || table.form == PageTable::Form::contiguous,
          "{} is missing: this page table does not tell lengths",
          only_level ? FieldName{-1, "kv_lens"} : member("kv_lens"));
  return capacity(row);
}

std::int32_t BatchReader::LevelReader::kv_pos(std::int64_t index_of_row, const plan::Row& row,
                                              const cpu::AttentionPlan& plan) const {
  if (level.kv_pos.defined()) return static_cast<std::int32_t>(element(level.kv_pos, index_of_row));
  // Behind what the levels before gave the row's requests, those without queries left out.
  std::int32_t position = -1;
  for (std::int32_t i = row.first_request; i < row.first_request + row.num_requests; ++i) {
    if (plan.requests[i].q_len == 0) continue;
    const std::int32_t behind = plan.requests[i].kv_len;
    require(position < 0 || position == behind,
            "{} is missing: row {} covers requests with {} and {} tokens in the levels before",
            member("kv_pos"), index_of_row, position, behind);
    position = behind;
  }
  return std::max(position, 0);
}

// Checks the page ids in use and remembers the largest.
void BatchReader::LevelReader::note_pages(std::int64_t row, std::int64_t kv_len) {
  if (kv_len == 0) return;
  const auto note = [&](std::int64_t page, std::int64_t column) {
    if (page > pages.max_page) {
      pages.max_page = page;
      pages.max_page_row = row;
      pages.max_page_column = column;
    }
  };
  if (pages.indices == nullptr) {
    note(pages.indptr != nullptr ? pages.first_page(row) + kv_len - 1 : row, 0);
    return;
  }
  if (pages.row_ids != nullptr) {
    require(pages.row_ids[row] >= 0 && pages.row_ids[row] < table.indices.shape[0],
            "{}[{}] is {}: it must be in [0, {}), the rows of {}", member("row_ids"), row,
            pages.row_ids[row], table.indices.shape[0], member("indices"));
  }
  const std::int32_t* entries = pages.entries(row);
  const std::int64_t count = (kv_len + pages.page_size - 1) / pages.page_size;
  const auto [least, most] = std::minmax_element(entries, entries + count);
  require(*least >= 0, "{} has page {} for request {}, page {} of it: a page must not be negative",
          member("indices"), *least, row, least - entries);
  note(*most, most - entries);
}

void BatchReader::read_level(const PlanInput& input, int index, cpu::AttentionPlan& plan) const {
  const KvLevel& level = input.levels[static_cast<std::size_t>(index)];
  LevelReader reader{*this,
                     level,
                     level.table,
                     index,
                     input.levels.size() == 1,
                     num_requests_,
                     plan.levels[static_cast<std::size_t>(index)]};
  if (level.q_rows.defined()) {
    raise(ErrorCode::not_supported, "{}: not supported by the CPU backend",
          reader.member("q_rows"));
  }
  if (level.qo_indptr.defined()) {
    require_integers(reader.member("qo_indptr").text(), level.qo_indptr, -1, device_);
    require(level.qo_indptr.shape[0] >= 1, "{} is {}: it must have one entry more than rows",
            reader.member("qo_indptr"), level.qo_indptr);
    reader.rows = level.qo_indptr.shape[0] - 1;
    require_limit(reader.rows, "requests", limits_.requests, "the number of rows of levels[{}]",
                  index);
    require_indptr(reader.member("qo_indptr").text(), level.qo_indptr, reader.rows, false);
    require(element(level.qo_indptr, reader.rows) <= q_begin(num_requests_),
            "{}[{}] is {}: the batch has {} query tokens", reader.member("qo_indptr"), reader.rows,
            element(level.qo_indptr, reader.rows), q_begin(num_requests_));
  }
  reader.read_table();
  if (level.kv_lens.defined()) {
    require_integers(reader.member("kv_lens").text(), level.kv_lens, -1, device_);
    require(level.kv_lens.shape[0] >= reader.rows, "{} is {}: it must have {} entries",
            reader.member("kv_lens"), level.kv_lens, reader.rows);
  }
  if (level.kv_pos.defined()) {
    require_integers(reader.member("kv_pos").text(), level.kv_pos, -1, device_);
    require(level.kv_pos.shape[0] >= reader.rows, "{} is {}: it must have {} entries",
            reader.member("kv_pos"), level.kv_pos, reader.rows);
  }
  plan::Header& header = *plan.schedule.header;
  std::int32_t request = 0;
  for (std::int64_t r = 0; r < reader.rows; ++r) {
    plan::Row row;
    row.level = index;
    row.index = static_cast<std::int32_t>(r);
    const bool by_request = !level.qo_indptr.defined();
    const std::int64_t begin = by_request ? q_begin(r) : element(level.qo_indptr, r);
    const std::int64_t end = by_request ? q_begin(r + 1) : element(level.qo_indptr, r + 1);
    row.q_begin = static_cast<std::int32_t>(begin);
    row.q_len = static_cast<std::int32_t>(end - begin);
    // The requests of the row's tokens; those without tokens only matter where rows are requests.
    if (by_request) {
      request = static_cast<std::int32_t>(r);
    } else {
      while (request < num_requests_ && q_begin(request + 1) <= begin) ++request;
    }
    row.first_request = request;
    std::int32_t last = request;
    while (!by_request && last < num_requests_ && q_begin(last) < end) ++last;
    row.num_requests = by_request ? 1 : last - request;
    if (!by_request && end > begin) {
      require(q_begin(request) == begin && q_begin(last) == end,
              "{}: row {} has query tokens [{}, {}), which cut a request: rows must cover whole "
              "requests",
              reader.member("qo_indptr"), r, begin, end);
    }
    row.kv_len = static_cast<std::int32_t>(reader.kv_len(r));
    if (row.q_len > 0) reader.note_pages(r, row.kv_len);
    row.kv_pos = reader.kv_pos(r, row, plan);
    for (std::int32_t i = row.first_request; i < row.first_request + row.num_requests; ++i) {
      plan::Request& shared = plan.requests[i];
      require_limit(static_cast<std::int64_t>(shared.kv_len) + row.kv_len, "kv_len", limits_.kv_len,
                    "the KV length of request {}", i);
      shared.kv_len += row.kv_len;
    }
    if (row.q_len > 0) plan.schedule.rows[header.num_rows++] = row;
  }
}

void BatchReader::read_requests(cpu::AttentionPlan& plan) const {
  for (int r = 0; r < num_requests_; ++r) {
    plan.requests[r] = {static_cast<std::int32_t>(q_begin(r)),
                        static_cast<std::int32_t>(q_begin(r + 1) - q_begin(r)), 0, 0};
  }
}

void BatchReader::read_positions(cpu::AttentionPlan& plan) const {
  plan.interleave = batch_.interleave;
  plan.q_pos =
      batch_.q_pos.defined() ? static_cast<const std::int32_t*>(batch_.q_pos.data) : nullptr;
  plan.q_pos_stride = batch_.q_pos.defined() ? batch_.q_pos.strides[0] : 1;
  for (int r = 0; r < num_requests_; ++r) {
    plan::Request& request = plan.requests[r];
    request.q_pos = batch_.q_pos_offset.defined()
                        ? static_cast<std::int32_t>(element(batch_.q_pos_offset, r))
                        : request.kv_len - request.q_len;
  }
}

void BatchReader::read(const PlanInput& input, cpu::AttentionPlan& plan) const {
  const auto levels = static_cast<int>(input.levels.size());
  require(levels >= 1, "levels is empty: an attention's KV has at least one");
  require_limit(levels, "levels", limits_.levels, "the number of levels");
  require(levels == 1 || batch_.interleave.world == 1,
          "batch.interleave has world {}: with {} levels it must be 1", batch_.interleave.world,
          levels);
  plan.num_levels = levels;
  plan::Header& header = *plan.schedule.header;
  header = {};
  header.num_requests = num_requests_;
  header.q_tokens = static_cast<std::int32_t>(q_begin(num_requests_));
  read_requests(plan);
  for (int level = 0; level < levels; ++level) read_level(input, level, plan);
  read_positions(plan);
}

}  // namespace tilewright
