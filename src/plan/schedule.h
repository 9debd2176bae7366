// SPDX-License-Identifier: Apache-2.0
// The scheduler: from rows to who computes what. Integers only, no allocation, the same on host and
// device.
//
// Section A holds whole items, longest first inside groups of heads, which workers take in turn: no
// partial results. Section B holds rows of few query rows (decode), rows whose tiles are longer
// than a fair share, and what is left of A's last wave. Its items lie on a line of cost that is cut
// into equal contiguous shares, one a worker (stream-K, arXiv 2301.03598): a cut falls on a block's
// bound, so shares differ from the ideal by at most one fixed cost and a block. Where both sections
// have work their workers may be others (POD-Attention, arXiv 2410.18038, has both on one SM).
//
// `blocks` below is a callable (const Row&, head, tile) -> how many KV blocks the tile needs.
#pragma once

#include "plan/records.h"

namespace tilewright::plan {

struct Schedule {
  Config config;
  Header* header = nullptr;
  Row* rows = nullptr;      // [max rows]
  Cut* cuts = nullptr;      // [workers + 1]
  Split* splits = nullptr;  // [workers]
  Start* starts = nullptr;  // [workers], on a GPU
};

TILEWRIGHT_HD inline std::int32_t tiles_of(const Config& config, std::int32_t q_len) {
  const std::int64_t packed = static_cast<std::int64_t>(q_len) * config.group_size;
  // Of most rows without a division.
  if (packed <= config.tile_rows) return packed > 0 ? 1 : 0;
  return static_cast<std::int32_t>(ceil_div(packed, config.tile_rows));
}

// How many KV heads an item of a row covers.
TILEWRIGHT_HD inline std::int32_t heads_of(const Config& config, std::int32_t q_len) {
  const std::int64_t rows = static_cast<std::int64_t>(q_len) * config.group_size;
  if (config.heads_differ || config.max_heads == 1 || rows <= 0 || 2 * rows > config.joint_rows) {
    return 1;
  }
  // Mostly without a division.
  std::int32_t heads = config.max_heads;
  if (heads * rows > config.joint_rows) heads = static_cast<std::int32_t>(config.joint_rows / rows);
  TILEWRIGHT_HD_LOOP
  while (heads != config.num_kv_heads && config.num_kv_heads % heads != 0) --heads;
  return heads;
}

// Packed rows of a tile, a KV head: all but the last are whole.
TILEWRIGHT_HD inline std::int32_t rows_of_tile(const Config& config, const Row& row,
                                               std::int32_t tile) {
  const std::int64_t begin = static_cast<std::int64_t>(tile) * config.tile_rows;
  const std::int64_t packed = static_cast<std::int64_t>(row.q_len) * config.group_size;
  return static_cast<std::int32_t>(min64(config.tile_rows, packed - begin));
}

// Of a tile of so many packed rows.
TILEWRIGHT_HD inline std::int64_t block_cost(const Config& config, std::int32_t heads,
                                             std::int32_t packed_rows) {
  const bool is_full = config.cost.full_from > 0 && packed_rows >= config.cost.full_from;
  const std::int64_t rows = is_full ? config.tile_rows : packed_rows;
  return heads * (config.cost.block + config.cost.block_row * rows);
}
TILEWRIGHT_HD inline std::int64_t block_cost(const Config& config, const Row& row,
                                             std::int32_t tile) {
  return block_cost(config, row.heads, rows_of_tile(config, row, tile));
}

template <typename Blocks>
TILEWRIGHT_HD std::int64_t item_cost(const Config& config, const Row& row, std::int32_t head,
                                     std::int32_t tile, const Blocks& blocks) {
  return config.cost.fixed + blocks(row, head, tile) * block_cost(config, row, tile);
}

// Adds tiles [begin, end) to a row's cost.
template <typename Blocks>
TILEWRIGHT_HD void measure_tiles(const Config& config, Row& row, std::int32_t begin,
                                 std::int32_t end, const Blocks& blocks) {
  const std::int32_t heads = config.heads_differ ? config.num_kv_heads : 1;
  for (std::int32_t head = 0; head < heads; ++head) {
    for (std::int32_t tile = begin; tile < end; ++tile) {
      const std::int32_t count = blocks(row, head, tile);
      row.head_cost += config.cost.fixed + count * block_cost(config, row, tile);
      if (count > row.max_tile_blocks) row.max_tile_blocks = count;
    }
  }
}

// What measure_tiles adds to.
TILEWRIGHT_HD inline void start_row(const Config& config, Row& row) {
  row.heads = heads_of(config, row.q_len);
  row.tiles = tiles_of(config, row.q_len);
  row.max_tile_blocks = 0;
  row.head_cost = 0;
}

// Fills in a row's tiles and cost.
template <typename Blocks>
TILEWRIGHT_HD void measure_row(const Config& config, Row& row, const Blocks& blocks) {
  start_row(config, row);
  measure_tiles(config, row, 0, row.tiles, blocks);
}

// Items of a tile: mostly one a head, or one for all of them.
TILEWRIGHT_HD inline std::int32_t groups_of_heads(const Config& config, std::int32_t heads) {
  if (heads == 1) return config.num_kv_heads;
  return heads == config.num_kv_heads ? 1 : div32(config.num_kv_heads, heads);
}
TILEWRIGHT_HD inline std::int32_t groups_of_heads(const Config& config, const Row& row) {
  return groups_of_heads(config, row.heads);
}

TILEWRIGHT_HD inline std::int64_t row_cost(const Config& config, const Row& row) {
  return config.heads_differ ? row.head_cost : row.head_cost * groups_of_heads(config, row);
}

// Items of a row of section B.
TILEWRIGHT_HD inline std::int64_t items_of(const Config& config, const Row& row) {
  return static_cast<std::int64_t>(row.tiles) * groups_of_heads(config, row);
}

// An upper bound of the cost of any of a row's items.
TILEWRIGHT_HD inline std::int64_t longest_item(const Config& config, const Row& row) {
  return config.cost.fixed + row.max_tile_blocks * block_cost(config, row, 0);
}

// Whether a row of an outer level is worth partial results of its own: else the rows below it, of
// `tiles_below` tiles, each read its keys too.
TILEWRIGHT_HD inline bool sharing_is_cheaper(const Config& config, const Row& row,
                                             std::int64_t tiles_below) {
  const std::int64_t tiles = tiles_of(config, row.q_len);
  const std::int64_t packed = static_cast<std::int64_t>(row.q_len) * config.group_size;
  // In blocks of keys, which need not be whole: behind a folded row the next keys fill them up.
  const std::int64_t read_again = (tiles_below - tiles) * row.kv_len * config.cost.block;
  const std::int64_t kept = tiles * config.cost.fixed + packed * config.cost.join_row;
  return read_again > kept * config.block_tokens;
}

// The last row of [begin, end) with before(row) <= position: rows in order of what lies before
// them.
template <typename Before>
TILEWRIGHT_HD std::int32_t find_row(const Schedule& s, std::int32_t begin, std::int32_t end,
                                    std::int64_t position, const Before& before) {
  TILEWRIGHT_HD_LOOP
  while (end - begin > 1) {
    const std::int32_t middle = begin + (end - begin) / 2;
    if (before(s.rows[middle]) <= position) {
      begin = middle;
    } else {
      end = middle;
    }
  }
  return begin;
}

// Item `index` of section A and, behind a_items, of the tail: group of heads, row, tile from the
// last one down, head.
TILEWRIGHT_HD_CALL inline Item a_item(const Schedule& s, std::int64_t index) {
  const Row& last = s.rows[s.header->num_a_rows - 1];
  const std::int64_t tiles = last.tiles_before + last.tiles;
  const std::int64_t group = div64(index, tiles * s.config.heads_per_group);
  const std::int64_t first_head = group * s.config.heads_per_group;
  const std::int64_t heads = min64(s.config.heads_per_group, s.config.num_kv_heads - first_head);
  index -= group * tiles * s.config.heads_per_group;
  const std::int64_t tile = div64(index, heads);
  const std::int32_t row =
      find_row(s, 0, s.header->num_a_rows, tile, [](const Row& r) { return r.tiles_before; });
  const Row& r = s.rows[row];
  return {row, static_cast<std::int32_t>(first_head + index - tile * heads),
          static_cast<std::int32_t>(r.tiles - 1 - (tile - r.tiles_before))};
}

// Item `index` of those of a row of section B: head, tile.
TILEWRIGHT_HD inline Item row_item(const Schedule& s, std::int32_t row, std::int64_t index) {
  const Row& r = s.rows[row];
  return {row, static_cast<std::int32_t>(index / r.tiles) * r.heads,
          static_cast<std::int32_t>(index % r.tiles)};
}

// Item `index` of section B: the tail, then row, head, tile.
TILEWRIGHT_HD inline Item b_item(const Schedule& s, std::int64_t index) {
  if (index < s.header->tail_items) return a_item(s, s.header->a_items + index);
  index -= s.header->tail_items;
  const std::int32_t row = find_row(s, s.header->num_a_rows, s.header->num_rows, index,
                                    [](const Row& r) { return r.tiles_before; });
  return row_item(s, row, index - s.rows[row].tiles_before);
}

// The block bound (or the item's) nearest to `cost` behind the start of `item`; its end is the
// start of the next item. The cut's cost counts from the item's start.
TILEWRIGHT_HD inline Cut round_cut(const Config& config, std::int64_t item, std::int64_t cost,
                                   std::int64_t per_block, std::int64_t blocks) {
  const std::int64_t fixed = config.cost.fixed;
  if (!config.cuts_items) {
    const std::int64_t all = fixed + blocks * per_block;
    return cost < all / 2 ? Cut{item, 0, 0} : Cut{item + 1, 0, all};
  }
  const std::int64_t block = cost <= fixed ? 0 : (cost - fixed + per_block / 2) / per_block;
  if (block >= blocks && blocks > 0) return {item + 1, 0, fixed + blocks * per_block};
  return {item, static_cast<std::int32_t>(block), block > 0 ? fixed + block * per_block : 0};
}

// A point behind the tail on section B's line: the first item of its row's head (where heads
// differ: of its row), and the cost behind that item's start.
struct LinePoint {
  std::int32_t row = 0;
  std::int64_t item = 0;
  std::int64_t cost = 0;
};

// Sets the item and the cost of a point at `cost` on the line, which lies in `row`.
TILEWRIGHT_HD inline void go_into_row(const Config& config, const Header& header, const Row& row,
                                      std::int64_t cost, LinePoint& point) {
  point.item = header.tail_items + row.tiles_before;
  point.cost = cost - header.tail_cost - row.cost_before;
  if (config.heads_differ) return;
  const std::int64_t head = point.cost / row.head_cost;
  point.item += head * row.tiles;
  point.cost -= head * row.head_cost;
}

TILEWRIGHT_HD inline LinePoint find_point(const Schedule& s, std::int64_t cost) {
  const Header& h = *s.header;
  LinePoint point;
  point.row = find_row(s, h.num_a_rows, h.num_rows, cost - h.tail_cost,
                       [](const Row& r) { return r.cost_before; });
  go_into_row(s.config, h, s.rows[point.row], cost, point);
  return point;
}

// The cut nearest to `target` on the line, which lies `cost` behind the start of `item`: a tile of
// `row` that needs `blocks` blocks.
TILEWRIGHT_HD inline Cut cut_inside(const Config& config, const Row& row, std::int32_t tile,
                                    std::int32_t blocks, std::int64_t item, std::int64_t cost,
                                    std::int64_t target) {
  Cut cut = round_cut(config, item, cost, block_cost(config, row, tile), blocks);
  cut.cost += target - cost;
  return cut;
}

// The cut at `cost` on section B's line.
template <typename Blocks>
TILEWRIGHT_HD Cut find_cut(const Schedule& s, std::int64_t cost, const Blocks& blocks) {
  const Header& h = *s.header;
  if (cost >= h.b_cost) return {h.b_items, 0, h.b_cost};
  const bool in_tail = cost < h.tail_cost;
  LinePoint point = in_tail ? LinePoint{0, 0, cost} : find_point(s, cost);
  // Behind the tail the point's row holds the cut: it is not searched for again.
  const std::int64_t row_begin = in_tail ? 0 : h.tail_items + s.rows[point.row].tiles_before;
  const std::int64_t items_end = in_tail ? h.tail_items : h.b_items;
  for (; point.item < items_end; ++point.item) {
    const Item at =
        in_tail ? b_item(s, point.item) : row_item(s, point.row, point.item - row_begin);
    const Row& row = s.rows[at.row];
    const std::int32_t needed = blocks(row, at.head, at.tile);
    const std::int64_t all = s.config.cost.fixed + needed * block_cost(s.config, row, at.tile);
    if (point.cost < all) {
      return cut_inside(s.config, row, at.tile, needed, point.item, point.cost, cost);
    }
    point.cost -= all;
  }
  return {point.item, 0, cost - point.cost};
}

// Which rows are section A's.
struct RowOrder {
  Config config;
  std::int64_t longest;  // of section A's items

