// SPDX-License-Identifier: Apache-2.0
#include "cpu/attention.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "base/parallel.h"
#include "cpu/tile.h"

namespace tilewright::cpu {
namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();

std::size_t round_up(std::size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

Partial partial_at(std::byte* memory, std::int64_t rows, int value_dim) {
  Partial partial;
  partial.o = reinterpret_cast<float*>(memory);
  partial.m = partial.o + rows * value_dim;
  partial.l = partial.m + rows;
  return partial;
}

// Partial results of one level: [token][head].
std::size_t one_level_bytes(const AttentionSpec& spec, std::int64_t q_tokens) {
  return round_up(static_cast<std::size_t>(q_tokens) * spec.num_qo_heads * (spec.value_dim() + 2) *
                  sizeof(float));
}

// Runs parts of tiles on one thread and puts their results where they belong.
class Runner {
 public:
  Runner(const AttentionCall& call, const RunMemory& memory, int thread)
      : call_(call),
        memory_(memory),
        schedule_(call.plan->schedule),
        scratch_(TileScratch::carve(memory.scratch + memory.scratch_bytes * thread, *call.spec)) {}

  // A whole item of section A.
  void run_item(const plan::Item& item) {
    begin(item);
    compute(0, ranges_.blocks);
    finish();
  }

  // A worker's share of section B.
  void run_share(std::int32_t worker) {
    const plan::Cut& from = schedule_.cuts[worker];
    const plan::Cut& to = schedule_.cuts[worker + 1];
    for (std::int64_t index = from.item; index < to.item || (index == to.item && to.block > 0);
         ++index) {
      begin(plan::b_item(schedule_, index));
      const bool from_start = index != from.item || from.block == 0;
      const bool to_end = index != to.item;
      compute(from_start ? 0 : from.block, to_end ? ranges_.blocks : to.block);
      if (from_start && to_end) {
        finish();
      } else {
        keep(from_start ? plan::second_slot(worker) : plan::first_slot(worker));
      }
    }
  }

  // Joins the parts of a split item, in the order of its blocks.
  void merge(const plan::Split& split) {
    set_up(plan::b_item(schedule_, split.item));
    const Partial joined = slot(plan::slot_of_part(split.first, 0));
    for (std::int32_t i = 1; i < plan::parts_of(split); ++i) {
      merge_partial(joined, slot(plan::slot_of_part(split.first, i)), num_rows_ * row_->heads,
                    call_.spec->value_dim());
    }
    for (int head = 0; head < row_->heads; ++head) results_[head] = of_head(joined, head);
    finish();
  }

  // Writes the output of those query tokens of [begin, end) that no row of one level completes
  // alone: their levels are joined, outermost first.
  void join_levels(std::int64_t begin, std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      const unsigned levels = call_.plan->token_levels[token];
      if (!std::has_single_bit(levels)) join_token(token, levels);
    }
  }

 private:
  void set_up(const plan::Item& item) {
    item_ = item;
    row_ = &schedule_.rows[item.row];
    num_rows_ = plan::rows_of_tile(schedule_.config, *row_, item.tile);
    for (int head = 0; head < row_->heads; ++head) {
      set_up_rows(call_, *row_, item.head + head, item.tile, num_rows_, scratch_of(head));
    }
  }

  void begin(const plan::Item& item) {
    set_up(item);
    ranges_ = tile_ranges(*call_.plan, call_.variant->mask, *row_, item.head, item.tile);
  }

  // Scratch of one of the item's KV heads. Few rows of each lie close together, where they do not
  // compete for the same sets of the L1 cache.
  TileScratch scratch_of(int head) const {
    const bool narrow = num_rows_ <= kAlwaysNarrowRows && !call_.plan->batch_invariant;
    return scratch_.from_row(head * (narrow ? num_rows_ : kSubTileRows), *call_.spec);
  }

  void compute(std::int32_t block_begin, std::int32_t block_end) {
    std::array<TilePart, kMaxJointHeads> parts;
    for (int head = 0; head < row_->heads; ++head) {
      parts[head] = {&call_,   row_,        item_.head + head, num_rows_,
                     &ranges_, block_begin, block_end,         scratch_of(head)};
    }
    compute_parts(parts.data(), row_->heads, results_.data());
  }

  // The rows of one of the item's KV heads, in a slot.
  Partial of_head(const Partial& partial, int head) const {
    const std::int64_t first = static_cast<std::int64_t>(head) * num_rows_;
    return {partial.o + first * call_.spec->value_dim(), partial.m + first, partial.l + first};
  }

  Partial slot(std::int32_t index) const {
    const int value_dim = call_.spec->value_dim();
    return partial_at(memory_.slots + slot_bytes(schedule_.config, value_dim) * index,
                      schedule_.config.tile_rows, value_dim);
  }

  // Rows of a level's results: [level][token][head].
  Partial level_rows(int level, std::int64_t token, std::int64_t head) const {
    const std::int64_t heads = call_.spec->num_qo_heads;
    const std::int64_t rows = schedule_.header->q_tokens * heads;
    const int value_dim = call_.spec->value_dim();
    const std::size_t bytes = one_level_bytes(*call_.spec, schedule_.header->q_tokens);
    const Partial partial = partial_at(memory_.levels + bytes * level, rows, value_dim);
    const std::int64_t row = token * heads + head;
    return {partial.o + row * value_dim, partial.m + row, partial.l + row};
  }

  void keep(std::int32_t index) {
    for (int head = 0; head < row_->heads; ++head) {
      copy_rows(results_[head], 0, of_head(slot(index), head), num_rows_);
    }
  }

  void copy_rows(const Partial& from, int row, const Partial& to, int count) const {
    const int value_dim = call_.spec->value_dim();
    std::copy_n(from.o + row * value_dim, static_cast<std::int64_t>(count) * value_dim, to.o);
    std::copy_n(from.m + row, count, to.m);
    std::copy_n(from.l + row, count, to.l);
  }

  // The item's rows are complete in their level.
  void finish() {
    for (int head = 0; head < row_->heads; ++head) finish(results_[head], scratch_of(head));
  }

  void finish(const Partial& part, const TileScratch& scratch) {
    const std::uint8_t* levels = call_.plan->token_levels;
    for (int r = 0; r < num_rows_; ++r) {
      const TileRow& row = scratch.rows[r];
      if (levels == nullptr || std::has_single_bit(levels[row.token])) {
        store_row(row.token, row.context, part.o + r * call_.spec->value_dim(), part.m[r],
                  part.l[r]);
      } else {
        copy_rows(part, r, level_rows(row_->level, row.token, row.context.q_head), 1);
      }
    }
  }

  std::byte* output_row(std::int64_t token, const RowContext& context) const {
    const TensorView& out = call_.out;
    return static_cast<std::byte*>(out.data) +
           (token * out.strides[0] + context.q_head * out.strides[1]) * dtype_bytes(out.dtype);
  }

  // `levels`: a bit for each level that has a partial result; there may be none.
  void join_token(std::int64_t token, unsigned levels) {
    const AttentionSpec& spec = *call_.spec;
    const AttentionPlan& plan = *call_.plan;
    Partial joined;
    for (int level = 0; level < plan.num_levels; ++level) {
      if ((levels >> level & 1U) == 0) continue;
      const Partial rows = level_rows(level, token, 0);
      if (joined.o == nullptr) {
        joined = rows;
      } else {
        merge_partial(joined, rows, spec.num_qo_heads, spec.value_dim());
      }
    }
    RowContext context;
    context.batch = plan.request_of(token);
    const plan::Request& request = plan.requests[context.batch];
    context.q_pos = plan.position_of_query(request, token);
    context.q_len = request.q_len;
    context.kv_len = request.kv_len;
    context.q_index = token;
    context.q_begin = request.q_begin;
    for (int head = 0; head < spec.num_qo_heads; ++head) {
      context.q_head = head;
      context.kv_head = head / spec.group_size();
      if (joined.o == nullptr) {
        store_row(token, context, nullptr, kNegInf, 0.0F);
      } else {
        store_row(token, context, joined.o + head * spec.value_dim(), joined.m[head],
                  joined.l[head]);
      }
    }
  }

  void store_row(std::int64_t token, const RowContext& context, float* o, float m, float l) {
    const int value_dim = call_.spec->value_dim();
    // A row of NaN logits may keep the maximum it began with; its sum tells.
    const bool sees_keys = m != kNegInf || l != 0.0F;
    float* const lse = call_.lse.defined()
                           ? static_cast<float*>(call_.lse.data) + token * call_.lse.strides[0] +
                                 context.q_head * call_.lse.strides[1]
                           : nullptr;
    if (!sees_keys) {
      if (lse != nullptr) *lse = kNegInf;
      store(token, context, scratch_.zeros, 0.0F);
      return;
    }
    if (call_.sinks.defined()) {
      // The learned logit takes part in the denominator only; it may be larger than every logit of
      // the row.
      const float sink =
          static_cast<const float*>(call_.sinks.data)[context.q_head * call_.sinks.strides[0]];
      if (sink > m) {
        const float shrink = std::exp(m - sink);
        for (int d = 0; d < value_dim; ++d) o[d] *= shrink;
        l = l * shrink + 1.0F;
        m = sink;
      } else {
        l += std::exp(sink - m);
      }
    }
    if (lse != nullptr) *lse = m + std::log(l);
    if (!call_.spec->variant.softmax) l = 1;
    float factor = scale_of(call_.v_scale, context.batch, context.kv_head) / l;
    const float out_scale = scale_of(call_.out_scale, context.batch, context.kv_head);
    if (call_.variant->output.defined()) {
      for (int d = 0; d < value_dim; ++d) o[d] *= factor;
      for (int d = 0; d < value_dim; d += kProgramWidth) {
        call_.variant->output.eval_output(context, call_.bindings, o + d, o + d,
                                          std::min(kProgramWidth, value_dim - d), scratch_.program);
      }
      factor = 1;
    }
    store(token, context, o, factor * out_scale);
  }

  void store(std::int64_t token, const RowContext& context, const float* o, float factor) const {
    store_output(o, factor, call_.spec->value_dim(), output_row(token, context), call_.out.dtype);
  }

  const AttentionCall& call_;
  const RunMemory& memory_;
  const plan::Schedule& schedule_;
  TileScratch scratch_;
  plan::Item item_;
  const plan::Row* row_ = nullptr;
  int num_rows_ = 0;
  TileRanges ranges_;
  std::array<Partial, kMaxJointHeads> results_;  // by KV head of the item
};

void zero_padding(const AttentionCall& call) {
  const TensorView& out = call.out;
  for (std::int64_t token = call.plan->schedule.header->q_tokens; token < out.shape[0]; ++token) {
    for (std::int64_t head = 0; head < out.shape[1]; ++head) {
      std::fill_n(static_cast<std::byte*>(out.data) +
                      (token * out.strides[0] + head * out.strides[1]) * dtype_bytes(out.dtype),
                  out.shape[2] * dtype_bytes(out.dtype), std::byte{0});
      if (call.lse.defined()) {
        static_cast<float*>(
            call.lse.data)[token * call.lse.strides[0] + head * call.lse.strides[1]] = kNegInf;
      }
    }
  }
}

}  // namespace

