// SPDX-License-Identifier: Apache-2.0
// What a batch costs on a GPU: its schedule, made on the host as the device would make it, and the
// bounds of its bytes and products.
#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/attention_impl.h"
#include "attention/batch_reader.h"
#include "attention/cuda_params.h"
#include "attention/kernel_choice.h"
#include "attention/level_folding.h"
#include "attention/plan_impl.h"
#include "attention/schedule_stats.h"
#include "base/checks.h"
#include "cpu/tile_ranges.h"

namespace tilewright {
namespace {

void require_model(const GpuModel& gpu) {
  const auto positive = [](const char* name, double value) {
    require(value > 0 && std::isfinite(value), "gpu.{} is {}: it must be positive", name, value);
  };
  positive("num_sms", gpu.num_sms);
  positive("l2_bytes", static_cast<double>(gpu.l2_bytes));
  positive("bytes_per_second", gpu.bytes_per_second);
  positive("operations_per_second", gpu.operations_per_second);
}

// The batch as update() is given it.
class BatchTensors {
 public:
  explicit BatchTensors(const std::vector<RequestLengths>& lengths) {
    for (const RequestLengths& of : lengths) {
      if (of.shared_len > 0 || !shared_lens_.empty()) {
        if (shared_lens_.empty()) shared_indptr_.push_back(qo_indptr_.back());
        shared_lens_.push_back(static_cast<std::int32_t>(of.shared_len));
      }
      for (std::int64_t i = 0; i < of.requests; ++i) {
        qo_indptr_.push_back(qo_indptr_.back() + static_cast<std::int32_t>(of.q_len));
        kv_lens_.push_back(static_cast<std::int32_t>(of.kv_len - of.shared_len));
      }
      if (!shared_lens_.empty()) shared_indptr_.push_back(qo_indptr_.back());
      most_keys_ = std::max(most_keys_, of.kv_len);
    }
    // Behind the last row that has keys.
    while (!shared_lens_.empty() && shared_lens_.back() == 0) {
      shared_lens_.pop_back();
      shared_indptr_.pop_back();
    }
    batch_.qo_indptr = view(qo_indptr_);
    if (shared_lens_.empty()) batch_.kv_lens = view(kv_lens_);
  }
  BatchTensors(const BatchTensors&) = delete;
  BatchTensors& operator=(const BatchTensors&) = delete;

  const Batch& batch() const { return batch_; }
  // Rows of the outer level without keys: of entries that share none, between those that do.
  std::int64_t empty_rows() const {
    return std::count(shared_lens_.begin(), shared_lens_.end(), 0);
  }
  std::vector<KvLevel> levels() {
    const PageTable table = PageTable::contiguous(most_keys_);
    if (shared_lens_.empty()) return {{table, {}, {}, {}, {}}};
    return {{table, view(shared_lens_), view(shared_indptr_), {}, {}},
            {table, view(kv_lens_), {}, {}, {}}};
  }

 private:
  static TensorView view(std::vector<std::int32_t>& values) {
    return {values.data(), DType::i32, {std::ssize(values)}};
  }

  std::vector<std::int32_t> qo_indptr_{0};
  std::vector<std::int32_t> kv_lens_;  // without those that are shared
  // Rows of the outer level, from the first entry of the batch that shares keys on.
  std::vector<std::int32_t> shared_indptr_;
  std::vector<std::int32_t> shared_lens_;
  std::int64_t most_keys_ = 0;
  Batch batch_;
};

// What queries need of their keys, whatever the tiles.
class Needs {
 public:
  Needs(const cpu::AttentionPlan& plan, const AttentionImpl& attention)
      : plan_(plan), attention_(attention) {}

