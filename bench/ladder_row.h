// SPDX-License-Identifier: Apache-2.0
// A row of the ladder: the lengths of a batch, where its pages lie, what it counts for.
#pragma once

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

  int requests() const { return static_cast<int>(q_lens.size()); }
  std::int64_t q_tokens() const {
    return std::accumulate(q_lens.begin(), q_lens.end(), std::int64_t{0});
  }
  std::int32_t longest_q() const { return *std::max_element(q_lens.begin(), q_lens.end()); }
  std::int32_t longest_kv() const { return *std::max_element(kv_lens.begin(), kv_lens.end()); }

  // Multiplications and additions of the pairs that attend.
  double flops() const {
    double pairs = 0;
    for (std::size_t r = 0; r < q_lens.size(); ++r) {
      const double q = q_lens[r];
      const double kv = kv_lens[r];
      pairs += q * kv - (causal ? q * (q - 1) / 2 : 0);
    }
    return 4 * pairs * head_dim * qo_heads;
  }

  // Of K and V, once, and of Q and the output, in bf16.
  double bytes() const {
    double tokens = prefix;
    for (const std::int32_t length : kv_lens) tokens += length - prefix;
    return 2 * tokens * kv_heads * head_dim * 2 +
           2 * static_cast<double>(q_tokens()) * qo_heads * head_dim * 2;
  }
};

// A line: name kind qo_heads kv_heads head_dim page_size causal requests, the query lengths, the KV
// lengths, and, where requests share one, the prefix. Error (std::runtime_error) for other lines.
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
  if (!(in >> row.prefix)) row.prefix = 0;
  if (row.prefix % row.page_size != 0) {
    throw std::runtime_error(row.name + " has a prefix that is not of whole pages");
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
