// SPDX-License-Identifier: Apache-2.0
#include "device_plan/emulated_plan.h"

#include "attention/device_records.h"
#include "attention/schedule_stats.h"
#include "plan/update.h"

namespace tilewright::test {
namespace {

// Any mask of the kernel: each block makes the plan of one attention, whose mask this is.
struct HostMask {
  HostMasks::Mask mask;

  explicit HostMask(const plan::PartInput& /*part*/)
      : mask(HostMasks::current()[static_cast<std::size_t>(tw::block_id())]) {}
  cpu::BoundMask bound() const { return {*mask.analysis, *mask.bindings}; }
  bool has_mask() const { return bound().has_mask(); }
  bool one_interval() const { return bound().one_interval(); }
  MaskRanges ranges(const QueryRange& queries) const { return bound().ranges(queries); }
  plan::MaskInterval interval(const QueryRange& queries) const { return bound().interval(queries); }
};

template <int kParts>
TW_KERNEL update_kernel(TW_PARAMETER plan::UpdateParams<kParts> params) {
  tw::update_plan<HostMask>(params);
}
template <int kParts>
TW_KERNEL update_listed_kernel(TW_PARAMETER plan::UpdateParams<kParts> params) {
  tw::update_listed_plan<HostMask>(params);
}

template <int kParts>
void launch_host_masks(bool listed, const UpdateLaunch& launch, int threads, std::uint64_t seed) {
  using Params = plan::UpdateParams<kParts>;
  const auto kernel = listed ? update_listed_kernel<kParts> : update_kernel<kParts>;
  launch_update<Params>(kernel, launch, threads, seed, [](Params& params) {
    for (plan::PartInput& part : params.parts) part.mask = 0;  // one kind takes all
  });
}

std::vector<DevicePlan::Configs> configs_of(const std::vector<Attention>& attentions,
                                            const plan::Config& config) {
  std::vector<DevicePlan::Configs> configs;
  for (const Attention& attention : attentions) {
    plan::Config own = config;
    own.num_kv_heads = attention.spec().num_kv_heads;
    own.group_size = attention.spec().group_size();
    own.heads_per_group = std::min(own.heads_per_group, own.num_kv_heads);
    configs.push_back({own, own, own.tile_rows, own.tile_rows});
  }
  return configs;
}

void expect_equal(const plan::Header& a, const plan::Header& b) {
  EXPECT_EQ(a.num_requests, b.num_requests);
  EXPECT_EQ(a.num_rows, b.num_rows);
  EXPECT_EQ(a.num_a_rows, b.num_a_rows);
  EXPECT_EQ(a.workers, b.workers);
  EXPECT_EQ(a.tail_workers, b.tail_workers);
  EXPECT_EQ(a.num_splits, b.num_splits);
  EXPECT_EQ(a.q_tokens, b.q_tokens);
  EXPECT_EQ(a.num_segments, b.num_segments);
  EXPECT_EQ(a.joins_levels, b.joins_levels);
  EXPECT_EQ(a.a_items, b.a_items);
  EXPECT_EQ(a.tail_items, b.tail_items);
  EXPECT_EQ(a.b_items, b.b_items);
  EXPECT_EQ(a.tail_cost, b.tail_cost);
  EXPECT_EQ(a.b_cost, b.b_cost);
}

template <typename T>
std::vector<std::int64_t> numbers(const T& record);

template <>
std::vector<std::int64_t> numbers(const plan::Request& r) {
  return {r.q_begin, r.q_len, r.kv_len, r.q_pos};
}
template <>
std::vector<std::int64_t> numbers(const plan::Segment& s) {
  return {s.level, s.index, s.kv_len, s.parent};
}
template <>
std::vector<std::int64_t> numbers(const plan::Row& r) {
  return {r.level, r.index, r.segment,         r.q_begin,   r.q_len,        r.kv_len,     r.kv_pos,
          r.heads, r.tiles, r.max_tile_blocks, r.head_cost, r.tiles_before, r.cost_before};
}
template <>
std::vector<std::int64_t> numbers(const plan::Cut& c) {
  return {c.item, c.block, c.cost};
}
template <>
std::vector<std::int64_t> numbers(const plan::Split& s) {
  return {s.item, s.first, s.last};
}
template <>
std::vector<std::int64_t> numbers(const std::uint8_t& levels) {
  return {levels};
}
template <>
std::vector<std::int64_t> numbers(const std::int32_t& keys) {
  return {keys};
}

template <>
std::vector<std::int64_t> numbers(const plan::Start& s) {
  return {s.item.row, s.item.head,   s.item.tile,  s.items,   s.begin, s.end,
          s.last_end, s.split,       s.request,    s.q_begin, s.q_len, s.kv_len,
          s.q_pos,    s.first_block, s.full_begin, s.full_end};
}

// What a worker begins with, as the rest of the plan says it.
plan::Start start_of(const plan::View& view, const cpu::BoundMask& mask, std::int32_t worker) {
  const plan::Schedule& schedule = view.schedule;
  const plan::Cut& from = schedule.cuts[worker];
  const plan::Cut& to = schedule.cuts[worker + 1];
  plan::Start start;
  start.items = static_cast<std::int32_t>(to.item - from.item) + (to.block > 0 ? 1 : 0);
  if (start.items == 0) return start;
  start.item = plan::b_item(schedule, from.item);
  start.begin = from.block;
  start.last_end = to.block;
  start.end = start.items == 1 && to.block > 0 ? to.block : -1;
  const plan::Split* const splits = schedule.splits;
  while (start.split < schedule.header->num_splits &&
         (splits[start.split].item < from.item ||
          (splits[start.split].item == from.item && splits[start.split].last < worker))) {
    ++start.split;
  }
  // Rows whose blocks are listed are measured as long ones.
  bool all_short = view.token_levels == nullptr && schedule.config.heads_differ == 0 &&
                   !(view.blocks.defined() && mask.has_mask());
  for (std::int32_t i = 0; i < schedule.header->num_rows; ++i) {
    all_short = all_short && schedule.rows[i].tiles == 1;
  }
  const plan::Row& row = schedule.rows[start.item.row];
  if (!all_short || row.kv_pos != 0) return start;
  const plan::Request& request = view.requests[row.index];
  if (start.end < 0) start.end = row.max_tile_blocks;
  start.request = row.index;
  start.q_begin = request.q_begin;
  start.q_len = request.q_len;
  start.kv_len = request.kv_len;
  start.q_pos = request.q_pos;
  if (mask.has_mask() && !mask.one_interval()) return start;
  const plan::TileSpan span = plan::tile_span(view, mask, row, start.item.head, 0);
  start.first_block = span.begin;
  start.full_begin = span.full_begin;
  start.full_end = span.full_end;
  return start;
}

template <typename T>
void expect_equal(const char* what, const T* host, const T* device, std::int64_t count) {
  if (host == nullptr || device == nullptr) {
    EXPECT_EQ(host == nullptr, device == nullptr) << what;
    return;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    ASSERT_EQ(numbers(host[i]), numbers(device[i])) << what << " " << i;
  }
}

}  // namespace

EmulatedPlan::EmulatedPlan(const std::vector<Attention>& attentions, const Limits& limits,
                           const plan::Config& config, EmulatedKernel kernel)
    : host(attentions, limits),
      limits_(limits),
      device_(attentions, limits, configs_of(attentions, config), 4),
      kernel_(kernel) {
  const std::vector<DevicePlan::Configs> configs = configs_of(attentions, config);
  for (std::size_t i = 0; i < attentions.size(); ++i) {
    host.impl().parts[i].plan.schedule.config = configs[i].requests;
  }
  workspace_ = std::make_unique<tw::emulator::GuardedBuffer>("workspace", device_.lay_out(nullptr));
  device_.lay_out(reinterpret_cast<std::byte*>(workspace_->data()));
  std::memset(workspace_->data(), 0, device_.state_bytes());
}

void EmulatedPlan::update(const Batch& batch, const std::vector<PlanInput>& inputs, int threads,
                          std::uint64_t seed) {
  host.update(batch, inputs);
  update_device(batch, inputs, threads, seed);
}

void EmulatedPlan::update_device(const Batch& batch, const std::vector<PlanInput>& inputs,
                                 int threads, std::uint64_t seed) {
  for (std::size_t i = 0; i < host.impl().parts.size(); ++i) {
    const PlanPart& part = host.impl().parts[i];
    HostMasks::current()[i] = {&part.attention.impl().variant.mask, &part.plan.bindings};
  }
  device_.update(batch, inputs,
                 [&](const UpdateLaunch& launch, Stream) {
                   if (kernel_ != nullptr) {
                     kernel_(launch, threads, seed);
                   } else if (device_.parts().size() == 1) {
                     launch_host_masks<1>(limits_.block_structures, launch, threads, seed);
                   } else {
                     launch_host_masks<kMostParts>(limits_.block_structures, launch, threads, seed);
                   }
                 },
                 {});
}

void EmulatedPlan::expect_equal_records() const {
  for (std::size_t i = 0; i < device_.parts().size(); ++i) {
    SCOPED_TRACE(i);
    const plan::View& a = host.impl().parts[i].plan;
    const plan::View& b = view(i);
    const plan::Header& header = *a.schedule.header;
    test::expect_equal(header, *b.schedule.header);
    if (testing::Test::HasFailure()) return;
    test::expect_equal("request", a.requests, b.requests, header.num_requests);
    test::expect_equal("row", a.schedule.rows, b.schedule.rows, header.num_rows);
    test::expect_equal("segment", a.segments, b.segments, header.num_segments);
    test::expect_equal("cut", a.schedule.cuts, b.schedule.cuts, header.workers + 1);
    test::expect_equal("split", a.schedule.splits, b.schedule.splits, header.num_splits);
    const auto& attention = host.impl().parts[i];
    const cpu::BoundMask mask{attention.attention.impl().variant.mask, attention.plan.bindings};
    for (std::int32_t worker = 0; worker < b.schedule.config.workers; ++worker) {
      const plan::Start& start = b.schedule.starts[worker];
      if (start.items == 0) {
        EXPECT_TRUE(worker >= header.workers || start_of(a, mask, worker).items == 0) << worker;
        continue;
      }
      ASSERT_LT(worker, header.workers);
      ASSERT_EQ(numbers(start_of(a, mask, worker)), numbers(start)) << "start " << worker;
    }
    test::expect_equal("token_levels", a.token_levels, b.token_levels, header.q_tokens);
    test::expect_equal("token_keys", a.token_keys, b.token_keys, header.q_tokens);
  }
}

void EmulatedPlan::expect_equal_stats() const {
  const auto numbers = [](const PlanPiece& p) {
    return std::vector<std::int64_t>{p.worker, p.level,       p.row,        p.request, p.kv_head,
                                     p.tile,   p.first_block, p.num_blocks, p.start,   p.cost};
  };
  for (const DevicePlan::Part& part : device_.parts()) {
    // Nothing may point to the device's memory when all is copied: it is.
    int under_way = 0;
    const DeviceRecords records(part, {[&](void* to, const void* from, std::size_t bytes) {
                                         std::memcpy(to, from, bytes);
                                         ++under_way;
                                       },
                                       [&] { under_way = 0; }});
    EXPECT_EQ(under_way, 0) << "copies that nobody waits for";
    const AttentionImpl& attention = part.attention.impl();
    const PlanStats a = host.stats(part.attention);
    const PlanStats b = stats_of(records.plan(), attention);
    EXPECT_EQ(a.tiles, b.tiles);
    EXPECT_EQ(a.blocks, b.blocks);
    EXPECT_EQ(a.full_blocks, b.full_blocks);
    EXPECT_EQ(a.skipped_blocks, b.skipped_blocks);
    EXPECT_EQ(a.split_tiles, b.split_tiles);
    EXPECT_EQ(a.kv_bytes, b.kv_bytes);
    EXPECT_EQ(a.balance, b.balance);
    EXPECT_EQ(a.folded_rows, b.folded_rows);
    const std::vector<PlanPiece> host_pieces = host.pieces(part.attention);
    const std::vector<PlanPiece> pieces = pieces_of(records.plan(), attention);
    ASSERT_EQ(host_pieces.size(), pieces.size());
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      ASSERT_EQ(numbers(host_pieces[i]), numbers(pieces[i])) << "piece " << i;
    }
  }
}

void EmulatedPlan::expect_equal() const {
  expect_equal_records();
  expect_equal_stats();
  for (std::int64_t r = 0; r <= limits_.requests; ++r) ASSERT_EQ(status(r), 0U) << r;
}

std::uint32_t EmulatedPlan::status(std::int64_t request) const {
  const std::int32_t turn = view(0).schedule.header->status_turn;
  return device_.status().words[turn * (limits_.requests + 1) + request];
}

}  // namespace tilewright::test
