// SPDX-License-Identifier: Apache-2.0
// What a batch means, by the rules of <tilewright/plan.h> and <tilewright/kv_cache.h>.
#include <fmt/format.h>

#include <algorithm>

#include "fuzz/batch_case.h"

namespace tilewright::fuzz {
namespace {

using Form = PageTable::Form;
__extension__ using Wide = __int128;

constexpr std::int64_t kLast = (std::int64_t{1} << 31) - 1;  // position

struct Refused {
  std::string why;
};

template <typename... Args>
void rule(bool holds, fmt::format_string<Args...> format, Args&&... args) {
  if (!holds) throw Refused{fmt::format(format, std::forward<Args>(args)...)};
}

void rule_integers(const char* name, const Ints& tensor, std::int64_t least) {
  rule(tensor.given && tensor.dtype == DType::i32 && tensor.columns < 0 && tensor.size() >= least,
       "{} is no list of {} integers", name, least);
}

void rule_indptr(const char* name, const Ints& indptr, std::int64_t count, bool from_zero) {
  rule_integers(name, indptr, count + 1);
  rule(from_zero ? indptr[0] == 0 : indptr[0] >= 0, "{} begins with {}", name, indptr[0]);
  for (std::int64_t i = 0; i < count; ++i) {
    rule(indptr[i] <= indptr[i + 1], "{} decreases", name);
  }
}

class Reader {
 public:
  Reader(const BatchCase& batch, const Limits& limits) : batch_(batch), limits_(limits) {}

  Meaning read() {
    try {
      read_queries();
      rule(!batch_.levels.empty(), "there are no levels");
      rule(std::ssize(batch_.levels) <= limits_.levels, "there are too many levels");
      rule(batch_.levels.size() == 1 || batch_.interleave.world == 1, "levels and a shard");
      seen_.assign(meaning_.tokens.size(), 0);
      for (std::size_t level = 0; level < batch_.levels.size(); ++level) read_level(level);
      read_positions();
    } catch (const Refused& refused) {
      meaning_.wrong_in_update = refused.why;
    }
    return std::move(meaning_);
  }

 private:
  void read_queries() {
    const Ints& indptr = batch_.qo_indptr;
    rule_integers("qo_indptr", indptr, 1);
    requests_ = indptr.size() - 1;
    if (batch_.num_requests.given) {
      rule_integers("num_requests", batch_.num_requests, 1);
      rule(batch_.num_requests.size() == 1 && batch_.num_requests[0] >= 0 &&
               batch_.num_requests[0] <= requests_,
           "num_requests");
      requests_ = batch_.num_requests[0];
    }
    rule(requests_ <= limits_.requests, "too many requests");
    rule_indptr("qo_indptr", indptr, requests_, true);
    rule(indptr[requests_] <= limits_.q_tokens, "too many query tokens");
    for (std::int64_t r = 0; r < requests_; ++r) {
      rule(indptr[r + 1] - indptr[r] <= limits_.q_len, "too long queries");
      for (std::int64_t t = indptr[r]; t < indptr[r + 1]; ++t)
        meaning_.tokens.push_back({r, 0, {}});
    }
    if (batch_.kv_lens.given) rule_integers("kv_lens", batch_.kv_lens, requests_);
    const KvInterleave& shard = batch_.interleave;
    rule(shard.size >= 1 && shard.size <= kLast && shard.world >= 1 && shard.world <= kLast &&
             shard.rank >= 0 && shard.rank < shard.world,
         "the shard is none");
    rule(shard.world == 1 || batch_.q_pos.given || batch_.q_pos_offset.given,
         "a shard needs positions");
    rule(!batch_.q_pos.given || !batch_.q_pos_offset.given, "positions twice");
    if (batch_.q_pos.given) rule_integers("q_pos", batch_.q_pos, std::ssize(meaning_.tokens));
    if (batch_.q_pos_offset.given) {
      rule_integers("q_pos_offset", batch_.q_pos_offset, requests_);
      for (std::int64_t r = 0; r < requests_; ++r) {
        rule(batch_.q_pos_offset[r] + indptr[r + 1] - indptr[r] - 1 <= kLast,
             "a query position beyond 32 bits");
      }
    }
  }

