// SPDX-License-Identifier: Apache-2.0
#include "cpu/tile.h"

#include <algorithm>
#include <cstring>

namespace tilewright::cpu {
namespace {

constexpr std::size_t kAlignment = 64;

// Hands out 64-byte aligned pieces; with a null base it only counts.
class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}

  template <typename T>
  T* take(std::size_t count) {
    T* piece = base_ != nullptr ? reinterpret_cast<T*>(base_ + offset_) : nullptr;
    offset_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return piece;
  }
  std::size_t bytes() const { return offset_; }

 private:
  std::byte* base_;
  std::size_t offset_ = 0;
};

std::size_t padded_rope(int head_dim) {
  return (static_cast<std::size_t>(head_dim) / 2 + kRopePadding - 1) / kRopePadding * kRopePadding;
}

TileScratch carve_scratch(Carver& carver, const AttentionSpec& spec) {
  const int head_dim = spec.head_dim;
  const int value_dim = spec.value_dim();
  const bool bf16 = fits_bf16(spec);
  TileScratch scratch;
  const auto padded_qk = static_cast<std::size_t>(tile_dim(head_dim));
  const auto padded_vo = static_cast<std::size_t>(tile_dim(value_dim));
  scratch.q = carver.take<float>(kTileRows * padded_qk);
  scratch.k = carver.take<float>(kBlockTokens * padded_qk);
  scratch.v = carver.take<float>(kBlockTokens * padded_vo);
  scratch.s = carver.take<float>(kSubTileRows * kBlockTokens);
  scratch.o = carver.take<float>(kTileRows * padded_vo);
  scratch.result = carver.take<float>(kTileRows * padded_vo);
  scratch.p = carver.take<std::uint32_t>(kBf16Blocks * kSubTileRows * kBlockTokens / 2);
  scratch.packed = carver.take<PackedKeys>(1);
  const auto packed_tokens =
      static_cast<std::size_t>(kBf16Blocks + kept_blocks(head_dim, value_dim)) * kBlockTokens;
  scratch.k_packed = carver.take<std::uint16_t>(bf16 ? packed_tokens * padded_qk : 0);
  scratch.v_columns = carver.take<std::uint16_t>(bf16 ? packed_tokens * padded_vo : 0);
  scratch.base2_scale = carver.take<float>(kTileRows);
  scratch.cosines = carver.take<float>(padded_rope(head_dim));
  scratch.sines = carver.take<float>(padded_rope(head_dim));
  scratch.m = carver.take<float>(kTileRows);
  scratch.l = carver.take<float>(kTileRows);
  scratch.logit_scale = carver.take<float>(kTileRows);
  scratch.lines = carver.take<float>(kSubTileRows * kBlockTokens);
  scratch.zeros = carver.take<float>(padded_vo);
  scratch.k_rows = carver.take<const std::byte*>(kBlockTokens);
  scratch.v_rows = carver.take<const std::byte*>(kBlockTokens);
  scratch.next_k_rows = carver.take<const std::byte*>(kBlockTokens);
  scratch.next_v_rows = carver.take<const std::byte*>(kBlockTokens);
  scratch.key_begin = carver.take<std::int32_t>(kTileRows);
  scratch.key_end = carver.take<std::int32_t>(kTileRows);
  scratch.kv_pos = carver.take<std::int32_t>(kBf16Blocks * kBlockTokens);
  scratch.allowed = carver.take<std::uint8_t>(kBlockTokens);
  scratch.has_sums = carver.take<bool>(kTileRows / kSubTileRows);
  scratch.rows = carver.take<TileRow>(kTileRows);
  return scratch;
}

