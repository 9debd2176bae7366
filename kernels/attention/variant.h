// SPDX-License-Identifier: Apache-2.0
// What a variant of attention is to a kernel. The library writes `struct Variant` from a graph of
// expressions (src/variant/cuda_text.h); where expressions do not do, the same struct can be
// written by hand:
//
//   struct Variant {
//     // Which of the functions change anything, so that kernels leave out the others.
//     static constexpr bool kHasLogits, kHasMask, kHasOutput, kHasRope;
//     static constexpr bool kSoftmax;            // false: transformed logits are the weights
//     static constexpr bool kMaskDependsOnHead;  // heads of one group may need other keys
//     static constexpr bool kOneInterval;        // interval() tells all that ranges() does
//     static constexpr i32 kMaskClass;           // as in tilewright::MaskClass
//     static constexpr i32 kNumParams;           // slots behind `params`
//
//     // For each scaled logit, and whether the query attends to the key. They run in the inner
//     // loop; what they need of a row is made once a row.
//     struct LogitsRow { ... };
//     TW_DEVICE static LogitsRow logits_row(const QueryRow&, const ParamSlot*);
//     TW_DEVICE static float logits(const LogitsRow&, i32 kv_pos, float logit, const ParamSlot*);
//     struct MaskRow { ... };
//     TW_DEVICE static MaskRow mask_row(const QueryRow&, const ParamSlot*);
//     TW_DEVICE static bool mask(const MaskRow&, i32 kv_pos, const ParamSlot*);
//     // For each element of the output, behind the softmax.
//     struct OutputRow { ... };
//     TW_DEVICE static OutputRow output_row(const QueryRow&, const ParamSlot*);
//     TW_DEVICE static float output(const OutputRow&, float value, const ParamSlot*);
//     // Each of the three also in one step, with a QueryRow in the place of a ...Row.
//
//     // What the mask is known to be for a range of queries: a superset of the keys that some of
//     // them attend to, and a subset of those that all of them do. Everything and nothing are
//     // right for any mask. Only parameters that bind when the plan is made may be read.
//     TW_DEVICE static plan::MaskRanges ranges(const plan::QueryRange&, const ParamSlot*);
//     // The same in registers, where one interval of each is enough.
//     TW_DEVICE static plan::MaskInterval interval(const plan::QueryRange&, const ParamSlot*);
//
//     // Rotary embedding of q and k on the fly.
//     static constexpr bool kRopeInterleaved;  // pairs are (2i, 2i + 1), else (i, i + dim / 2)
//     static constexpr i32 kRopeDim;           // elements that are rotated, the first of a head
//     TW_DEVICE static Rotation rotation(i32 pair, i32 position);
//   };
#pragma once

#include "arch/numeric.h"
#include "arch/types.h"
#include "plan/half_plane.h"
#include "plan/param_slot.h"

namespace tw {

namespace plan = tilewright::plan;

// A query row. Positions are those of the request and above -2^31, heads are absolute.
struct QueryRow {
  i32 q_pos;
  i32 q_head;
  i32 kv_head;
  i32 batch;
  i32 q_len;
  i32 kv_len;
  i32 q_index;  // of the query token in the batch
  i32 q_begin;  // of its request's first one
};

using plan::ParamSlot;

// The row of a range's first token, for one head.
TW_DEVICE QueryRow row_of(const plan::QueryRange& queries, i64 head) {
  return {static_cast<i32>(queries.q_pos_min), static_cast<i32>(head),
          static_cast<i32>(queries.kv_head),   static_cast<i32>(queries.batch),
          static_cast<i32>(queries.q_len),     static_cast<i32>(queries.kv_len),
          static_cast<i32>(queries.q_index),   static_cast<i32>(queries.q_begin)};
}

// Joins what `of_head(queries, row, params)` tells of each head of a range; of one where the mask
// does not depend on it.
template <typename Sets, bool kMaskDependsOnHead, auto of_head>
TW_DEVICE Sets over_heads(const plan::QueryRange& queries, const ParamSlot* params) {
  if (queries.empty()) return {};
  const i64 begin = queries.q_head_begin;
  const i64 heads = kMaskDependsOnHead ? queries.q_head_end - begin : 1;
  if (heads > plan::kMaxMaskHeads) return Sets(plan::all_keys_if(true, false));
  Sets sets = of_head(queries, row_of(queries, begin), params);
  for (i64 head = 1; head < heads; ++head) {
    sets = plan::with_head(sets, of_head(queries, row_of(queries, begin + head), params));
  }
  return sets;
}

// Cosine and sine that a pair of elements is rotated by, times the amplitude.
struct Rotation {
  float cos;
  float sin;
};

// tilewright::DType, as far as parameters have them.
inline constexpr i32 kParamF32 = 0;
inline constexpr i32 kParamF16 = 1;
inline constexpr i32 kParamBf16 = 2;
inline constexpr i32 kParamI8 = 5;
inline constexpr i32 kParamI32 = 6;
inline constexpr i32 kParamU8 = 8;

TW_DEVICE float load_real(const void* data, i32 dtype, i64 offset) {
  if (dtype == kParamF32) return static_cast<const float*>(data)[offset];
  if (dtype == kParamBf16) return to_float(static_cast<const bf16*>(data)[offset]);
  return to_float(static_cast<const f16*>(data)[offset]);
}
TW_DEVICE i32 load_integer(const void* data, i32 dtype, i64 offset) {
  if (dtype == kParamI32) return static_cast<const i32*>(data)[offset];
  if (dtype == kParamU8) return static_cast<const u8*>(data)[offset];
  return static_cast<const i8*>(data)[offset];
}

// A place in a parameter's tensor, found index by index.
struct ParamPlace {
  const ParamSlot& slot;
  i64 offset = 0;
  bool inside = true;

  TW_DEVICE explicit ParamPlace(const ParamSlot& param) : slot(param) {}

  TW_DEVICE void add(i32 dim, i32 index) {
    inside = inside && static_cast<u32>(index) < static_cast<u32>(slot.shape[dim]);
    offset += index * slot.strides[dim];
  }
  // An index that does not fit 32 bits may not be multiplied.
  TW_DEVICE void add(i32 dim, i64 index) {
    const bool fits = static_cast<u64>(index) < static_cast<u64>(slot.shape[dim]);
    inside = inside && fits;
    offset += (fits ? index : 0) * slot.strides[dim];
  }
};

template <typename... Index>
TW_DEVICE ParamPlace place_of(const ParamSlot& slot, Index... index) {
  ParamPlace place(slot);
  i32 dim = 0;
  (place.add(dim++, index), ...);
  return place;
}

// Reads outside of a tensor give 0.
template <typename... Index>
TW_DEVICE float real_param(const ParamSlot& slot, Index... index) {
  const ParamPlace place = place_of(slot, index...);
  return place.inside ? load_real(slot.data, slot.dtype, place.offset) : 0.0F;
}
template <typename... Index>
TW_DEVICE i32 integer_param(const ParamSlot& slot, Index... index) {
  const ParamPlace place = place_of(slot, index...);
  return place.inside ? load_integer(slot.data, slot.dtype, place.offset) : 0;
}
TW_DEVICE float real_param(const ParamSlot& slot) {
  return slot.data == nullptr ? slot.real : load_real(slot.data, slot.dtype, 0);
}
TW_DEVICE i32 integer_param(const ParamSlot& slot) {
  return slot.data == nullptr ? slot.integer : load_integer(slot.data, slot.dtype, 0);
}

}  // namespace tw
