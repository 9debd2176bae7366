// SPDX-License-Identifier: Apache-2.0
// Sections A and B where there are long rows: which rows are whose, their order, and what lies
// before each.
#pragma once

#include "arch/integer.h"
#include "plan/long_rows.h"

namespace tw {

// Item `index` of the tail.
TW_DEVICE_CALL plan::Item tail_item(const plan::View& view, std::int64_t index) {
  take_for_shared(&view);
  return plan::a_item(view.schedule, view.schedule.header->a_items + index);
}

class Sections {
 public:
  TW_DEVICE Sections(PartMaker& maker, const LineSums& short_sums)
      : maker_(maker),
        config_(maker.config()),
        rows_(maker.work_rows),
        a_list_(maker.part.arrays.a_rows),
        longest_(maker.longest_items()),
        num_rows_(short_sums.rows),
        total_(short_sums.cost + maker.memory.long_cost),
        share_(share_of(maker.part, total_)),
        order_{config_, share_ + (share_ * config_.workers < total_ ? 1 : 0)} {}

  // Sets the header's sections.
  TW_DEVICE void lay_out() {
    divide();
    // What plan::TallRows finds: none of the tall rows is short where none is in section A.
    if (config_.divides_workers != 0 && a_rows_ == 0 && 2 * tall_items_ <= config_.workers) {
      order_.longest = plan::RowOrder::kAnyLength;
      if (tall_items_ > 0) divide();
    }
    plan::Header& header = maker_.header();
    workers_of_rows_ = plan::workers_of_rows(config_, total_, share_, b_cost_);
    if (a_rows_ > 0) {
      move_b_rows();
      place_a_rows();
    }
    sync_block();
    write_rows();
    std::int64_t tail_cost = a_rows_ > 0 ? sum_tail() : 0;
    const bool shares =
        order_.is_all_tail() || plan::shares_tail(config_, header.tail_items, tail_cost);
    sync_block();  // all have asked for the tail's items
    if (!shares) tail_cost = 0;
    if (thread_id() == 0) {
      if (!shares) {
        header.a_items += header.tail_items;
        header.tail_items = 0;
      }
      header.tail_cost = tail_cost;
      header.b_items = header.tail_items + b_items_;
      header.b_cost = tail_cost + b_cost_;
      plan::set_workers(config_, workers_of_rows_, order_.is_all_tail(), header);
    }
    sync_block();
  }
  // Whether the thread knows that rows are not equal; asked where all are section B's.
  TW_DEVICE bool are_uneven() const { return uneven_; }

 private:
  // cost / Config::workers, mostly without a division.
  TW_DEVICE static std::int64_t share_of(const plan::PartInput& part, std::int64_t cost) {
    constexpr std::int64_t kMost = std::int64_t{1} << 54;  // times kMaxDeviceWorkers: 2^64
    const i32 workers = part.view.schedule.config.workers;
    if (workers == 1 || cost >= kMost) return cost / workers;
    return static_cast<std::int64_t>(multiply_high(static_cast<u64>(cost), part.worker_reciprocal));
  }

  // Sums::count of divide has section A's rows in its upper part; in its lower one the items of
  // section B's tall rows, of each row no more than it takes to know that there are too many.
  static constexpr i32 kOneARow = 1 << 20;
  static constexpr std::int64_t kMostItems = plan::kMaxDeviceWorkers / 2 + 1;

  // Sums up B's rows where they stand, and copies A's to a list. How long their items are is kept
  // beside it: the list is not in shared memory.
  TW_DEVICE void divide() {
    b_items_ = 0;
    b_cost_ = 0;
#pragma unroll 1
    for (i32 base = 0; base < num_rows_; base += num_threads()) {
      const i32 i = base + thread_id();
      plan::Row row;
      bool in_a = false;
      Sums mine;
      if (i < num_rows_) {
        row = rows_[i];
        in_a = order_.in_section_a(row);
        if (in_a) {
          mine.count = kOneARow;
        } else {
          const std::int64_t items = plan::items_of(config_, row);
          mine.items = static_cast<i32>(items);
          mine.cost = plan::row_cost(config_, row);
          if (row.tiles > 1) mine.count = static_cast<i32>(plan::min64(items, kMostItems));
        }
      }
      Sums all;
      const Sums before = maker_.scan.exclusive(mine, all);
      if (in_a) {
        const i32 at = a_rows_ + before.count / kOneARow;
        a_list_[at] = row;
        longest_[at] = {plan::longest_item(config_, row), row.tiles};
      } else if (i < num_rows_) {
        rows_[i].tiles_before = b_items_ + before.items;
        rows_[i].cost_before = b_cost_ + before.cost;
        maker_.cost_before[i] = b_cost_ + before.cost;
      }
      a_rows_ += all.count / kOneARow;
      tall_items_ += all.count % kOneARow;
      b_items_ += all.items;
      b_cost_ += all.cost;
      const i32 rows = num_rows_ < base + num_threads() ? num_rows_ : base + num_threads();
      uneven_ = uneven_ || (i < num_rows_ &&
                            (row.tiles != 1 ||
                             !plan::is_equal_part(mine.items, mine.cost, rows, b_items_, b_cost_)));
    }
  }

