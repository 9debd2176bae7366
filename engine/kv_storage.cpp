// SPDX-License-Identifier: Apache-2.0
#include "engine/kv_storage.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "engine/checks.h"

namespace tilewright::engine {

KvCache KvShape::layer(void* memory, std::int64_t index, Device device) const {
  return KvCache::combined(TensorView(static_cast<std::byte*>(memory) + page_offset(index, 0),
                                      dtype, {pages, 2, page_size, kv_heads, head_dim}, device));
}

std::vector<KvCache> KvShape::all_layers(void* memory, Device device) const {
  std::vector<KvCache> all;
  for (std::int64_t i = 0; i < layers; ++i) all.push_back(layer(memory, i, device));
  return all;
}

KvStorage::KvStorage(const KvShape& shape) : shape_(shape), memory_(nullptr, &std::free) {
  const std::int64_t page_count = shape.layers * shape.pages;
  const std::int64_t page_bytes = shape.page_bytes();
  // Zeroed memory is only backed by pages of the machine once it is written.
  if (page_count <= std::numeric_limits<std::int64_t>::max() / page_bytes) {
    memory_.reset(
        std::calloc(static_cast<std::size_t>(page_count), static_cast<std::size_t>(page_bytes)));
  }
  if (memory_ == nullptr) {
    raise(ErrorCode::out_of_memory, "{} KV pages of {} tokens need {} times {} bytes", shape.pages,
          shape.page_size, page_count, page_bytes);
  }
}

KvCache KvStorage::layer(std::int64_t index) const {
  return shape_.layer(memory_.get(), index);
}

void KvStorage::copy_page(std::int32_t from, std::int32_t to) const {
  auto* const memory = static_cast<std::byte*>(memory_.get());
  for (std::int64_t i = 0; i < shape_.layers; ++i) {
    std::copy_n(memory + shape_.page_offset(i, from), shape_.page_bytes(),
                memory + shape_.page_offset(i, to));
  }
}

}  // namespace tilewright::engine
