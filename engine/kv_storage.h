// SPDX-License-Identifier: Apache-2.0
// The memory of a paged KV cache for all layers.
#pragma once

#include <tilewright/tilewright.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace tilewright::engine {

struct KvShape {
  std::int64_t layers = 1;
  std::int64_t pages = 0;
  std::int64_t page_size = 16;
  std::int64_t kv_heads = 1;
  std::int64_t head_dim = 0;
  DType dtype = DType::f32;

  // In memory: layer by layer, each [pages, 2, page_size, kv_heads, head_dim].
  std::int64_t page_bytes() const {
    return 2 * page_size * kv_heads * head_dim * dtype_bytes(dtype);
  }
  std::int64_t bytes() const { return layers * pages * page_bytes(); }
  std::int64_t page_offset(std::int64_t layer, std::int64_t page) const {
    return (layer * pages + page) * page_bytes();
  }
  KvCache layer(void* memory, std::int64_t index, Device device = {}) const;
  std::vector<KvCache> all_layers(void* memory, Device device = {}) const;
};

class KvStorage {
 public:
  // Error (out_of_memory) when there is none.
  explicit KvStorage(const KvShape& shape);

  KvCache layer(std::int64_t index) const;
  // K and V of a page, in all layers.
  void copy_page(std::int32_t from, std::int32_t to) const;
  std::int64_t page_size() const { return shape_.page_size; }

 private:
  KvShape shape_;
  std::unique_ptr<void, void (*)(void*)> memory_;
};

}  // namespace tilewright::engine