  std::int64_t capacity(const LevelCase& level, std::int64_t row) const {
    switch (level.form) {
      case Form::padded:
        return level.indices.columns * level.page_size;
      case Form::csr:
        return (level.indptr[row + 1] - level.indptr[row]) * level.page_size;
      case Form::ragged:
        return level.indptr[row + 1] - level.indptr[row];
      default:
        return level.page_size;
    }
  }

  void rule_table(const LevelCase& level, std::int64_t rows) {
    if (level.form == Form::contiguous) {
      rule(level.page_size >= 0, "a negative length");
      return;
    }
    rule(level.page_size >= 1 && level.page_size <= 1024, "page_size");
    if (level.form == Form::padded) {
      rule(level.indices.given && level.indices.columns >= 0 && level.indices.dtype == DType::i32,
           "indices are no matrix");
      if (level.row_ids.given) {
        rule_integers("row_ids", level.row_ids, rows);
      } else {
        rule(level.indices.rows() >= rows, "indices has too few rows");
      }
      return;
    }
    rule_indptr("indptr", level.indptr, rows, false);
    if (level.form == Form::ragged) {
      rule(level.page_size == 1, "page_size of a ragged table");
      return;
    }
    rule_integers("indices", level.indices, level.indptr[rows]);
    if (level.last_page_len.given) rule_integers("last_page_len", level.last_page_len, rows);
  }

  std::int64_t length_of(const LevelCase& level, std::int64_t row, bool of_requests) {
    const bool only = batch_.levels.size() == 1 && of_requests;
    const Ints* lengths = level.kv_lens.given            ? &level.kv_lens
                          : only && batch_.kv_lens.given ? &batch_.kv_lens
                                                         : nullptr;
    const std::int64_t room = capacity(level, row);
    if (lengths != nullptr) {
      rule((*lengths)[row] >= 0 && (*lengths)[row] <= room, "a length beyond its pages");
      return (*lengths)[row];
    }
    if (level.form == Form::csr && level.last_page_len.given) {
      if (room == 0) return 0;
      const std::int64_t last = level.last_page_len[row];
      rule(last >= 1 && last <= level.page_size, "last_page_len");
      return room - level.page_size + last;
    }
    rule(level.form == Form::ragged || level.form == Form::contiguous, "no lengths");
    return room;
  }

  std::int64_t page_of(const LevelCase& level, std::int64_t row, std::int64_t number) {
    switch (level.form) {
      case Form::padded: {
        const std::int64_t line = level.row_ids.given ? level.row_ids[row] : row;
        rule(line >= 0 && line < level.indices.rows(), "row_ids out of range");
        return level.indices[line * level.indices.columns + number];
      }
      case Form::csr:
        return level.indices[level.indptr[row] + number];
      case Form::ragged:
        return level.indptr[row] + number;
      default:
        return row;
    }
  }

  void read_level(std::size_t index) {
    const LevelCase& level = batch_.levels[index];
    const bool of_requests = !level.qo_indptr.given;
    const auto tokens = std::ssize(meaning_.tokens);
    if (level.q_rows.given) {
      rule_integers("q_rows", level.q_rows, 0);
      rule(!of_requests, "q_rows without qo_indptr");
    }
    std::int64_t rows = requests_;
    if (!of_requests) {
      rule_integers("levels.qo_indptr", level.qo_indptr, 1);
      rows = level.qo_indptr.size() - 1;
      rule(rows <= limits_.requests, "too many rows");
      rule_indptr("levels.qo_indptr", level.qo_indptr, rows, false);
      rule(level.qo_indptr[rows] <= (level.q_rows.given ? level.q_rows.size() : tokens),
           "rows of tokens that are not there");
    }
    rule_table(level, rows);
    if (level.kv_lens.given) rule_integers("levels.kv_lens", level.kv_lens, rows);
    if (level.kv_pos.given) {
      rule_integers("levels.kv_pos", level.kv_pos, rows);
      rule(batch_.interleave.world == 1, "kv_pos and a shard");
    }
    const Ints& indptr = of_requests ? batch_.qo_indptr : level.qo_indptr;
    for (std::int64_t row = 0; row < rows; ++row) {
      const std::int64_t length = length_of(level, row, of_requests);
      rule(length <= limits_.kv_len, "a row that is too long");
      if (indptr[row] == indptr[row + 1]) continue;
      std::vector<std::int64_t> members;
      for (std::int64_t i = indptr[row]; i < indptr[row + 1]; ++i) {
        members.push_back(level.q_rows.given ? level.q_rows[i] : i);
        rule(members.back() >= 0 && members.back() < tokens, "q_rows out of range");
      }
      add_keys(index, row, length, members);
    }
  }