void configure(const AttentionSpec& spec, const CompiledVariant& variant,
               std::int64_t kv_bytes_per_head, int workers, bool batch_invariant,
               AttentionPlan& plan) {
  plan.batch_invariant = batch_invariant;
  plan.bf16 = fits_bf16(spec) ? bf16_kernels() : nullptr;
  plan::Config& config = plan.schedule.config;
  config.num_kv_heads = spec.num_kv_heads;
  config.group_size = spec.group_size();
  config.tile_rows = kTileRows;
  config.block_tokens = kBlockTokens;
  config.workers = workers;
  constexpr std::int64_t kCacheBytes = 1 << 20;  // half of a usual L2
  config.heads_per_group = static_cast<std::int32_t>(std::clamp<std::int64_t>(
      kCacheBytes / std::max<std::int64_t>(kv_bytes_per_head, 1), 1, spec.num_kv_heads));
  // Packed keys are kept for one head at a time.
  if (plan.bf16 != nullptr) config.heads_per_group = 1;
  // More rows have so much to compute that smaller items are worth more: shares are cut at blocks.
  config.joint_rows = kSubTileRows;
  config.max_heads = std::min(kMaxJointHeads, spec.num_kv_heads);
  config.heads_differ = variant.mask_depends_on_head ? 1 : 0;
  config.cuts_items = batch_invariant ? 0 : 1;
  // In units of one packed row against one block, a quarter of a microsecond or so: to set up a
  // tile and wait for its first keys costs about forty, a block's keys and values as much as about
  // eight rows (a third of it where they are in the cache, twice that from slow memory), to keep
  // and join a row's partial result at most two.
  config.cost = {36, 8, 1, 2};
  // A cut costs about ten: the next worker's first keys come late, and results are merged.
  config.least_share = 256;
  config.largest_block = 1;  // counted by each update
  config.rounds_workers = 1;
}