  TILEWRIGHT_HD bool in_section_a(const Row& row) const {
    return row.tiles > 1 && longest_item(config, row) <= longest;
  }
  // See TallRows.
  TILEWRIGHT_HD bool is_all_tail() const { return longest == kAnyLength; }
  static constexpr std::int64_t kAnyLength = 0x7FFFFFFFFFFFFFFF;
};

// Rows of several tiles. Mostly section A's items are no longer than a fair share. Where none of
// theirs is that short, and they have few items (a prefix of many requests), these are its tail:
// cut into as many equal parts each, so that the tiles of a row read the same keys at the same
// time.
struct TallRows {
  std::int64_t items = 0;
  bool some_short = false;

  TILEWRIGHT_HD void include(const Config& config, const Row& row, std::int64_t share) {
    if (row.tiles <= 1) return;
    items += items_of(config, row);
    some_short = some_short || longest_item(config, row) <= share;
  }
  TILEWRIGHT_HD std::int64_t longest_a_item(const Config& config, std::int64_t share) const {
    const bool all_tail = config.divides_workers != 0 && !some_short && 2 * items <= config.workers;
    return all_tail ? RowOrder::kAnyLength : share;
  }
};

// Section A before B; A's rows with the longest items first, then as given.
struct SortRows {
  RowOrder order;

