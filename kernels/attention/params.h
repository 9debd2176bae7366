// SPDX-License-Identifier: Apache-2.0
// What one run of attention is given: one plain struct, shared by host and device, passed by value.
#pragma once

#include "arch/types.h"
#include "plan/param_slot.h"
#include "plan/view.h"

namespace tw {

namespace plan = tilewright::plan;

inline constexpr i32 kMaxParams = 16;

// K and V of one level in the normal form [pages, page, heads, dim]. Strides in bytes.
struct CacheView {
  const char* k;
  const char* v;
  i64 k_page, k_token, k_head;
  i64 v_page, v_token, v_head;
  i32 pages;
};

// A number, or a tensor that broadcasts to [requests, KV heads]: strides in elements, 0 where it
// does.
struct ScaleView {
  const float* data;  // null: `value`
  float value;
  i32 request_stride;
  i32 head_stride;
};

struct AttentionParams {
  plan::View plan;
  CacheView cache[plan::kMaxLevels];

  const char* q;  // [tokens, q heads, head_dim]; strides in bytes
  i64 q_token, q_head;
  char* out;  // [tokens, q heads, value_dim]
  i64 out_token, out_head;
  float* lse;  // null, or [tokens, q heads]; strides in elements
  i64 lse_token, lse_head;
  i32 out_tokens;  // rows of q and out: queries behind them are not there, whatever the plan says
  i32 padded_tokens;  // rows of out
  i32 zero_padding;   // those behind the batch's last token become 0

  float sm_scale;
  // Logits are scaled before their maximum is taken: where a scale may be zero, negative or differ
  // from row to row. Else the scale is part of the exponent.
  i32 scales_logits;
  float exponent_scale;  // from scores to powers of two: log2(e), times sm_scale unless that was
                         // applied
  ScaleView q_scale, k_scale, v_scale, out_scale;
  const float* sinks;  // null, or [q heads]
  i64 sinks_stride;
  plan::ParamSlot params[kMaxParams];

  // The plan's workspace.
  float* slots;          // [two a worker, heads of an item]: partial results of split items
  float* level_results;  // [levels][tokens][q heads], where levels are joined
  i32* split_arrivals;   // [workers, heads of an item], zero between runs
  i32* a_taken;          // how many items of section A are taken, zero between runs
  const i32* status;     // two arrays of words, one a request; the plan's header says which is its
  i32 status_stride;
  // Where blocks of keys are listed: [blocks of threads][most_blocks], see ListedBlocks.
  i32 most_blocks;
  i32* needed_blocks;
};

// What Hopper's kernel is given.
struct HopperParams : AttentionParams {
  // Of the first levels' K and V: boxes of 64 elements of box_tokens tokens, of one head, in one
  // page. box_tokens is 0 where rows have to be copied one by one.
  static constexpr i32 kBoxLevels = 4;
  BoxMap k_boxes[kBoxLevels];
  BoxMap v_boxes[kBoxLevels];
  i32 box_tokens[plan::kMaxLevels];
};
static_assert(sizeof(HopperParams) <= 4096);  // what a kernel may be given

}  // namespace tw