  void add_keys(std::size_t index, std::int64_t row, std::int64_t length,
                const std::vector<std::int64_t>& members) {
    const LevelCase& level = batch_.levels[index];
    const std::int64_t page_size = std::max<std::int64_t>(level.page_size, 1);
    const auto keys_of = [&](std::int64_t token) -> auto& {
      return meaning_.tokens[static_cast<std::size_t>(token)].keys;
    };
    const bool plain = batch_.levels.size() == 1 && !level.qo_indptr.given;
    std::int64_t first = plain ? 0 : std::ssize(keys_of(members[0]));
    if (level.kv_pos.given) first = level.kv_pos[row];
    std::vector<KeyPlace> keys;
    for (std::int64_t i = 0; i < length; ++i) {
      const std::int64_t page = page_of(level, row, i / page_size);
      rule(page >= 0, "a negative page");
      if (page >= level.cache_pages) meaning_.wrong_in_run = "a page that the cache does not have";
      keys.push_back({static_cast<int>(index), page, i % page_size, position(first, i)});
    }
    for (const std::int64_t token : members) {
      std::uint32_t& seen = seen_[static_cast<std::size_t>(token)];
      rule((seen >> index & 1U) == 0, "a token in two rows of a level");
      seen |= 1U << index;
      auto& all = keys_of(token);
      rule(plain || level.kv_pos.given || std::ssize(all) == first, "no kv_pos");
      all.insert(all.end(), keys.begin(), keys.end());
      rule(std::ssize(all) <= limits_.kv_len, "too many keys");
    }
  }

  // Of key i of a row whose first key is at `first`.
  std::int64_t position(std::int64_t first, std::int64_t i) {
    const KvInterleave& shard = batch_.interleave;
    const Wide at = first + i;
    const Wide place =
        shard.world == 1
            ? at
            : (at / shard.size * shard.world + shard.rank) * shard.size + at % shard.size;
    rule(place <= kLast, "a position beyond 32 bits");
    return static_cast<std::int64_t>(place);
  }

  void read_positions() {
    std::vector<std::int64_t> longest(static_cast<std::size_t>(requests_), 0);
    for (const TokenMeaning& token : meaning_.tokens) {
      auto& most = longest[static_cast<std::size_t>(token.request)];
      most = std::max<std::int64_t>(most, std::ssize(token.keys));
    }
    for (std::int64_t t = 0; t < std::ssize(meaning_.tokens); ++t) {
      TokenMeaning& token = meaning_.tokens[static_cast<std::size_t>(t)];
      const std::int64_t begin = batch_.qo_indptr[token.request];
      const std::int64_t end = batch_.qo_indptr[token.request + 1];
      token.q_pos = longest[static_cast<std::size_t>(token.request)] - (end - begin) + (t - begin);
      if (batch_.q_pos.given) token.q_pos = batch_.q_pos[t];
      if (batch_.q_pos_offset.given) token.q_pos = batch_.q_pos_offset[token.request] + t - begin;
    }
  }

  const BatchCase& batch_;
  const Limits& limits_;
  Meaning meaning_;
  std::int64_t requests_ = 0;
  std::vector<std::uint32_t> seen_;  // of each token: a bit for each level
};

}  // namespace

Meaning meaning_of(const BatchCase& batch, const Limits& limits) {
  return Reader(batch, limits).read();
}

}  // namespace tilewright::fuzz
