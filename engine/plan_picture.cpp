// SPDX-License-Identifier: Apache-2.0
#include "engine/plan_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <numeric>
#include <tuple>

namespace tilewright::engine {
namespace {

constexpr double kWidth = 1000;  // of a timeline
constexpr double kLeft = 50, kTop = 46, kRight = 20;
constexpr double kLegendRow = 16, kLegendColumn = 250;
constexpr std::size_t kLegendMost = 24;

using Tile = std::tuple<int, int, int, int>;

Tile tile_of(const PlanPiece& piece) {
  return {piece.level, piece.row, piece.kv_head, piece.tile};
}

// Hues a golden angle apart: neighbours in number are far apart in colour.
std::string colour(std::int32_t request, bool own) {
  const double hue = std::fmod(request * 137.508, 360.0);
  return own ? fmt::format("hsl({:.0f},65%,{}%)", hue, 45 + request % 3 * 10)
             : fmt::format("hsl({:.0f},30%,78%)", hue);
}

class Picture {
 public:
  Picture(const std::vector<PlanPiece>& pieces, int workers, int levels,
          const std::vector<PictureRequest>& requests)
      : pieces_(pieces),
        workers_(workers),
        levels_(levels),
        requests_(requests),
        balance_(balance_of(pieces, workers)),
        lane_(std::clamp(640.0 / workers, 6.0, 26.0)),
        scale_(kWidth / static_cast<double>(std::max<std::int64_t>(balance_.longest, 1))) {}

  std::string draw() {
    const double bottom = kTop + lane_ * workers_;
    const std::size_t shown = std::min(requests_.size(), kLegendMost);
    const auto columns = static_cast<std::size_t>(kWidth / kLegendColumn);
    const double rows = std::ceil(static_cast<double>(shown) / static_cast<double>(columns));
    begin(kLeft + kWidth + kRight, bottom + 48 + (rows + 1) * kLegendRow);
    for (int worker = 0; worker < workers_; ++worker) lane(worker);
    for (std::size_t i = 0; i < pieces_.size();) i = bar(i);
    const double mean = kLeft + static_cast<double>(balance_.total) / workers_ * scale_;
    add("<path d=\"M{0:.1f} {1:.1f}V{2:.1f}\" stroke=\"#000\" stroke-dasharray=\"4 3\"/>\n", mean,
        kTop - 6, bottom + 6);
    add("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"end\">mean</text>\n", mean - 4, bottom + 12);
    legend(bottom + 36, shown, columns);
    return text_ + "</svg>\n";
  }

 private:
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(text_), format, std::forward<Args>(args)...);
  }

  void begin(double width, double height) {
    add("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" "
        "width=\"{0:.0f}\" "
        "height=\"{1:.0f}\" font-family=\"sans-serif\" font-size=\"11\">\n",
        width, height);
    add("<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n");
    add("<text x=\"{}\" y=\"20\" font-size=\"15\">Who computes what: {} requests on {} workers, "
        "balance {:.3f}</text>\n",
        kLeft, requests_.size(), workers_, balance_.balance);
    add("<text x=\"{}\" y=\"35\" fill=\"#555\">time in the plan's unit of cost: {} to the last "
        "worker's end</text>\n",
        kLeft, balance_.longest);
  }

  double y_of(int worker) const { return kTop + lane_ * worker; }

  void lane(int worker) {
    add("<rect x=\"{}\" y=\"{:.1f}\" width=\"{}\" height=\"{:.1f}\" fill=\"#f2f2f2\"/>\n", kLeft,
        y_of(worker), kWidth, lane_ * 0.86);
    if (lane_ < 9 && worker % 4 != 0) return;
    add("<text x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{}</text>\n", kLeft - 6,
        y_of(worker) + lane_ * 0.43 + 4, worker);
  }

