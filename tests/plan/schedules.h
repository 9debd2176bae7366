// SPDX-License-Identifier: Apache-2.0
// Schedules for tests: of random batches, and of decoding requests.
#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "plan/schedule.h"

namespace tilewright::plan {

// A schedule that owns its memory.
class OwnedSchedule {
 public:
  OwnedSchedule(const Config& config, const std::vector<Row>& rows)
      : rows_(rows),
        cuts_(static_cast<std::size_t>(config.workers) + 1),
        splits_(static_cast<std::size_t>(config.workers)) {
    schedule_.config = config;
    header_.num_rows = static_cast<std::int32_t>(rows.size());
    schedule_.header = &header_;
    schedule_.rows = rows_.data();
    schedule_.cuts = cuts_.data();
    schedule_.splits = splits_.data();
  }

  Schedule& get() { return schedule_; }

 private:
  Header header_;
  std::vector<Row> rows_;
  std::vector<Cut> cuts_;
  std::vector<Split> splits_;
  Schedule schedule_;
};

// Blocks that a tile needs, as masks would say: a causal triangle, a window, everything, or
// anything.
struct Blocks {
  Config config;
  int kind = 0;

  std::int32_t operator()(const Row& row, std::int32_t head, std::int32_t tile) const {
    const auto all = static_cast<std::int32_t>(ceil_div(row.kv_len, config.block_tokens));
    const std::int64_t last =
        (static_cast<std::int64_t>(tile) + 1) * config.tile_rows / config.group_size;
    switch (kind) {
      case 0:
        return all;
      case 1:
        return static_cast<std::int32_t>(std::clamp<std::int64_t>(
            ceil_div(row.kv_len - row.q_len + last, config.block_tokens), 0, all));
      case 2:
        return std::min(all, 3);
      default: {
        const std::int32_t differs = config.heads_differ != 0 ? head : 0;
        return static_cast<std::int32_t>((row.index * 7919 + differs * 31 + tile * 17) % (all + 1));
      }
    }
  }
};

struct Scenario {
  Config config;
  Blocks blocks;
  std::vector<Row> rows;
};

inline Scenario random_scenario(std::mt19937& random) {
  const auto pick = [&](int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(random);
  };
  Scenario s;
  s.config.num_kv_heads = pick(1, 9);
  s.config.group_size = pick(1, 8);
  s.config.tile_rows = std::vector{1, 16, 64, 128}[static_cast<std::size_t>(pick(0, 3))];
  s.config.block_tokens = std::vector{16, 64, 128}[static_cast<std::size_t>(pick(0, 2))];
  s.config.workers = pick(1, 40);
  s.config.heads_per_group = pick(1, s.config.num_kv_heads);
  s.config.heads_differ = pick(0, 1);
  s.config.cost = {pick(1, 20), pick(1, 10), pick(0, 2)};
  s.config.cost.full_from = pick(0, 1) * pick(1, s.config.tile_rows);
  s.config.least_share = pick(1, 500);
  s.config.rounds_workers = pick(0, 1);
  s.config.joint_rows = pick(0, 1) * s.config.tile_rows;  // so that there is one tile
  s.config.max_heads = s.config.joint_rows > 0 ? pick(1, 4) : 1;
  s.config.divides_workers = pick(0, 1);
  s.blocks = {s.config, pick(0, 3)};
  const int rows = pick(0, 20);
  for (int i = 0; i < rows; ++i) {
    Row row;
    row.index = i;
    row.q_len = pick(0, 3) != 0 ? pick(1, 4) : pick(1, 300);
    row.kv_len = pick(0, 4) == 0 ? pick(0, 20000) : pick(0, 700);
    s.rows.push_back(row);
  }
  return s;
}

inline void make(OwnedSchedule& owned, const Blocks& blocks) {
  Schedule& s = owned.get();
  for (std::int32_t row = 0; row < s.header->num_rows; ++row) {
    measure_row(s.config, s.rows[row], blocks);
  }
  make_schedule(s, blocks,
                [](Row* begin, Row* end, const SortRows& order) { std::sort(begin, end, order); });
}

struct RandomSchedule {
  explicit RandomSchedule(std::mt19937& random)
      : scenario(random_scenario(random)), owned(scenario.config, scenario.rows) {
    make(owned, scenario.blocks);
  }

  const Scenario scenario;
  OwnedSchedule owned;
};

// A request of one query token for each length.
inline std::vector<Row> decode_rows(const std::vector<std::int32_t>& kv_lens) {
  std::vector<Row> rows;
  for (const std::int32_t kv_len : kv_lens) {
    Row row;
    row.index = static_cast<std::int32_t>(rows.size());
    row.q_len = 1;
    row.kv_len = kv_len;
    rows.push_back(row);
  }
  return rows;
}

// 32 query heads over 8 KV heads, as in many models.
inline Config llama_config(int workers) {
  Config config;
  config.num_kv_heads = 8;
  config.group_size = 4;
  config.tile_rows = 64;
  config.block_tokens = 64;
  config.workers = workers;
  config.cost = {10, 8, 1};
  return config;
}

// Of a GPU whose workers are divided.
inline Config gpu_config(std::int32_t fixed_cost) {
  Config config = llama_config(132);
  config.tile_rows = 128;
  config.block_tokens = 128;
  config.heads_per_group = 8;
  config.cost = {fixed_cost, 100, 1};
  config.least_share = 100;
  config.divides_workers = 1;
  return config;
}

// 64 decoding requests, and a row of several query tokens.
inline std::vector<Row> decode_rows_and(std::int32_t decode_kv_len, std::int32_t q_len,
                                        std::int32_t kv_len) {
  std::vector<Row> rows = decode_rows(std::vector<std::int32_t>(64, decode_kv_len));
  Row row;
  row.index = 64;
  row.q_len = q_len;
  row.kv_len = kv_len;
  rows.push_back(row);
  return rows;
}

}  // namespace tilewright::plan