// The keys of `row` that one query row attends to, when the mask's intervals tell them exactly.
void find_keys(const AttentionCall& call, const plan::Row& row, TileRow& tile_row) {
  const AttentionPlan& plan = *call.plan;
  const MaskAnalysis& mask = call.variant->mask;
  tile_row.exact_keys = false;
  if (mask.mask_class() == MaskClass::elementwise) return;
  const RowContext& context = tile_row.context;
  if (mask.is_band()) {
    const Interval positions = mask.band(context.q_pos, context.q_pos).needed;
    const Interval keys{plan.keys_before(row, positions.begin),
                        plan.keys_before(row, positions.end)};
    tile_row.exact_keys = true;
    tile_row.keys.count = keys.empty() ? 0 : 1;
    tile_row.keys.intervals[0] = keys;
    return;
  }
  const MaskRanges ranges = mask.ranges(
      {context.q_pos, context.q_pos, context.q_head, context.q_head + 1, context.kv_head,
       context.batch, context.q_len, context.kv_len, context.q_index, context.q_begin},
      plan.bindings);
  if (!ranges.exact) return;
  tile_row.exact_keys = true;
  tile_row.keys.count = 0;
  for (int i = 0; i < ranges.needed.count; ++i) {
    const Interval keys{plan.keys_before(row, ranges.needed.intervals[i].begin),
                        plan.keys_before(row, ranges.needed.intervals[i].end)};
    if (!keys.empty()) tile_row.keys.intervals[tile_row.keys.count++] = keys;
  }
}

}  // namespace

bool fits_bf16(const AttentionSpec& spec) {
  const auto exact = [](DType dtype) {
    return dtype == DType::bf16 || dtype == DType::f8e4m3 || dtype == DType::f8e5m2;
  };
  return exact(spec.q_dtype) && exact(spec.kv_dtype) && exact(spec.value_dtype()) &&
         !spec.variant.rope.has_value();
}

std::size_t TileScratch::bytes(const AttentionSpec& spec, std::size_t program_bytes) {
  Carver carver(nullptr);
  carve_scratch(carver, spec);
  carver.take<std::byte>(program_bytes);
  return carver.bytes();
}

TileScratch TileScratch::carve(std::byte* memory, const AttentionSpec& spec) {
  Carver carver(memory);
  TileScratch scratch = carve_scratch(carver, spec);
  scratch.program = carver.take<std::byte>(0);
  std::fill_n(scratch.zeros, tile_dim(spec.value_dim()), 0.0F);
  return scratch;
}

TileScratch TileScratch::from_row(int first, const AttentionSpec& spec) const {
  TileScratch scratch = *this;
  scratch.q += first * tile_dim(spec.head_dim);
  scratch.o += first * tile_dim(spec.value_dim());
  scratch.result += first * spec.value_dim();
  scratch.m += first;
  scratch.l += first;
  scratch.logit_scale += first;
  scratch.base2_scale += first;
  scratch.key_begin += first;
  scratch.key_end += first;
  scratch.rows += first;
  scratch.has_sums += first / kSubTileRows;
  return scratch;
}

float scale_of(const Scale& scale, std::int64_t request, std::int64_t head) {
  if (!scale.tensor.defined()) return scale.value;
  const TensorView& t = scale.tensor;
  std::int64_t offset = 0;
  if (t.rank == 2) {
    offset =
        (t.shape[0] > 1 ? request * t.strides[0] : 0) + (t.shape[1] > 1 ? head * t.strides[1] : 0);
  }
  return static_cast<const float*>(t.data)[offset];
}