  TILEWRIGHT_HD bool operator()(const Row& a, const Row& b) const {
    const bool a_first = order.in_section_a(a);
    if (a_first != order.in_section_a(b)) return a_first;
    if (a_first) {
      const std::int64_t longest_a = longest_item(order.config, a);
      const std::int64_t longest_b = longest_item(order.config, b);
      if (longest_a != longest_b) return longest_a > longest_b;
    }
    return a.level != b.level ? a.level < b.level : a.index < b.index;
  }
};

// A smaller share is not worth a worker. With shares larger than a block no two cuts are the same
// inside an item, where an empty share would be a part that nobody computes. Those that meet where
// an item begins leave a worker without work.
TILEWRIGHT_HD inline std::int64_t least_share(const Config& config) {
  const std::int64_t largest_block =
      config.largest_block > 0 ? config.largest_block
                               : max64(block_cost(config, 1, config.tile_rows),
                                       block_cost(config, config.max_heads, config.joint_rows));
  return max64(config.least_share, 1 + largest_block);
}

// How many workers share section B.
TILEWRIGHT_HD inline std::int32_t count_workers(const Config& config, std::int64_t b_cost) {
  const std::int64_t least = least_share(config);
  if (b_cost >= least * config.workers) return config.workers;
  auto count = static_cast<std::int32_t>(max64(1, b_cost / least));
  TILEWRIGHT_HD_LOOP
  while (config.rounds_workers && (count & (count - 1)) != 0) count &= count - 1;
  return count;
}

// How a section B of equal items is shared.
struct EvenShares {
  std::int32_t workers = 0;
  std::int32_t parts = 0;  // of each item, as many blocks each as may be; 0: cut by cost
};

// So many of `workers` that `items` of equal cost are dealt out whole, or in equal parts; or all of
// them, where too many would be left over. `blocks` of one item: all items', where a block costs
// the same in each.
TILEWRIGHT_HD inline EvenShares even_shares(const Config& config, std::int64_t items,
                                            std::int32_t blocks, std::int32_t workers) {
  EvenShares shares{workers, 0};
  std::int64_t even = workers;
  std::int32_t parts = 0;
  if (items <= workers) {
    parts = div32(workers, static_cast<std::int32_t>(items));
    even = items * parts;
  } else {
    const std::int64_t whole = ceil_div(items, workers);
    const std::int64_t takers = items / whole;
    if (takers * whole == items) even = takers;
  }
  if (even * 16 < std::int64_t{workers} * 15) return shares;
  shares.workers = static_cast<std::int32_t>(even);
  if (parts > 1 && blocks > 0 && config.cuts_items != 0 && config.cost.block_row == 0) {
    // More parts than the longest ones leave blocks for would not make those shorter.
    shares.parts = ceil_div32(blocks, ceil_div32(blocks, parts));
    shares.workers = static_cast<std::int32_t>(items) * shares.parts;
  }
  return shares;
}

// Where the share of `worker` begins, among items of as many `blocks`.
TILEWRIGHT_HD inline Cut even_cut(const EvenShares& shares, std::int32_t worker,
                                  std::int32_t blocks, std::int64_t fixed, std::int64_t per_block) {
  const std::int32_t item = div32(worker, shares.parts);
  const std::int32_t part = worker - item * shares.parts;
  // The first ones have the rest, a block each.
  const std::int32_t least = div32(blocks, shares.parts);
  const std::int32_t rest = blocks - least * shares.parts;
  const std::int32_t block = part * least + (part < rest ? part : rest);
  const std::int64_t before = item * (fixed + blocks * per_block);
  return {item, block, before + (block > 0 ? fixed + block * per_block : 0)};
}

// Whether a row is what each would be if the sums of `rows` rows were those of equal ones. Where
// that is so of all of them they are equal. Rows may be summed up part by part: where each was
// asked about the sums that end with its own part, all parts' are equal, for a part's rows are what
// the ones before it are.
TILEWRIGHT_HD inline bool is_equal_part(std::int64_t items, std::int64_t cost, std::int32_t rows,
                                        std::int64_t all_items, std::int64_t all_cost) {
  return items * rows == all_items && cost * rows == all_cost;
}
// Where that may be asked: section B is all there is, and rows are single tiles.
TILEWRIGHT_HD inline bool may_lie_evenly(const Config& config, const Header& header) {
  return config.evens_shares != 0 && config.heads_differ == 0 && header.num_a_rows == 0 &&
         header.b_items > 0;
}

// How many workers section B's rows have for themselves, of a plan that costs `total`, a worker's
// share of which is `share`, rounded down: their part of it, rounded up, so that they rather end
// early and take items of section A. 0: workers are not divided.
TILEWRIGHT_HD inline std::int32_t workers_of_rows(const Config& config, std::int64_t total,
                                                  std::int64_t share, std::int64_t rows) {
  if (config.divides_workers == 0 || config.workers < 2 || rows == 0 || rows == total) return 0;
  const std::int64_t count = min64(ceil_div(rows, max64(1, share)), count_workers(config, rows));
  return static_cast<std::int32_t>(min64(count, config.workers - 1));
}

// Where the share of a worker of `workers` should begin: floor(worker * cost / workers), without
// overflow of the product. There are few workers: their squares fit 32 bits.
TILEWRIGHT_HD inline std::int64_t share_begin(std::int64_t cost, std::int32_t workers,
                                              std::int32_t worker) {
  const std::int64_t share = cost / workers;
  const auto rest = static_cast<std::int32_t>(cost - share * workers);
  return share * worker + rest * worker / workers;
}
// The same on section B's line.
TILEWRIGHT_HD inline std::int64_t share_begin(const Header& header, std::int32_t worker) {
  const std::int32_t tail = header.tail_workers;
  if (worker < tail) return share_begin(header.tail_cost, tail, worker);
  const std::int64_t before = tail > 0 ? header.tail_cost : 0;
  return before + share_begin(header.b_cost - before, header.workers - tail, worker - tail);
}

// The worker of a GPU's place-th block of threads. Blocks are given out SM after SM, and SMs that
// lie together share a way to memory: workers of rows that are decoded beside section A are spread
// among the others. Without section A they are better off together.
TILEWRIGHT_HD inline std::int32_t worker_at(const Config& config, const Header& header,
                                            std::int32_t place) {
  const std::int32_t tail = header.tail_workers;
  const std::int32_t of_rows = header.workers - tail;
  if (config.divides_workers == 0 || header.a_items == 0 || place >= config.workers) return place;
  const std::int32_t before = place * of_rows / config.workers;
  const std::int32_t rest = place * of_rows - before * config.workers;
  if (rest + of_rows >= config.workers) return tail + before;
  const std::int32_t other = place - before;
  return other < tail ? other : other + of_rows;
}

// Whether the items of A's last, incomplete wave are shared out. Parts of items are written and
// read again, which takes about as long as to set up two: short items are rather taken in turn,
// too.
TILEWRIGHT_HD inline bool shares_tail(const Config& config, std::int64_t items, std::int64_t cost) {
  return cost > 4 * config.cost.fixed * items;
}

// Which workers share section B, whose costs are known; `of_rows` is workers_of_rows, `all_tail`
// RowOrder::is_all_tail.
TILEWRIGHT_HD inline void set_workers(const Config& config, std::int32_t of_rows, bool all_tail,
                                      Header& header) {
  header.tail_workers = 0;
  if (of_rows == 0) {
    header.workers = count_workers(config, header.b_cost);
    return;
  }
  if (header.tail_items > 0) {
    header.tail_workers = static_cast<std::int32_t>(
        min64(count_workers(config, header.tail_cost), config.workers - of_rows));
    const auto items = static_cast<std::int32_t>(header.tail_items);
    if (all_tail && header.tail_workers >= items) {
      // Parts are rather short than long: what they wait for grows with them.
      std::int32_t parts = div32(header.tail_workers + items / 2, items);
      if (parts * items > min64(count_workers(config, header.tail_cost), config.workers - 1)) {
        --parts;
      }
      header.tail_workers = parts * items;
      of_rows =
          static_cast<std::int32_t>(min64(count_workers(config, header.b_cost - header.tail_cost),
                                          config.workers - header.tail_workers));
    }
  }
  header.workers = header.tail_workers + of_rows;
}

// Sets the header's sections and the rows' prefix sums; rows are sorted. `total`: the
// cost of all rows. Returns how section B is shared.
template <typename Blocks>
TILEWRIGHT_HD EvenShares lay_out_sections(Schedule& s, const RowOrder& order, std::int64_t total,
                                          const Blocks& blocks) {
  Header& h = *s.header;
  const std::int64_t heads = s.config.num_kv_heads;
  std::int64_t tiles = 0;
  std::int32_t row = 0;
  for (; row < h.num_rows && order.in_section_a(s.rows[row]); ++row) {
    s.rows[row].tiles_before = tiles;
    tiles += s.rows[row].tiles;
  }
  h.num_a_rows = row;
  std::int64_t items = 0;
  std::int64_t cost = 0;
  for (; row < h.num_rows; ++row) {
    s.rows[row].tiles_before = items;
    s.rows[row].cost_before = cost;
    items += items_of(s.config, s.rows[row]);
    cost += row_cost(s.config, s.rows[row]);
  }
  const std::int32_t of_rows = workers_of_rows(s.config, total, total / s.config.workers, cost);
  h.tail_items = order.is_all_tail() ? tiles * heads : tiles * heads % (s.config.workers - of_rows);
  h.a_items = tiles * heads - h.tail_items;
  h.tail_cost = 0;
  for (std::int64_t i = 0; i < h.tail_items; ++i) {
    const Item at = a_item(s, h.a_items + i);
    h.tail_cost += item_cost(s.config, s.rows[at.row], at.head, at.tile, blocks);
  }
  if (!order.is_all_tail() && !shares_tail(s.config, h.tail_items, h.tail_cost)) {
    h.a_items += h.tail_items;
    h.tail_items = 0;
    h.tail_cost = 0;
  }
  h.b_items = h.tail_items + items;
  h.b_cost = h.tail_cost + cost;
  set_workers(s.config, of_rows, order.is_all_tail(), h);
  bool even = may_lie_evenly(s.config, h);
  for (row = 0; even && row < h.num_rows; ++row) {
    even = s.rows[row].tiles == 1 &&
           is_equal_part(items_of(s.config, s.rows[row]), row_cost(s.config, s.rows[row]),
                         h.num_rows, h.b_items, h.b_cost);
  }
  if (!even) return {h.workers, 0};
  const EvenShares shares = even_shares(s.config, h.b_items, s.rows[0].max_tile_blocks, h.workers);
  h.workers = shares.workers;
  return shares;
}

// The cost of a worker's share of section B; a part of an item counts the fixed cost where it
// begins.
TILEWRIGHT_HD inline std::int64_t share_cost(const Schedule& s, std::int32_t worker) {
  return s.cuts[worker + 1].cost - s.cuts[worker].cost;
}

// The items that are cut, from the cuts of all workers.
TILEWRIGHT_HD inline void list_splits(Schedule& s) {
  Header& h = *s.header;
  h.num_splits = 0;
  for (std::int32_t worker = 1; worker < h.workers; ++worker) {
    const Cut& cut = s.cuts[worker];
    if (cut.block == 0) continue;
    if (h.num_splits > 0 && s.splits[h.num_splits - 1].item == cut.item) {
      s.splits[h.num_splits - 1].last = worker;
      continue;
    }
    s.splits[h.num_splits++] = {cut.item, worker - 1, worker};
  }
}

// All of it, for one thread, from rows that are measured. Rows without query tokens are left out.
// `sort` is sort(begin, end, SortRows).
template <typename Blocks, typename Sort>
void make_schedule(Schedule& s, const Blocks& blocks, const Sort& sort) {
  Header& h = *s.header;
  std::int64_t total = 0;
  for (std::int32_t row = 0; row < h.num_rows; ++row) total += row_cost(s.config, s.rows[row]);
  const std::int64_t share = ceil_div(total, s.config.workers);
  TallRows tall;
  for (std::int32_t row = 0; row < h.num_rows; ++row) tall.include(s.config, s.rows[row], share);
  const RowOrder order{s.config, tall.longest_a_item(s.config, share)};
  sort(s.rows, s.rows + h.num_rows, SortRows{order});
  const EvenShares shares = lay_out_sections(s, order, total, blocks);
  for (std::int32_t worker = 0; worker <= h.workers; ++worker) {
    s.cuts[worker] = shares.parts > 0
                         ? even_cut(shares, worker, s.rows[0].max_tile_blocks, s.config.cost.fixed,
                                    block_cost(s.config, s.rows[0], 0))
                         : find_cut(s, share_begin(h, worker), blocks);
  }
  list_splits(s);
}

}  // namespace tilewright::plan
