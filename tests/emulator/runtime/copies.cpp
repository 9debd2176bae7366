// SPDX-License-Identifier: Apache-2.0
// Asynchronous copies: the destination is poison from the issue on, until the copy lands at a
// random time or when somebody must be able to read it.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "runtime/machine.h"

namespace tw::emulator {
namespace {

Copy begin_copy(void* shared, const void* global, u32 bytes, u32 alignment, const char* name) {
  check_shared(shared, bytes, alignment, name);
  if (reinterpret_cast<u64>(global) % alignment != 0) fail_misaligned(global, alignment);
  std::memset(shared, 0xFF, bytes);
  return {static_cast<char*>(shared), static_cast<const char*>(global), bytes, self->groups};
}

void land(const Copy& copy) {
  static const std::vector<char> poison(kUnit, static_cast<char>(0xFF));
  static const std::vector<char> zeros(kUnit, 0);
  for (u32 at = 0; at < copy.bytes; at += kUnit) {
    const u32 bytes = std::min(kUnit, copy.bytes - at);
    char* to = copy.shared + at;
    const char* from = copy.global != nullptr ? copy.global + at : zeros.data();
    // Two threads may copy the same bytes to one place.
    if (std::memcmp(to, poison.data(), bytes) != 0 && std::memcmp(to, from, bytes) != 0) {
      fail(fmt::format("{} was written while an asynchronous copy to it was under way",
                       describe_address(to)));
    }
    std::memcpy(to, from, bytes);
  }
}

// From the copy's first byte on.
template <typename Visit>
void for_each_unit(const Copy& copy, const Visit& visit) {
  const auto first = static_cast<u32>(copy.shared - self->block->shared) / kUnit;
  for (u32 i = 0; i < copy.bytes / kUnit; ++i) visit(first + i);
}

// Its word in shared memory only says that it is one: who overwrites it is found.
constexpr u64 kMbarrierWord = 0x6D62617272696572ULL;

Mbarrier& find_mbarrier(const u64* word) {
  check_shared(word, 8, 8, "an mbarrier");
  auto& all = self->block->mbarriers;
  const auto at =
      std::find_if(all.begin(), all.end(), [&](const Mbarrier& m) { return m.word == word; });
  if (at == all.end() || *word != kMbarrierWord) {
    fail(fmt::format("{} is used as an mbarrier and was not initialised, or was overwritten",
                     describe_address(word)));
  }
  return *at;
}

void count(Mbarrier& mbarrier, i32 arrivals, i64 expected_bytes, i64 landed_bytes) {
  if (arrivals > mbarrier.pending) {
    fail(fmt::format("one arrival more than the {} of a phase of the mbarrier at {}",
                     mbarrier.arrivals, describe_address(mbarrier.word)));
  }
  mbarrier.pending -= arrivals;
  mbarrier.bytes += expected_bytes - landed_bytes;
  if (mbarrier.pending != 0 || mbarrier.bytes != 0) return;
  mbarrier.phase ^= 1;
  mbarrier.pending = mbarrier.arrivals;
  note_progress();
}

void land_bulk_copy() {
  auto& copies = self->block->bulk_copies;
  std::swap(copies[draw(static_cast<u32>(copies.size()))], copies.back());
  const BulkCopy bulk = std::move(copies.back());
  copies.pop_back();
  i64 bytes = 0;
  for (const Copy& copy : bulk.copies) {
    land(copy);
    for_each_unit(copy, [](u32 unit) { self->block->unfenced_by[unit] = 0; });
    bytes += copy.bytes;
  }
  count(find_mbarrier(bulk.mbarrier), 0, 0, bytes);
}

}  // namespace

void issue_copy(void* shared, const void* global, u32 bytes, bool valid) {
  self->copies.push_back(begin_copy(shared, valid ? global : nullptr, bytes, bytes, "cp.async"));
}

void commit_copies() {
  land_copies(0);
  ++self->groups;
}

void wait_for_copies(u32 groups) {
  land_copies(self->groups > groups ? self->groups - groups : 0);
}

void land_copies(u32 group) {
  auto& copies = self->copies;
  for (std::size_t i = 0; i < copies.size();) {
    if (copies[i].group >= group && !may_land_now()) {
      ++i;
      continue;
    }
    const Copy copy = copies[i];
    copies[i] = copies.back();
    copies.pop_back();
    land(copy);
    // Blocks without mbarriers have no wgmma either.
    if (self->block->mbarriers.empty()) continue;
    for_each_unit(copy, [](u32 unit) {
      self->block->unfenced_by[unit] = static_cast<u16>(self->thread + 1);
      self->unfenced.push_back(unit);
    });
  }
}

void fence_copies() {
  for (const u32 unit : self->unfenced) {
    u16& by = self->block->unfenced_by[unit];
    if (by == self->thread + 1) by = 0;
  }
  self->unfenced.clear();
}

void init_mbarrier(u64* word, u32 arrivals) {
  check_shared(word, 8, 8, "an mbarrier");
  auto& all = self->block->mbarriers;
  std::erase_if(all, [&](const Mbarrier& m) { return m.word == word; });
  const auto count = static_cast<i32>(arrivals);
  all.push_back({.word = word, .arrivals = count, .pending = count});
  *word = kMbarrierWord;
}

void arrive_at_mbarrier(u64* word, u32 expected_bytes) {
  interleave();
  count(find_mbarrier(word), 1, expected_bytes, 0);
}

bool mbarrier_passed(const u64* word, u32 parity) {
  if (!self->block->bulk_copies.empty() && draw(2) == 0) land_bulk_copy();
  poll();
  return find_mbarrier(word).phase != parity;
}

void issue_bulk_copy(void* shared, const void* global, u32 bytes, u64* mbarrier) {
  if (bytes == 0 || bytes % kUnit != 0) {
    fail(fmt::format("cp.async.bulk of {} bytes: it must be a positive multiple of {}", bytes,
                     kUnit));
  }
  find_mbarrier(mbarrier);
  self->block->bulk_copies.push_back(
      {{begin_copy(shared, global, bytes, kUnit, "cp.async.bulk")}, mbarrier});
  if (may_land_now()) land_bulk_copy();
}

void issue_box_copy(void* shared, const BoxMap& map, const i32 (&at)[4], u64* mbarrier) {
  constexpr i32 kRowUnits = 8;
  BoxTensor tensor;
  std::memcpy(&tensor, &map, sizeof(tensor));
  find_mbarrier(mbarrier);
  if (reinterpret_cast<u64>(shared) % 128 != 0)
    fail(fmt::format("a box goes to {}: 128 must divide it", shared));
  BulkCopy bulk{{}, mbarrier};
  for (i64 row = 0; row < tensor.box_tokens; ++row) {
    for (i64 unit = 0; unit < kRowUnits; ++unit) {
      const i64 index[4] = {at[0] + unit * 8, at[1] + row, at[2], at[3]};
      const char* from = tensor.data;
      for (i32 dim = 0; dim < 4; ++dim) {
        const bool inside = index[dim] >= 0 && index[dim] < tensor.shape[dim];
        from = inside && from != nullptr ? from + index[dim] * tensor.strides[dim] : nullptr;
      }
      char* const to = static_cast<char*>(shared) + (row * kRowUnits + unit) * kUnit;
      bulk.copies.push_back(begin_copy(swizzled(to), from, kUnit, kUnit, "cp.async.bulk.tensor"));
    }
  }
  self->block->bulk_copies.push_back(std::move(bulk));
  if (may_land_now()) land_bulk_copy();
}

void check_no_bulk_copies() {
  const std::size_t left = self->block->bulk_copies.size();
  if (left == 0) return;
  fail(fmt::format("its block ends while {} copies are under way", left));
}

}  // namespace tw::emulator
