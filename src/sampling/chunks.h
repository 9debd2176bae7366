// SPDX-License-Identifier: Apache-2.0
// Long lists in chunks for threads. Each chunk writes what it makes into a region of its own in an
// output list; the regions are then moved together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/parallel.h"
#include "sampling/row_passes.h"

namespace tilewright {

inline std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

class Chunks {
 public:
  // Without `parallel` every list is one chunk.
  explicit Chunks(bool parallel) : parallel_(parallel) {}

  std::int64_t count(std::int64_t entries) const {
    return parallel_ ? divide_up(entries, kEntries) : 1;
  }

  // body(chunk, begin, end)
  template <typename Body>
  void run(std::int64_t entries, const Body& body) const {
    if (parallel_) {
      parallel_for(entries, kEntries, [&](std::int64_t begin, std::int64_t end) {
        body(begin / kEntries, begin, end);
      });
    } else {
      body(std::int64_t{0}, std::int64_t{0}, entries);
    }
  }

  // Makes room for regions of chunks that write at most what they read.
  template <typename T>
  void reserve(std::int64_t entries, std::vector<T>& list) const {
    const auto capacity = static_cast<std::size_t>(entries + count(entries) * kListPadding);
    if (list.size() < capacity) list.resize(capacity);
  }

  template <typename T>
  static T* region(std::vector<T>& list, std::int64_t chunk) {
    return list.data() + chunk * (kEntries + kListPadding);
  }

  // The first `entries` entries of a chunk's region go to list[to].
  template <typename T>
  static void move_together(std::vector<T>& list, std::int64_t chunk, std::int64_t entries,
                            std::int64_t to) {
    if (chunk == 0) return;
    std::memmove(list.data() + to, region(list, chunk),
                 static_cast<std::size_t>(entries) * sizeof(T));
  }

 private:
  static constexpr std::int64_t kEntries = 16384;  // worth a thread
  static_assert(kEntries % kMassBlock == 0 && kMassBlock % kMaximumBlock == 0);

  bool parallel_;
};

}  // namespace tilewright
