// SPDX-License-Identifier: Apache-2.0
// Block structures that tests change.
#pragma once

#include <tilewright/block_structure.h>

#include <cstdint>
#include <vector>

#include "support/random.h"

namespace tilewright::test {

// The lists of a structure in memory of the test, to change them.
struct BlockListCopy {
  std::vector<std::int32_t> request_rows, indptr, indices;
  std::vector<std::uint8_t> full;
  BlockStructure structure;

  explicit BlockListCopy(const BlockStructure& from) : structure(from) {
    const auto copy = [](const TensorView& view) {
      const auto* data = static_cast<const std::int32_t*>(view.data);
      return std::vector<std::int32_t>(data, data + view.shape[0]);
    };
    request_rows = copy(from.request_rows);
    indptr = copy(from.indptr);
    indices = copy(from.indices);
    const auto* flags = static_cast<const std::uint8_t*>(from.full.data);
    full.assign(flags, flags + from.full.shape[0]);
  }

  const BlockStructure& view() {
    const auto integers = [](const std::vector<std::int32_t>& values) {
      return TensorView(values.data(), DType::i32, {static_cast<std::int64_t>(values.size())});
    };
    structure.request_rows = integers(request_rows);
    structure.indptr = integers(indptr);
    structure.indices = integers(indices);
    structure.full = TensorView(full.data(), DType::u8, {static_cast<std::int64_t>(full.size())});
    return structure;
  }

  // Adds blocks that are not needed, and forgets of some that they are full.
  void loosen(std::int64_t columns, Random& random) {
    std::vector<std::int32_t> new_indptr = {0};
    std::vector<std::int32_t> new_indices;
    std::vector<std::uint8_t> new_full;
    for (std::size_t list = 0; list + 1 < indptr.size(); ++list) {
      std::int32_t at = indptr[list];
      for (std::int32_t block = 0; block < columns; ++block) {
        const bool needed = at < indptr[list + 1] && indices[static_cast<std::size_t>(at)] == block;
        if (needed || random.chance(0.1)) {
          new_indices.push_back(block);
          const bool is_full = needed && full[static_cast<std::size_t>(at)] != 0;
          new_full.push_back(is_full && random.chance(0.7) ? 1 : 0);
        }
        at += needed ? 1 : 0;
      }
      new_indptr.push_back(static_cast<std::int32_t>(new_indices.size()));
    }
    indptr = new_indptr;
    indices = new_indices;
    full = new_full;
  }
};

}  // namespace tilewright::test