std::size_t slot_bytes(const plan::Config& config, int value_dim) {
  return round_up(static_cast<std::size_t>(config.tile_rows) * (value_dim + 2) * sizeof(float));
}

std::size_t level_bytes(const AttentionSpec& spec, std::int64_t q_tokens, int levels) {
  return levels > 1 ? levels * one_level_bytes(spec, q_tokens) : 0;
}

std::size_t scratch_bytes(const AttentionSpec& spec, const CompiledVariant& variant) {
  std::size_t program = 0;
  for (const ExprProgram* p : {&variant.logits, &variant.mask_program, &variant.output}) {
    if (p->defined()) program = std::max(program, p->scratch_bytes());
  }
  return TileScratch::bytes(spec, program);
}

void run_attention(const AttentionCall& call, const RunMemory& memory) {
  const plan::Schedule& schedule = call.plan->schedule;
  const plan::Header& header = *schedule.header;
  // Shares of section B are the longest pieces of work, so they go first; then section A from its
  // longest items on.
  for (int thread = 0; thread < memory.threads; ++thread) {
    *TileScratch::carve(memory.scratch + memory.scratch_bytes * thread, *call.spec).packed = {};
  }
  const std::int64_t shares = header.b_items > 0 ? header.workers : 0;
  parallel_chunks(shares + header.a_items, 1, memory.threads,
                  [&](int thread, std::int64_t begin, std::int64_t end) {
                    Runner runner(call, memory, thread);
                    for (std::int64_t i = begin; i < end; ++i) {
                      if (i < shares) {
                        runner.run_share(static_cast<std::int32_t>(i));
                      } else {
                        runner.run_item(plan::a_item(schedule, i - shares));
                      }
                    }
                  });
  parallel_chunks(header.num_splits, 1, memory.threads,
                  [&](int thread, std::int64_t begin, std::int64_t end) {
                    Runner runner(call, memory, thread);
                    for (std::int64_t i = begin; i < end; ++i) runner.merge(schedule.splits[i]);
                  });
  if (call.plan->schedule.header->joins_levels != 0) {
    parallel_chunks(header.q_tokens, 16, memory.threads,
                    [&](int thread, std::int64_t begin, std::int64_t end) {
                      Runner(call, memory, thread).join_levels(begin, end);
                    });
  }
  if (call.zero_padding) zero_padding(call);
}

}  // namespace tilewright::cpu