  // Of all rows, before any is folded, and KV heads: keys that are read at least once.
  std::int64_t keys() const {
    return over_heads([&](const plan::Row& row, std::int32_t head) { return keys_of(row, head); });
  }
  // Of all rows and query heads.
  double pairs() const {
    const int group = attention_.spec.group_size();
    std::int64_t pairs = over_heads([&](const plan::Row& row, std::int32_t head) {
      std::int64_t sum = 0;
      for (int i = 0; i < (differ() ? group : 1); ++i) sum += pairs_of(row, head, i);
      return sum;
    });
    return static_cast<double>(pairs) * (differ() ? 1 : group);
  }

 private:
  bool differ() const { return plan_.schedule.config.heads_differ != 0; }

  template <typename Count>
  std::int64_t over_heads(const Count& count) const {
    const std::int32_t heads = plan_.schedule.config.num_kv_heads;
    std::int64_t sum = 0;
    for (std::int32_t i = 0; i < plan_.schedule.header->num_rows; ++i) {
      const plan::Row& row = plan_.schedule.rows[i];
      for (std::int32_t head = 0; head < (differ() ? heads : 1); ++head) sum += count(row, head);
    }
    return differ() ? sum : sum * heads;
  }

  std::int64_t keys_of(const plan::Row& row, std::int32_t head) const {
    const std::int64_t width = plan_.schedule.config.block_tokens;
    // How many tiles begin and end to need a block.
    std::vector<std::int32_t> changes(static_cast<std::size_t>(plan::ceil_div(row.kv_len, width)) +
                                      1);
    for (std::int32_t tile = 0; tile < row.tiles; ++tile) {
      const plan::TileRanges ranges =
          cpu::tile_ranges(plan_, attention_.variant.mask, row, head, tile);
      for (int i = 0; i < ranges.num_spans; ++i) {
        ++changes[static_cast<std::size_t>(ranges.spans[i].begin)];
        --changes[static_cast<std::size_t>(ranges.spans[i].end)];
      }
    }
    std::int64_t keys = 0;
    std::int32_t needed = 0;
    for (std::size_t block = 0; block + 1 < changes.size(); ++block) {
      needed += changes[block];
      const std::int64_t begin = static_cast<std::int64_t>(block) * width;
      if (needed > 0) keys += std::min(width, row.kv_len - begin);
    }
    return keys;
  }

  // Of query head `i` of the group.
  std::int64_t pairs_of(const plan::Row& row, std::int32_t head, int i) const {
    const MaskAnalysis& mask = attention_.variant.mask;
    if (mask.mask_class() == MaskClass::none) {
      return static_cast<std::int64_t>(row.q_len) * row.kv_len;
    }
    std::int64_t pairs = 0;
    for (std::int64_t token = row.q_begin; token < row.q_begin + row.q_len; ++token) {
      plan::QueryRange query =
          plan::query_range(plan_, plan_.request_of(row, token), head, token, token + 1);
      query.q_head_begin = std::int64_t{head} * attention_.spec.group_size() + i;
      query.q_head_end = query.q_head_begin + 1;
      const IntervalSet keys = plan::keys_at(plan_, row, mask.ranges(query, plan_.bindings).needed);
      for (int k = 0; k < keys.count; ++k) {
        pairs += keys.intervals[k].end - keys.intervals[k].begin;
      }
    }
    return pairs;
  }

