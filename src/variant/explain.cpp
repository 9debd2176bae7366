// SPDX-License-Identifier: Apache-2.0
#include <tilewright/explain.h>

#include <algorithm>
#include <iterator>

#include "base/checks.h"
#include "base/parallel.h"
#include "variant/mask_evaluator.h"

namespace tilewright {
namespace {

const char* class_name(MaskClass mask_class) {
  switch (mask_class) {
    case MaskClass::none:
      return "none";
    case MaskClass::closed_form:
      return "closed form";
    case MaskClass::row_bounds:
      return "row bounds";
    case MaskClass::elementwise:
      return "elementwise";
  }
  return "";
}

void check(std::int64_t q_len, std::int64_t kv_len, const ExplainOptions& options) {
  constexpr std::int64_t kMost = std::int64_t{1} << 20;
  require(q_len >= 1 && q_len <= kMost, "q_len is {}: it must be in [1, {}]", q_len, kMost);
  require(kv_len >= 1 && kv_len <= kMost, "kv_len is {}: it must be in [1, {}]", kv_len, kMost);
  require(options.q_tile >= 1, "q_tile is {}: it must be at least 1", options.q_tile);
  require(options.kv_block >= 1, "kv_block is {}: it must be at least 1", options.kv_block);
  require(options.num_kv_heads >= 1 && options.num_qo_heads >= 1 &&
              options.num_qo_heads % options.num_kv_heads == 0,
          "num_kv_heads is {}: it must be positive and divide num_qo_heads, {}",
          options.num_kv_heads, options.num_qo_heads);
}

class Explainer {
 public:
  Explainer(const Variant& variant, const std::vector<ParamValue>& params,
            const ExplainOptions& options, MaskMap& map)
      : mask_(variant, params, {options.num_qo_heads, options.num_kv_heads, 1, map.q_len}),
        map_(map),
        group_size_(options.num_qo_heads / options.num_kv_heads) {
    request_.q_len = map.q_len;
    request_.kv_len = map.kv_len;
    request_.q_pos = options.q_pos_offset >= 0 ? options.q_pos_offset : map.kv_len - map.q_len;
  }

  void run() {
    map_.mask_class = class_name(mask_.analysis().mask_class());
    std::atomic<std::int64_t> pairs{0};
    parallel_for(map_.rows, 1, [&](std::int64_t begin, std::int64_t end) {
      MaskEvaluator::Rows rows(mask_);
      for (std::int64_t row = begin; row < end; ++row) {
        classify(row, rows);
        pairs += count_pairs(row, rows);
      }
    });
    map_.pairs = pairs;
  }

 private:
  QueryRange queries_of(std::int64_t row) const {
    QueryRange queries =
        request_.range(row * map_.q_tile, std::min((row + 1) * map_.q_tile, map_.q_len));
    queries.q_head_end = group_size_;
    return queries;
  }

  void classify(std::int64_t row, MaskEvaluator::Rows& rows) {
    const QueryRange queries = queries_of(row);
    const MaskRanges ranges = mask_.ranges(queries);
    for (std::int64_t column = 0; column < map_.columns; ++column) {
      const std::int64_t begin = column * map_.kv_block;
      const std::int64_t end = std::min(begin + map_.kv_block, map_.kv_len);
      const auto tile = static_cast<std::size_t>(row * map_.columns + column);
      const TileKind proven = proven_kind(ranges, begin, end);
      map_.tiles[tile] = proven;
      map_.exact[tile] = proven == TileKind::mixed ? rows.kind(queries, begin, end) : proven;
    }
  }

  std::int64_t count_pairs(std::int64_t row, MaskEvaluator::Rows& rows) {
    const QueryRange queries = queries_of(row);
    std::vector<std::uint8_t> line(static_cast<std::size_t>(map_.kv_len));
    std::int64_t pairs = 0;
    RowContext context;
    context.q_len = map_.q_len;
    context.kv_len = map_.kv_len;
    for (std::int64_t token = 0; token < queries.tokens(); ++token) {
      context.q_index = queries.q_index + token;
      context.q_pos = queries.position(token);
      rows.evaluate(context, 0, map_.kv_len, line.data());
      pairs += std::count(line.begin(), line.end(), std::uint8_t{1});
      if (!map_.seen.empty()) {
        std::copy(line.begin(), line.end(), map_.seen.begin() + context.q_index * map_.kv_len);
      }
    }
    return pairs;
  }

