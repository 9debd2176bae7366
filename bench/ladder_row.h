// SPDX-License-Identifier: Apache-2.0
// A row of the ladder: the lengths of a batch, where its pages lie, what it counts for.
#pragma once

#include <tilewright/tensor_view.h>

#include <algorithm>
#include <cstdint>
#include <istream>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace tilewright::bench {

using Ints = std::vector<std::int32_t>;

struct LadderRow {
  std::string name;
  std::string kind;
  int qo_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  std::int32_t page_size = 0;
  bool causal = true;
  Ints q_lens;
  Ints kv_lens;             // with the prefix
  std::int32_t prefix = 0;  // tokens that all requests share, whole pages: a level of its own
  std::int32_t window = 0;  // keys that a query sees at most, its own position's among them; 0: all
  bool sinks = false;       // a learned logit a head in the denominator of each row
  DType kv_dtype = DType::bf16;
  bool zeros = false;  // queries, keys and values are zeros, which take less power to multiply
  // 0, or: the row is timed once more under limits that leave room for a prefill of so many tokens.
  std::int32_t prefill_limit = 0;

  int requests() const { return static_cast<int>(q_lens.size()); }
  std::int64_t q_tokens() const {
    return std::accumulate(q_lens.begin(), q_lens.end(), std::int64_t{0});
  }
  std::int32_t longest_q() const { return *std::max_element(q_lens.begin(), q_lens.end()); }
  std::int32_t longest_kv() const { return *std::max_element(kv_lens.begin(), kv_lens.end()); }

  // The keys [first_key, end_key) are those that query token i of request r attends to.
  std::int32_t end_key(std::size_t r, std::int32_t i) const {
    return causal ? kv_lens[r] - q_lens[r] + i + 1 : kv_lens[r];
  }
  std::int32_t first_key(std::size_t r, std::int32_t i) const {
    return window > 0 ? std::max(0, end_key(r, i) - window) : 0;
  }

  // Multiplications and additions of the pairs that attend.
  double flops() const {
    double pairs = 0;
    for (std::size_t r = 0; r < q_lens.size(); ++r) {
      for (std::int32_t i = 0; i < q_lens[r]; ++i) pairs += end_key(r, i) - first_key(r, i);
    }
    return 4 * pairs * head_dim * qo_heads;
  }

  // Of keys and values that any query attends to, once.
  double kv_bytes() const {
    double tokens = prefix;
    for (std::size_t r = 0; r < kv_lens.size(); ++r) {
      tokens += kv_lens[r] - prefix - first_key(r, 0);
    }
    return 2 * tokens * kv_heads * head_dim * (kv_dtype == DType::bf16 ? 2 : 1);
  }

  // Of K and V, once, and of Q and the output, in bf16.
  double bytes() const {
    return kv_bytes() + 2 * static_cast<double>(q_tokens()) * qo_heads * head_dim * 2;
  }
};

// Sets the option `text`, name=value, of a row.
inline void read_ladder_option(LadderRow& row, const std::string& text) {
  const std::size_t at = text.find('=');
  const std::string name = text.substr(0, at);
  const std::string value = at == std::string::npos ? "" : text.substr(at + 1);
  const auto number = [&] {
    std::int32_t result = -1;
    if (!(std::istringstream(value) >> result) || result < 0) {
      throw std::runtime_error(row.name + " has the option " + text + ": not a number");
    }
    return result;
  };
  if (name == "prefix") {
    row.prefix = number();
  } else if (name == "window") {
    row.window = number();
  } else if (name == "sinks") {
    row.sinks = number() != 0;
  } else if (name == "prefill_limit") {
    row.prefill_limit = number();
  } else if (name == "zeros") {
    row.zeros = number() != 0;
  } else if (name == "kv_dtype" && (value == "bf16" || value == "f8e4m3")) {
    row.kv_dtype = value == "bf16" ? DType::bf16 : DType::f8e4m3;
  } else {
    throw std::runtime_error(row.name + " has an option that is not known: " + text);
  }
}

// A line: name kind qo_heads kv_heads head_dim page_size causal requests, the query lengths, the KV
// lengths, and options as name=value: prefix, window, sinks (0 or 1), kv_dtype (bf16 or f8e4m3),
// prefill_limit, zeros (0 or 1). Error (std::runtime_error) for other lines.
inline LadderRow read_ladder_row(const std::string& line) {
  std::istringstream in(line);
  LadderRow row;
  std::size_t requests = 0;
  in >> row.name >> row.kind >> row.qo_heads >> row.kv_heads >> row.head_dim >> row.page_size >>
      row.causal >> requests;
  if (!in || requests == 0 || requests > 65536 || row.page_size < 1) {
    throw std::runtime_error("no row of the ladder: " + line.substr(0, 80));
  }
  row.q_lens.resize(requests);
  row.kv_lens.resize(requests);
  for (std::int32_t& length : row.q_lens) in >> length;
  for (std::int32_t& length : row.kv_lens) in >> length;
  if (!in) throw std::runtime_error(row.name + " has fewer lengths than requests");
  for (std::string option; in >> option;) read_ladder_option(row, option);
  if (row.prefix % row.page_size != 0) {
    throw std::runtime_error(row.name + " has a prefix that is not of whole pages");
  }
  if (row.window > 0 && (!row.causal || row.prefix > 0)) {
    throw std::runtime_error(row.name + " has a window: rows with one are causal, without prefix");
  }
  if (row.prefill_limit > 0 && row.prefix > 0) {
    throw std::runtime_error(row.name + " has a prefix: its plan is for prefill anyway");
  }
  return row;
}

// Pages in random order. Tables are padded to the same number of columns.
struct LadderPages {
  std::int32_t count = 0;
  Ints prefix;     // [prefix pages]
  Ints own, flat;  // [requests, columns]: without and with the prefix
  std::int64_t own_columns = 0;
  std::int64_t flat_columns = 0;

  explicit LadderPages(const LadderRow& row) {
    const std::int32_t prefix_pages = row.prefix / row.page_size;
    const auto pages_of = [&](std::int32_t tokens) {
      return (tokens + row.page_size - 1) / row.page_size;
    };
    count = prefix_pages;
    for (const std::int32_t length : row.kv_lens) count += pages_of(length - row.prefix);
    own_columns = pages_of(row.longest_kv() - row.prefix);
    flat_columns = own_columns + prefix_pages;
    Ints ids(static_cast<std::size_t>(count));
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::minstd_rand(1));
    prefix.assign(ids.begin(), ids.begin() + prefix_pages);
    auto next = ids.begin() + prefix_pages;
    for (const std::int32_t length : row.kv_lens) {
      const std::int64_t pages = pages_of(length - row.prefix);
      flat.insert(flat.end(), prefix.begin(), prefix.end());
      for (Ints* table : {&own, &flat}) {
        table->insert(table->end(), next, next + pages);
        table->insert(table->end(), static_cast<std::size_t>(own_columns - pages), 0);
      }
      next += pages;
    }
  }
};

}  // namespace tilewright::bench