  const cpu::AttentionPlan& plan_;
  const AttentionImpl& attention_;
};

// A schedule in host memory with the constants of a kernel on a GPU.
class HostSchedule {
 public:
  HostSchedule(const Attention& attention, const plan::Config& config, const Limits& limits,
               BatchTensors& tensors, const std::vector<ParamValue>& params)
      : attention_(attention.impl()) {
    const std::vector<KvLevel> levels = tensors.levels();
    const BatchReader reader(tensors.batch(), limits, Device{});
    const auto requests = static_cast<std::size_t>(reader.num_requests());
    const auto tokens = static_cast<std::size_t>(limits.q_tokens);
    requests_.resize(requests);
    rows_.resize(requests * levels.size());
    segments_.resize(requests * levels.size());
    token_levels_.resize(levels.size() > 1 ? tokens : 0);
    token_keys_.resize(levels.size() > 1 ? tokens : 0);
    cuts_.resize(static_cast<std::size_t>(config.workers) + 1);
    splits_.resize(static_cast<std::size_t>(config.workers));
    plan.batch_invariant = limits.determinism == Determinism::batch_invariant;
    plan.requests = requests_.data();
    plan.segments = segments_.data();
    plan.schedule = {config, &header_, rows_.data(), cuts_.data(), splits_.data(), nullptr};
    plan.schedule.config.heads_differ = attention_.variant.mask_depends_on_head ? 1 : 0;
    reader.read({attention, levels}, {token_levels_.data(), token_keys_.data()}, plan);
    attention_.variant.binder.bind(params, Bind::plan,
                                   {attention_.spec.num_qo_heads, attention_.spec.num_kv_heads,
                                    reader.num_requests(), header_.q_tokens},
                                   Device{}, plan.bindings);
    for (std::int32_t i = 0; i < header_.num_rows; ++i) plan::start_row(config, rows_[i]);
    const Needs needs(plan, attention_);
    needed_keys = needs.keys();
    pairs = needs.pairs();
    fold_levels(plan);
    make();
  }
  HostSchedule(const HostSchedule&) = delete;
  HostSchedule& operator=(const HostSchedule&) = delete;

  cpu::AttentionPlan plan;
  std::int64_t needed_keys = 0;
  double pairs = 0;

 private:
  void make() {
    plan::Schedule& schedule = plan.schedule;
    const auto blocks = [&](const plan::Row& row, std::int32_t head, std::int32_t tile) {
      return cpu::tile_ranges(plan, attention_.variant.mask, row, head, tile).blocks;
    };
    for (std::int32_t i = 0; i < header_.num_rows; ++i) {
      plan::measure_row(schedule.config, schedule.rows[i], blocks);
    }
    plan::make_schedule(schedule, blocks,
                        [](plan::Row* begin, plan::Row* end, const plan::SortRows& order) {
                          std::sort(begin, end, order);
                        });
  }

  const AttentionImpl& attention_;
  std::vector<plan::Request> requests_;
  std::vector<plan::Row> rows_;
  std::vector<plan::Segment> segments_;
  std::vector<std::uint8_t> token_levels_;
  std::vector<std::int32_t> token_keys_;
  std::vector<plan::Cut> cuts_;
  std::vector<plan::Split> splits_;
  plan::Header header_;
};

// Mean over largest of what all workers do.
double balance_of(const std::vector<PlanPiece>& pieces, int workers) {
  std::int64_t total = 0;
  std::int64_t longest = 0;
  for (const PlanPiece& piece : pieces) {
    total += piece.cost;
    longest = std::max(longest, piece.start + piece.cost);
  }
  return longest > 0 ? static_cast<double>(total) / workers / static_cast<double>(longest) : 1;
}

void add_schedule(const cpu::AttentionPlan& plan, const AttentionImpl& attention, BatchWork& work) {
  const plan::Schedule& schedule = plan.schedule;
  const plan::Header& header = *schedule.header;
  std::int64_t total = 0;
  for (std::int32_t i = 0; i < header.num_rows; ++i) {
    total += plan::row_cost(schedule.config, schedule.rows[i]);
  }
  work.stats = stats_of(plan, attention);
  work.workers = schedule.config.workers;
  work.b_workers = header.b_items > 0 ? header.workers : 0;
  work.a_items = header.a_items;
  work.b_items = header.b_items;
  if (total > 0) {
    work.b_share = static_cast<double>(header.b_cost) / static_cast<double>(total);
    work.a_share = 1 - work.b_share;
  }
  work.balance = balance_of(pieces_of(plan, attention), work.workers);
}

}  // namespace

Limits limits_of(const std::vector<RequestLengths>& batch) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max() / 2;
  require(!batch.empty(), "batch is empty: it must have a request");
  Limits limits;
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const auto in_range = [&](const char* name, std::int64_t value, std::int64_t least) {
      require(value >= least && value <= kMost, "batch[{}].{} is {}: it must be in [{}, {}]", i,
              name, value, least, kMost);
    };
    const RequestLengths& of = batch[i];
    in_range("requests", of.requests, 1);
    in_range("q_len", of.q_len, 1);
    in_range("kv_len", of.kv_len, 0);
    require(of.shared_len >= 0 && of.shared_len <= of.kv_len,
            "batch[{}].shared_len is {}: it must be in [0, {}], its kv_len", i, of.shared_len,
            of.kv_len);
    if (of.shared_len > 0) limits.levels = 2;
    limits.requests += of.requests;
    limits.q_tokens += of.requests * of.q_len;
    limits.q_len = std::max(limits.q_len, of.q_len);
    limits.kv_len = std::max(limits.kv_len, of.kv_len);
    require(limits.q_tokens <= kMost, "batch has {} query tokens up to batch[{}]: at most {} fit",
            limits.q_tokens, i, kMost);
  }
  return limits;
}