  MaskEvaluator mask_;
  MaskMap& map_;
  MaskRequest request_;
  std::int64_t group_size_;
};

double share_of(const std::vector<TileKind>& tiles, TileKind kind) {
  return tiles.empty() ? 0
                       : static_cast<double>(std::count(tiles.begin(), tiles.end(), kind)) /
                             static_cast<double>(tiles.size());
}

// Draws in units of one pixel. Rectangles of one kind are one path, so that files stay small.
class Picture {
 public:
  explicit Picture(const MaskMap& map) : map_(map) {
    // Pairs and tiles have a whole number of pixels where they are not too many.
    const std::int64_t longest = std::max(map.q_len, map.kv_len);
    scale_ = longest <= kSide ? static_cast<double>(kSide / longest)
                              : static_cast<double>(kSide) / static_cast<double>(longest);
  }

  std::string draw() const {
    const std::int64_t width = pixel(map_.kv_len);
    const std::int64_t height = pixel(map_.q_len);
    std::string svg;
    auto out = std::back_inserter(svg);
    fmt::format_to(out,
                   "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" width=\"{}\" "
                   "height=\"{}\" font-family=\"sans-serif\" font-size=\"11\">\n",
                   width + kMargin + 8, height + kMargin + 26, width + kMargin + 8,
                   height + kMargin + 26);
    fmt::format_to(out, "<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n");
    fmt::format_to(out, "<text x=\"{}\" y=\"13\">keys</text>\n", kMargin);
    fmt::format_to(out, "<text x=\"13\" y=\"{}\" transform=\"rotate(-90 13 {})\">queries</text>\n",
                   kMargin + 40, kMargin + 40);
    fmt::format_to(out, "<g transform=\"translate({} {})\">\n", kMargin, kMargin);
    path(out, tiles(TileKind::empty), "#f3f4f6");
    path(out, tiles(TileKind::mixed), "#dbeafe");
    path(out, tiles(TileKind::full), "#1d4ed8");
    if (!map_.seen.empty()) path(out, pairs(), "#60a5fa");
    grid(out, width, height);
    fmt::format_to(out, "</g>\n<text x=\"{}\" y=\"{}\">{} of {} tiles skipped, {} full</text>\n",
                   kMargin, height + kMargin + 18, map_.count(TileKind::empty), map_.tiles.size(),
                   map_.count(TileKind::full));
    svg += "</svg>\n";
    return svg;
  }

 private:
  using Out = std::back_insert_iterator<std::string>;
  static constexpr std::int64_t kSide = 384;
  static constexpr std::int64_t kMargin = 20;

  std::int64_t pixel(std::int64_t position) const {
    return static_cast<std::int64_t>(static_cast<double>(position) * scale_ + 0.5);
  }

  static void path(Out out, const std::string& rectangles, const char* color) {
    if (!rectangles.empty()) {
      fmt::format_to(out, "<path fill=\"{}\" d=\"{}\"/>\n", color, rectangles);
    }
  }

  void rectangle(std::string& path, std::int64_t q_begin, std::int64_t q_end, std::int64_t kv_begin,
                 std::int64_t kv_end) const {
    const std::int64_t x = pixel(kv_begin);
    const std::int64_t y = pixel(q_begin);
    const std::int64_t width = pixel(kv_end) - x;
    fmt::format_to(std::back_inserter(path), "M{} {}h{}v{}h{}z", x, y, width, pixel(q_end) - y,
                   -width);
  }

  std::string tiles(TileKind kind) const {
    std::string path;
    for (std::int64_t row = 0; row < map_.rows; ++row) {
      for (std::int64_t begin = 0, end = 0; begin < map_.columns; begin = end) {
        const auto kind_at = [&](std::int64_t column) {
          return map_.tiles[static_cast<std::size_t>(row * map_.columns + column)];
        };
        for (end = begin + 1; end < map_.columns && kind_at(end) == kind_at(begin);) ++end;
        if (kind_at(begin) != kind) continue;
        rectangle(path, row * map_.q_tile, std::min((row + 1) * map_.q_tile, map_.q_len),
                  begin * map_.kv_block, std::min(end * map_.kv_block, map_.kv_len));
      }
    }
    return path;
  }

