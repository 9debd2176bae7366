// SPDX-License-Identifier: Apache-2.0
// What callers have (document ids, trees as lists) as the tables that ready-made variants read.
#include <tilewright/variants.h>

#include <algorithm>
#include <cmath>

#include "base/checks.h"

namespace tilewright::variants {
namespace {

constexpr std::int64_t kWordBits = 32;

// The number of nodes of a batch's trees.
std::int64_t check_trees(const std::vector<std::int32_t>& qo_indptr) {
  require(!qo_indptr.empty() && qo_indptr[0] == 0, "qo_indptr must begin with 0");
  for (std::size_t i = 1; i < qo_indptr.size(); ++i) {
    require(qo_indptr[i] >= qo_indptr[i - 1], "qo_indptr[{}] is {}: it must not decrease", i,
            qo_indptr[i]);
  }
  return qo_indptr.back();
}

void check_entries(const char* name, std::size_t entries, std::int64_t expected) {
  require(entries == static_cast<std::size_t>(expected), "{} has {} entries: qo_indptr asks for {}",
          name, entries, expected);
}

TreeMask empty_mask(const std::vector<std::int32_t>& qo_indptr) {
  TreeMask mask;
  mask.nodes = check_trees(qo_indptr);
  std::int64_t largest = 1;
  for (std::size_t i = 1; i < qo_indptr.size(); ++i) {
    largest = std::max<std::int64_t>(largest, qo_indptr[i] - qo_indptr[i - 1]);
  }
  mask.words = (largest + kWordBits - 1) / kWordBits;
  mask.bits.assign(static_cast<std::size_t>(mask.nodes * mask.words), 0);
  return mask;
}

void set_bit(TreeMask& mask, std::int64_t row, std::int64_t node) {
  auto& word = mask.bits[static_cast<std::size_t>(row * mask.words + node / kWordBits)];
  word = static_cast<std::int32_t>(static_cast<std::uint32_t>(word) | 1U << (node % kWordBits));
}

// For runs of equal numbers: calls visit(number, begin, end).
template <typename Visitor>
void for_each_run(const std::vector<std::int32_t>& numbers, const Visitor& visit) {
  for (std::size_t begin = 0; begin < numbers.size();) {
    std::size_t end = begin;
    while (end < numbers.size() && numbers[end] == numbers[begin]) ++end;
    visit(numbers[begin], begin, end);
    begin = end;
  }
}

}  // namespace

std::vector<float> alibi_slopes(int num_heads) {
  require(num_heads >= 1, "num_heads is {}: it must be at least 1", num_heads);
  std::vector<float> slopes;
  // Counts that are not powers of two take the rest from the series of twice the power below.
  int power = 1;
  while (2 * power <= num_heads) power *= 2;
  for (int i = 1; i <= power; ++i) {
    slopes.push_back(static_cast<float>(std::exp2(-8.0 * i / power)));
  }
  for (int i = 1; static_cast<int>(slopes.size()) < num_heads; i += 2) {
    slopes.push_back(static_cast<float>(std::exp2(-4.0 * i / power)));
  }
  return slopes;
}

RowBounds document_bounds(const std::vector<std::int32_t>& document) {
  RowBounds bounds;
  for_each_run(document, [&](std::int32_t, std::size_t begin, std::size_t end) {
    bounds.begin.resize(end, static_cast<std::int32_t>(begin));
    bounds.end.resize(end, static_cast<std::int32_t>(end));
  });
  return bounds;
}

std::vector<std::int32_t> span_ends(const std::vector<std::int32_t>& span) {
  std::vector<std::int32_t> ends;
  for_each_run(span, [&](std::int32_t number, std::size_t, std::size_t end) {
    ends.resize(end, number == 0 ? 0 : static_cast<std::int32_t>(end));
  });
  return ends;
}

TreeMask TreeMask::from_parents(const std::vector<std::int32_t>& qo_indptr,
                                const std::vector<std::int32_t>& parents) {
  TreeMask mask = empty_mask(qo_indptr);
  check_entries("parents", parents.size(), mask.nodes);
  for (std::size_t r = 0; r + 1 < qo_indptr.size(); ++r) {
    const std::int64_t first = qo_indptr[r];
    const std::int64_t count = qo_indptr[r + 1] - first;
    for (std::int64_t node = 0; node < count; ++node) {
      std::int64_t steps = 0;
      for (std::int64_t at = node; at >= 0;
           at = parents[static_cast<std::size_t>(first + at)], ++steps) {
        require(at < count, "parents of request {} has {}: it has {} nodes", r, at, count);
        require(steps < count, "parents of request {} has a cycle through node {}", r, node);
        set_bit(mask, first + node, at);
      }
    }
  }
  return mask;
}

TreeMask TreeMask::from_links(const std::vector<std::int32_t>& qo_indptr,
                              const std::vector<std::int32_t>& next_token,
                              const std::vector<std::int32_t>& next_sibling) {
  const std::int64_t nodes = check_trees(qo_indptr);
  check_entries("next_token", next_token.size(), nodes);
  check_entries("next_sibling", next_sibling.size(), nodes);
  std::vector<std::int32_t> parents(static_cast<std::size_t>(nodes), -1);
  for (std::size_t r = 0; r + 1 < qo_indptr.size(); ++r) {
    const auto first = static_cast<std::size_t>(qo_indptr[r]);
    const std::int32_t count = qo_indptr[r + 1] - qo_indptr[r];
    for (std::int32_t node = 0; node < count; ++node) {
      std::int32_t child = next_token[first + static_cast<std::size_t>(node)];
      while (child >= 0) {
        require(child < count, "next_token and next_sibling of request {} have {}: it has {} nodes",
                r, child, count);
        std::int32_t& parent = parents[first + static_cast<std::size_t>(child)];
        require(child > 0 && parent < 0,
                "next_token and next_sibling of request {} lead to node {} twice", r, child);
        parent = node;
        child = next_sibling[first + static_cast<std::size_t>(child)];
      }
    }
  }
  return from_parents(qo_indptr, parents);
}

TreeMask TreeMask::from_matrices(const std::vector<std::int32_t>& qo_indptr,
                                 const std::vector<std::uint8_t>& seen) {
  TreeMask mask = empty_mask(qo_indptr);
  std::int64_t pairs = 0;
  for (std::size_t r = 0; r + 1 < qo_indptr.size(); ++r) {
    const std::int64_t count = qo_indptr[r + 1] - qo_indptr[r];
    pairs += count * count;
  }
  check_entries("seen", seen.size(), pairs);
  std::size_t pair = 0;
  for (std::size_t r = 0; r + 1 < qo_indptr.size(); ++r) {
    const std::int64_t first = qo_indptr[r];
    const std::int64_t count = qo_indptr[r + 1] - first;
    for (std::int64_t node = 0; node < count; ++node) {
      for (std::int64_t other = 0; other < count; ++other) {
        if (seen[pair++] != 0) set_bit(mask, first + node, other);
      }
    }
  }
  return mask;
}

TensorView TreeMask::view() const {
  return TensorView(bits.data(), DType::i32, {nodes, words});
}

}  // namespace tilewright::variants