  // Behind A's, in place: from the last ones on, and a thread's row is read before any is written.
  TW_DEVICE void move_b_rows() {
    sync_block();
    i32 a_before = a_rows_;
#pragma unroll 1
    for (i32 base = (num_rows_ - 1) / num_threads() * num_threads(); base >= 0;
         base -= num_threads()) {
      const i32 i = base + thread_id();
      plan::Row row;
      if (i < num_rows_) row = rows_[i];
      const bool in_a = i < num_rows_ && order_.in_section_a(row);
      i32 all = 0;
      const i32 before = maker_.scan.count_before(in_a, all);
      a_before -= all;
      if (in_a || i >= num_rows_) continue;
      const i32 at = a_rows_ + i - (a_before + before);
      rows_[at] = row;
      maker_.cost_before[at] = row.cost_before;
    }
  }

  // A row stands behind those whose items are longer and, of the same length, those before it.
  TW_DEVICE void place_a_rows() {
#pragma unroll 1
    for (i32 i = thread_id(); i < a_rows_; i += num_threads()) {
      plan::Row row = a_list_[i];
      const std::int64_t length = longest_[i].cost;
      i32 at = 0;
      std::int64_t tiles = 0;
#pragma unroll 4
      for (i32 j = 0; j < a_rows_; ++j) {
        const plan::LongestItem other = longest_[j];
        const bool is_before = other.cost > length || (other.cost == length && j < i);
        at += is_before ? 1 : 0;
        tiles += is_before ? other.tiles : 0;
      }
      row.tiles_before = tiles;
      row.cost_before = 0;
      rows_[at] = row;
      if (at != a_rows_ - 1) continue;
      plan::Header& header = maker_.header();
      const std::int64_t items = (tiles + row.tiles) * config_.num_kv_heads;
      header.num_a_rows = a_rows_;
      header.tail_items =
          order_.is_all_tail() ? items : items % (config_.workers - workers_of_rows_);
      header.a_items = items - header.tail_items;
    }
  }

  // The rows as they are now, to the plan.
  TW_DEVICE void write_rows() {
    if (rows_ == maker_.rows()) return;
    const auto* from = reinterpret_cast<const Bytes16*>(rows_);
    auto* to = reinterpret_cast<Bytes16*>(maker_.rows());
    const i32 units = num_rows_ * static_cast<i32>(sizeof(plan::Row) / sizeof(Bytes16));
#pragma unroll 1
    for (i32 i = thread_id(); i < units; i += num_threads()) store_16(to + i, load_16(from + i));
  }

  // Costs of the tail's items, and before each of them; returns all of them.
  TW_DEVICE std::int64_t sum_tail() {
    const i32 items = static_cast<i32>(maker_.header().tail_items);
    std::int64_t cost = 0;
#pragma unroll 1
    for (i32 base = 0; base < items; base += num_threads()) {
      const i32 i = base + thread_id();
      Sums mine;
      if (i < items) {
        const plan::Item at = tail_item(maker_.view(), i);
        mine.cost = long_tile(maker_, rows_[at.row], at.head, at.tile).cost;
      }
      Sums all;
      const Sums before = maker_.scan.exclusive(mine, all);
      if (i < items) maker_.tail_costs[i] = cost + before.cost;
      cost += all.cost;
    }
    return cost;
  }

  PartMaker& maker_;
  const plan::Config& config_;
  plan::Row* rows_;
  plan::Row* a_list_;
  plan::LongestItem* longest_;
  i32 num_rows_;
  std::int64_t total_;
  std::int64_t share_;  // of a worker, rounded down
  plan::RowOrder order_;
  i32 workers_of_rows_ = 0;
  i32 a_rows_ = 0;
  i32 tall_items_ = 0;
  std::int64_t b_items_ = 0;
  std::int64_t b_cost_ = 0;
  bool uneven_ = false;
};

}  // namespace tw