  // Runs of pairs that attend, outside of full tiles.
  std::string pairs() const {
    std::string path;
    for (std::int64_t q = 0; q < map_.q_len; ++q) {
      const auto drawn = [&](std::int64_t key) {
        const std::int64_t tile = q / map_.q_tile * map_.columns + key / map_.kv_block;
        return map_.seen[static_cast<std::size_t>(q * map_.kv_len + key)] != 0 &&
               map_.tiles[static_cast<std::size_t>(tile)] != TileKind::full;
      };
      for (std::int64_t begin = 0, end = 0; begin < map_.kv_len; begin = end) {
        for (end = begin + 1; end < map_.kv_len && drawn(end) == drawn(begin);) ++end;
        if (drawn(begin)) rectangle(path, q, q + 1, begin, end);
      }
    }
    return path;
  }

  void grid(Out out, std::int64_t width, std::int64_t height) const {
    constexpr std::int64_t kMostLines = 100;
    std::string path;
    auto lines = std::back_inserter(path);
    if (map_.rows <= kMostLines) {
      for (std::int64_t row = 0; row <= map_.rows; ++row) {
        fmt::format_to(lines, "M0 {}h{}", pixel(std::min(row * map_.q_tile, map_.q_len)), width);
      }
    }
    if (map_.columns <= kMostLines) {
      for (std::int64_t column = 0; column <= map_.columns; ++column) {
        fmt::format_to(lines, "M{} 0v{}", pixel(std::min(column * map_.kv_block, map_.kv_len)),
                       height);
      }
    }
    if (!path.empty()) {
      fmt::format_to(
          out, "<path fill=\"none\" stroke=\"#9ca3af\" stroke-width=\"0.5\" d=\"{}\"/>\n", path);
    }
  }

  const MaskMap& map_;
  double scale_ = 1;
};

}  // namespace

std::int64_t MaskMap::count(TileKind kind) const {
  return std::count(tiles.begin(), tiles.end(), kind);
}

double MaskMap::saved() const {
  return share_of(tiles, TileKind::empty);
}

double MaskMap::saved_by_structure() const {
  return share_of(exact, TileKind::empty);
}

std::string MaskMap::text() const {
  std::string text = fmt::format(
      "mask: {}; {} queries x {} keys, {} pairs attend ({:.1f}%)\n"
      "tiles of {} x {}: {} empty, {} mixed, {} full; {:.1f}% of the work is skipped\n",
      mask_class, q_len, kv_len, pairs,
      100 * static_cast<double>(pairs) / (static_cast<double>(q_len) * static_cast<double>(kv_len)),
      q_tile, kv_block, count(TileKind::empty), count(TileKind::mixed), count(TileKind::full),
      100 * saved());
  if (exact != tiles) {
    text += fmt::format("with a block structure {:.1f}% would be, and {} tiles be full\n",
                        100 * saved_by_structure(),
                        std::count(exact.begin(), exact.end(), TileKind::full));
  }
  constexpr std::int64_t kMostLetters = 128;  // of a line; larger maps are pictures
  if (rows > kMostLetters || columns > kMostLetters) return text;
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      text += ".+#"[static_cast<int>(tiles[static_cast<std::size_t>(row * columns + column)])];
    }
    text += '\n';
  }
  return text;
}

std::string MaskMap::svg() const {
  return Picture(*this).draw();
}

MaskMap explain(const Variant& variant, std::int64_t q_len, std::int64_t kv_len,
                const std::vector<ParamValue>& params, const ExplainOptions& options) {
  check(q_len, kv_len, options);
  MaskMap map;
  map.q_len = q_len;
  map.kv_len = kv_len;
  map.q_tile = options.q_tile;
  map.kv_block = options.kv_block;
  map.rows = (q_len + options.q_tile - 1) / options.q_tile;
  map.columns = (kv_len + options.kv_block - 1) / options.kv_block;
  const auto count = static_cast<std::size_t>(map.rows * map.columns);
  const bool few = q_len * kv_len <= MaskMap::kMaxPairs;
  if (!variant.mask.defined()) {
    variant.validate();
    map.mask_class = class_name(MaskClass::none);
    map.tiles.assign(count, TileKind::full);
    map.exact = map.tiles;
    map.pairs = q_len * kv_len;
    if (few) map.seen.assign(static_cast<std::size_t>(q_len * kv_len), 1);
    return map;
  }
  map.tiles.assign(count, TileKind::empty);
  map.exact = map.tiles;
  if (few) map.seen.assign(static_cast<std::size_t>(q_len * kv_len), 0);
  Explainer(variant, params, options, map).run();
  return map;
}

}  // namespace tilewright
