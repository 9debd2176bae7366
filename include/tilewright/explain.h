// SPDX-License-Identifier: Apache-2.0
// What a variant's mask looks like to the planner: a map of tiles, as text and as a picture.
#pragma once

#include <tilewright/attention.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tilewright {

enum class TileKind : std::uint8_t { empty, mixed, full };

struct ExplainOptions {
  std::int64_t q_tile = 64;    // query tokens of a tile
  std::int64_t kv_block = 64;  // keys of a tile
  int num_qo_heads = 1;        // for masks that read heads: a tile is that of the first KV head
  int num_kv_heads = 1;
  std::int64_t q_pos_offset = -1;  // of the first query; negative: the queries are the last tokens
};

struct TILEWRIGHT_API MaskMap {
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
  std::int64_t q_tile = 0;
  std::int64_t kv_block = 0;
  std::int64_t rows = 0;  // of tiles
  std::int64_t columns = 0;
  std::string mask_class;       // "none", "closed form", "row bounds" or "elementwise"
  std::vector<TileKind> tiles;  // [rows, columns], as a plan knows them: mixed where it does not
  std::vector<TileKind> exact;  // as an evaluation of every pair shows them; block_structure()
                                // finds these
  std::int64_t pairs = 0;       // (query, key) that attend, of q_len * kv_len; for head 0
  // [q_len, kv_len], for head 0: 1 where the query attends. Left out beyond kMaxPairs.
  std::vector<std::uint8_t> seen;
  static constexpr std::int64_t kMaxPairs = 1 << 16;

  std::int64_t count(TileKind kind) const;
  // Shares of the tiles that a plan skips, and that it would with a block structure.
  double saved() const;
  double saved_by_structure() const;
  std::string text() const;  // counts, and a map of letters: . empty, + mixed, # full
  std::string svg() const;   // the map as a picture, with its pairs where there are few
};

// The map of one request. `params` has the mask's parameters, whenever they bind; tables by request
// or query token are those of this one request.
TILEWRIGHT_API MaskMap explain(const Variant& variant, std::int64_t q_len, std::int64_t kv_len,
                               const std::vector<ParamValue>& params = {},
                               const ExplainOptions& options = {});

}  // namespace tilewright
