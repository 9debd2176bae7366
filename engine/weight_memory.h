// SPDX-License-Identifier: Apache-2.0
// Memory for weights, which every step reads from beginning to end: in the machine's large pages,
// where it has them, so that few addresses have to be translated.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <vector>

namespace tilewright::engine {

class WeightMemory {
 public:
  // Aligned to 64 bytes, and there until the end of this object. Error (out_of_memory) when there
  // is none.
  std::byte* allocate(std::size_t bytes);

 private:
  struct Free {
    void operator()(std::byte* piece) const { std::free(piece); }
  };

  std::vector<std::unique_ptr<std::byte, Free>> pieces_;
  std::byte* next_ = nullptr;  // in the last piece
  std::size_t left_ = 0;
};

}  // namespace tilewright::engine