void set_up_rows(const AttentionCall& call, const plan::Row& row, std::int32_t head,
                 std::int32_t tile, int num_rows, const TileScratch& scratch) {
  const AttentionPlan& plan = *call.plan;
  const plan::Config& config = plan.schedule.config;
  const std::int64_t first = static_cast<std::int64_t>(tile) * config.tile_rows;
  std::int64_t entry = first / config.group_size;
  std::int64_t in_group = first % config.group_size;
  std::int64_t last_token = -1;
  std::int32_t index = -1;
  for (int r = 0; r < num_rows; ++r, ++in_group) {
    if (in_group == config.group_size) {
      in_group = 0;
      ++entry;
    }
    TileRow& tile_row = scratch.rows[r];
    tile_row.token = plan.token_of(row, entry);
    tile_row.context.q_head = static_cast<std::int64_t>(head) * config.group_size + in_group;
    if (tile_row.token == last_token) {
      // Heads of one token differ in nothing but the head.
      const TileRow& previous = scratch.rows[r - 1];
      const std::int64_t q_head = tile_row.context.q_head;
      tile_row = previous;
      tile_row.context.q_head = q_head;
      scratch.logit_scale[r] = scratch.logit_scale[r - 1];
      if (config.heads_differ) find_keys(call, row, tile_row);
      continue;
    }
    last_token = tile_row.token;
    // Tokens of one request mostly follow each other.
    if (index < 0 || tile_row.token < plan.requests[index].q_begin ||
        tile_row.token >= plan.requests[index].q_begin + plan.requests[index].q_len) {
      index = plan.request_of(row, tile_row.token);
    }
    const plan::Request& request = plan.requests[index];
    tile_row.context.q_pos = plan.position_of_query(request, tile_row.token);
    tile_row.context.kv_head = head;
    tile_row.context.batch = index;
    tile_row.context.q_len = request.q_len;
    tile_row.context.kv_len = request.kv_len;
    tile_row.context.q_index = tile_row.token;
    tile_row.context.q_begin = request.q_begin;
    scratch.logit_scale[r] =
        call.sm_scale * scale_of(call.q_scale, index, head) * scale_of(call.k_scale, index, head);
    find_keys(call, row, tile_row);
  }
}

namespace {

// Where the keys [begin, begin + count) of one segment lie.
void locate_in_segment(const AttentionCall& call, const plan::Segment& segment, std::int32_t head,
                       std::int64_t begin, int count, const std::byte** k, const std::byte** v) {
  const LevelPages& pages = call.plan->levels[segment.level];
  const KvCache& kv = call.kv[segment.level];
  const std::int32_t* entries = pages.entries(segment.index);
  const std::int64_t first_page = pages.first_page(segment.index);
  const std::int64_t k_bytes = dtype_bytes(kv.k.dtype);
  const std::int64_t v_bytes = dtype_bytes(kv.v.dtype);
  const auto* k_base = static_cast<const std::byte*>(kv.k.data) + head * kv.k.strides[2] * k_bytes;
  const auto* v_base = static_cast<const std::byte*>(kv.v.data) + head * kv.v.strides[2] * v_bytes;
  std::int64_t page_index = begin / pages.page_size;
  std::int64_t in_page = begin % pages.page_size;
  for (int i = 0; i < count;) {
    const std::int64_t page = entries != nullptr ? entries[page_index] : first_page + page_index;
    const std::byte* k_page = k_base + page * kv.k.strides[0] * k_bytes;
    const std::byte* v_page = v_base + page * kv.v.strides[0] * v_bytes;
    for (; i < count && in_page < pages.page_size; ++i, ++in_page) {
      k[i] = k_page + in_page * kv.k.strides[1] * k_bytes;
      v[i] = v_page + in_page * kv.v.strides[1] * v_bytes;
    }
    in_page = 0;
    ++page_index;
  }
}

}  // namespace

void locate_keys(const AttentionCall& call, const plan::Row& row, std::int32_t head,
                 std::int64_t begin, int count, const std::byte** k, const std::byte** v) {
  const plan::Segment* segments = call.plan->segments;
  const plan::Segment* chain[kMaxLevels];
  int length = 0;
  for (std::int32_t s = row.segment; s >= 0; s = segments[s].parent) chain[length++] = segments + s;
  int located = 0;
  while (length > 0 && located < count) {
    const plan::Segment& segment = *chain[--length];
    if (begin < segment.kv_len) {
      const auto here =
          static_cast<int>(std::min<std::int64_t>(count - located, segment.kv_len - begin));
      locate_in_segment(call, segment, head, begin, here, k + located, v + located);
      located += here;
      begin += here;
    }
    begin -= segment.kv_len;
  }
}

}  // namespace tilewright::cpu
