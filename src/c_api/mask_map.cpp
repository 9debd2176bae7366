// SPDX-License-Identifier: Apache-2.0
#include <tilewright/c_variant.h>
#include <tilewright/explain.h>

#include <algorithm>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

namespace {

static_assert(static_cast<int>(TileKind::mixed) == TW_TILE_MIXED);
static_assert(static_cast<int>(TileKind::full) == TW_TILE_FULL);

ExplainOptions read_options(const tw_explain_options* options) {
  ExplainOptions result;
  if (options == nullptr) return result;
  const tw_explain_options given = read_struct("options", options);
  if (given.q_tile != 0) result.q_tile = given.q_tile;
  if (given.kv_block != 0) result.kv_block = given.kv_block;
  if (given.num_qo_heads != 0) result.num_qo_heads = given.num_qo_heads;
  if (given.num_kv_heads != 0) result.num_kv_heads = given.num_kv_heads;
  if (given.q_pos_offset != nullptr) result.q_pos_offset = *given.q_pos_offset;
  return result;
}

const std::uint8_t* bytes_of(const std::vector<TileKind>& tiles) {
  static_assert(sizeof(TileKind) == 1);
  return reinterpret_cast<const std::uint8_t*>(tiles.data());
}

}  // namespace

tw_status tw_explain(const tw_variant* variant, int64_t q_len, int64_t kv_len,
                     const tw_param* params, size_t num_params, const tw_explain_options* options,
                     tw_mask_map** map) {
  return guarded([&] {
    hand_out("map", map,
             explain(required("variant", variant).variant, q_len, kv_len,
                     read_params("params", params, num_params), read_options(options)));
  });
}

tw_status tw_mask_map_get(const tw_mask_map* map, tw_mask_map_info* info) {
  return guarded([&] {
    const MaskMap& held = required("map", map).map;
    tw_mask_map_info result{};
    result.rows = held.rows;
    result.columns = held.columns;
    result.pairs = held.pairs;
    result.saved = held.saved();
    result.saved_by_structure = held.saved_by_structure();
    result.mask_class = held.mask_class.c_str();
    result.tiles = bytes_of(held.tiles);
    result.exact = bytes_of(held.exact);
    result.seen = held.seen.empty() ? nullptr : held.seen.data();
    result.text = map->text.c_str();
    write_struct("info", info, result);
  });
}

tw_status tw_mask_map_svg(const tw_mask_map* map, char* buffer, size_t capacity, size_t* length) {
  return guarded([&] {
    if (capacity > 0) required("buffer", buffer);
    required("length", length);
    const std::string picture = required("map", map).map.svg();
    if (capacity > 0) {
      const std::size_t copied = std::min(capacity - 1, picture.size());
      std::copy_n(picture.data(), copied, buffer);
      buffer[copied] = '\0';
    }
    *length = picture.size();
  });
}

void tw_mask_map_destroy(tw_mask_map* map) {
  give_back(map);
}