BatchWork explain_batch(const AttentionSpec& spec, const Limits& limits,
                        const std::vector<RequestLengths>& batch, const GpuModel& gpu,
                        const std::vector<ParamValue>& params, std::int64_t page_size) {
  const KernelChoices choices = choose_kernels(spec, limits, gpu.arch);
  require_model(gpu);
  require(page_size >= 0, "page_size is {}: it must be positive, or 0 without pages", page_size);
  const Limits needed = limits_of(batch);
  // Before memory is taken for them.
  if (needed.requests > limits.requests) {
    raise(ErrorCode::limit_exceeded, "batch has {} requests: limits.requests is {}",
          needed.requests, limits.requests);
  }
  const Attention attention(spec);
  const PlanUses uses = plan_uses(spec, limits);
  const CudaShape shape = cuda_shape(spec, CudaTarget::of_arch(choices.requests.arch),
                                     needed.levels > 1 ? uses.rows : uses.requests);
  const plan::Config config = kernel_config(attention, shape, gpu.num_sms, gpu.l2_bytes, limits);
  BatchTensors tensors(batch);
  const HostSchedule schedule(attention, config, limits, tensors, params);

  BatchWork work;
  work.requests = needed.requests;
  work.q_tokens = needed.q_tokens;
  for (const RequestLengths& of : batch) {
    work.kv_tokens += of.requests * (of.kv_len - of.shared_len) + of.shared_len;
  }
  add_schedule(schedule.plan, attention.impl(), work);
  work.stats.folded_rows -= tensors.empty_rows();
  work.box_tokens = shape.kind == KernelKind::hopper ? box_tokens(page_size) : 0;
  work.kv_bytes = schedule.needed_keys * (spec.head_dim * dtype_bytes(spec.kv_dtype) +
                                          spec.value_dim() * dtype_bytes(spec.value_dtype()));
  work.qo_bytes = work.q_tokens * spec.num_qo_heads *
                  (spec.head_dim * dtype_bytes(spec.q_dtype) +
                   spec.value_dim() * dtype_bytes(spec.output_dtype()));
  work.pairs = schedule.pairs;
  work.operations = 2 * work.pairs * (spec.head_dim + spec.value_dim());
  work.memory_us = static_cast<double>(work.kv_bytes + work.qo_bytes) / gpu.bytes_per_second * 1e6;
  // Without matrix instructions the models' GPUs do a fifteenth or sixteenth.
  const double slower = shape.kind == KernelKind::scalar ? 16 : 1;
  work.compute_us = slower * work.operations / gpu.operations_per_second * 1e6;
  return work;
}

}  // namespace tilewright
