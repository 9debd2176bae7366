// SPDX-License-Identifier: Apache-2.0
#include "engine/weight_memory.h"

#include <sys/mman.h>

#include <algorithm>

#include "engine/checks.h"

namespace tilewright::engine {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kLargePage = std::size_t{1} << 21;
constexpr std::size_t kLeastPiece = 16 * kLargePage;  // layers may be smaller than a large page

constexpr std::size_t round_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

std::byte* WeightMemory::allocate(std::size_t bytes) {
  bytes = round_up(bytes, kAlignment);
  if (left_ < bytes) {
    const std::size_t piece_bytes = round_up(std::max(bytes, kLeastPiece), kLargePage);
    auto* const piece = static_cast<std::byte*>(std::aligned_alloc(kLargePage, piece_bytes));
    if (piece == nullptr) {
      raise(ErrorCode::out_of_memory, "the weights of a linear layer need {} bytes", bytes);
    }
    pieces_.emplace_back(piece);
#ifdef MADV_HUGEPAGE
    madvise(piece, piece_bytes, MADV_HUGEPAGE);  // a wish
#endif
    next_ = piece;
    left_ = piece_bytes;
  }
  std::byte* const memory = next_;
  next_ += bytes;
  left_ -= bytes;
  return memory;
}

}  // namespace tilewright::engine
