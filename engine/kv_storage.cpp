// SPDX-License-Identifier: Apache-2.0
#include "engine/kv_storage.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "engine/checks.h"

namespace tilewright::engine {

KvStorage::KvStorage(const KvShape& shape)
    : shape_(shape),
      page_bytes_(2 * shape.page_size * shape.kv_heads * shape.head_dim * dtype_bytes(shape.dtype)),
      memory_(nullptr, &std::free) {
  const std::int64_t page_count = shape.layers * shape.pages;
  // Zeroed memory is only backed by pages of the machine once it is written.
  if (page_count <= std::numeric_limits<std::int64_t>::max() / page_bytes_) {
    memory_.reset(
        std::calloc(static_cast<std::size_t>(page_count), static_cast<std::size_t>(page_bytes_)));
  }
  if (memory_ == nullptr) {
    raise(ErrorCode::out_of_memory, "{} KV pages of {} tokens need {} times {} bytes", shape.pages,
          shape.page_size, page_count, page_bytes_);
  }
}

std::byte* KvStorage::page(std::int64_t layer, std::int64_t index) const {
  return static_cast<std::byte*>(memory_.get()) + (layer * shape_.pages + index) * page_bytes_;
}

KvCache KvStorage::layer(std::int64_t index) const {
  return KvCache::combined(
      TensorView(page(index, 0), shape_.dtype,
                 {shape_.pages, 2, shape_.page_size, shape_.kv_heads, shape_.head_dim}));
}

void KvStorage::copy_page(std::int32_t from, std::int32_t to) const {
  for (std::int64_t i = 0; i < shape_.layers; ++i) {
    std::copy_n(page(i, from), page_bytes_, page(i, to));
  }
}

}  // namespace tilewright::engine