  // Draws piece `first` and those behind it that would be too narrow beside it; the next one's
  // index.
  std::size_t bar(std::size_t first) {
    const PlanPiece& piece = pieces_[first];
    std::int64_t cost = piece.cost;
    std::size_t next = first + 1;
    while (next < pieces_.size() && static_cast<double>(cost) * scale_ < 1.5 &&
           pieces_[next].worker == piece.worker && pieces_[next].level == piece.level &&
           pieces_[next].row == piece.row) {
      cost += pieces_[next++].cost;
    }
    const bool split = next == first + 1 && is_split(first);
    add("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{:.1f}\" fill=\"{}\" "
        "stroke=\"{}\" "
        "stroke-width=\"{}\">",
        kLeft + static_cast<double>(piece.start) * scale_, y_of(piece.worker),
        static_cast<double>(cost) * scale_, lane_ * 0.86,
        colour(piece.request, piece.level == levels_ - 1), split ? "#222" : "#fff",
        split ? 1.2 : 0.3);
    add("<title>");
    if (levels_ > 1) add("level {}, ", piece.level);
    add("{} {}", piece.level == levels_ - 1 ? "request" : "shared from request", piece.request);
    if (next > first + 1) {
      add(", {} tiles", next - first);
    } else {
      add(", KV head {}, tile {}, blocks {} to {}{}", piece.kv_head, piece.tile, piece.first_block,
          piece.first_block + piece.num_blocks, split ? " (a part)" : "");
    }
    add(", cost {}</title></rect>\n", cost);
    return next;
  }

  bool is_split(std::size_t index) {
    if (parts_.empty()) {
      for (const PlanPiece& piece : pieces_) ++parts_[tile_of(piece)];
    }
    return parts_[tile_of(pieces_[index])] > 1;
  }

  // The requests with the most work of their own, largest first.
  std::vector<std::size_t> largest(std::size_t count) const {
    std::vector<std::int64_t> costs(requests_.size(), 0);
    for (const PlanPiece& piece : pieces_) {
      if (piece.level == levels_ - 1) costs[static_cast<std::size_t>(piece.request)] += piece.cost;
    }
    std::vector<std::size_t> order(requests_.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, std::greater<>(), [&](std::size_t r) { return costs[r]; });
    order.resize(count);
    return order;
  }

  void legend(double y, std::size_t shown, std::size_t columns) {
    const std::vector<std::size_t> order = largest(shown);
    for (std::size_t i = 0; i < shown; ++i) {
      const std::size_t r = order[i];
      const double left = kLeft + kLegendColumn * static_cast<double>(i % columns);
      const double top = y + kLegendRow * static_cast<double>(i / columns);
      add("<rect x=\"{:.0f}\" y=\"{:.0f}\" width=\"11\" height=\"11\" fill=\"{}\"/>", left, top - 9,
          colour(static_cast<std::int32_t>(r), true));
      add("<text x=\"{:.0f}\" y=\"{:.0f}\">request {}: {} of {} tokens</text>\n", left + 16, top, r,
          requests_[r].q_len, requests_[r].kv_len);
    }
    if (shown == requests_.size()) return;
    add("<text x=\"{:.0f}\" y=\"{:.0f}\">and {} more, with less work</text>\n", kLeft,
        y + kLegendRow * static_cast<double>((shown + columns - 1) / columns),
        requests_.size() - shown);
  }

  const std::vector<PlanPiece>& pieces_;
  int workers_;
  int levels_;
  const std::vector<PictureRequest>& requests_;
  PlanBalance balance_;
  double lane_;   // height
  double scale_;  // pixels a unit of cost
  std::map<Tile, int> parts_;
  std::string text_;
};

}  // namespace

PlanBalance balance_of(const std::vector<PlanPiece>& pieces, int workers) {
  PlanBalance balance;
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const PlanPiece& piece = pieces[i];
    if (i == 0 || piece.worker != pieces[i - 1].worker) ++balance.busy;
    balance.total += piece.cost;
    balance.longest = std::max(balance.longest, piece.start + piece.cost);
  }
  if (balance.longest > 0) {
    balance.balance =
        static_cast<double>(balance.total) / workers / static_cast<double>(balance.longest);
  }
  return balance;
}

std::string plan_picture(const std::vector<PlanPiece>& pieces, int workers, int levels,
                         const std::vector<PictureRequest>& requests) {
  return Picture(pieces, workers, levels, requests).draw();
}

}  // namespace tilewright::engine
