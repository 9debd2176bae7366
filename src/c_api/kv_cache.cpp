// SPDX-License-Identifier: Apache-2.0
#include <tilewright/c_kv_cache.h>
#include <tilewright/kv_cache.h>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

namespace {

KvLayout read_layout(std::int32_t layout) {
  return read_enum("layout", layout, KvLayout::hnd);
}

void write_cache(tw_kv_cache* cache, const KvCache& value) {
  tw_kv_cache result{};
  result.k = c_tensor(value.k);
  result.v = c_tensor(value.v);
  write_struct("cache", cache, result);
}

}  // namespace

namespace tilewright::c_api {

KvCache read_kv_cache(const Path& path, const tw_kv_cache& cache) {
  return {read_tensor({path, "k"}, cache.k), read_tensor({path, "v"}, cache.v)};
}

}  // namespace tilewright::c_api

tw_status tw_kv_cache_combined(const tw_tensor* kv, int32_t layout, int32_t kv_dim,
                               tw_kv_cache* cache) {
  return guarded([&] {
    write_cache(cache, KvCache::combined(read_tensor("kv", kv), read_layout(layout), kv_dim));
  });
}

tw_status tw_kv_cache_separate(const tw_tensor* k, const tw_tensor* v, int32_t layout,
                               tw_kv_cache* cache) {
  return guarded([&] {
    write_cache(cache,
                KvCache::separate(read_tensor("k", k), read_tensor("v", v), read_layout(layout)));
  });
}

tw_status tw_kv_cache_interleaved(const tw_tensor* kv, int32_t head_dim, int32_t layout,
                                  tw_kv_cache* cache) {
  return guarded([&] {
    write_cache(cache, KvCache::interleaved(read_tensor("kv", kv), head_dim, read_layout(layout)));
  });
}
