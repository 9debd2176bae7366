// SPDX-License-Identifier: Apache-2.0
// What the C API's handles hold, and how they are handed out.
#pragma once

#include <tilewright/c_api.h>
#include <tilewright/explain.h>
#include <tilewright/plan.h>
#include <tilewright/variants.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "c_api/guard.h"
#include "c_api/plan_scratch.h"
#include "c_api/read.h"

// NOLINTBEGIN(readability-identifier-naming)

struct tw_variant {
  explicit tw_variant(tilewright::Variant v)
      : variant(std::move(v)), params(variant.params()), text(variant.serialize()) {}

  tilewright::Variant variant;
  std::vector<tilewright::Param> params;
  std::string text;
};

struct tw_rope {
  tilewright::RopeSpec spec;
};

struct tw_tree_mask {
  tilewright::variants::TreeMask mask;
};

struct tw_mask_map {
  explicit tw_mask_map(tilewright::MaskMap m) : map(std::move(m)), text(map.text()) {}

  tilewright::MaskMap map;
  std::string text;
};

struct tw_block_memory {
  std::shared_ptr<const void> memory;
};

struct tw_attention {
  tw_attention(const tilewright::AttentionSpec& spec, tilewright::Device device)
      : attention(spec, device), variant(spec.variant) {}

  tilewright::Attention attention;
  tw_variant variant;
};

struct tw_plan {
  tw_plan(std::vector<tilewright::Attention> attentions, const tilewright::Limits& limits,
          const tilewright::TensorView& workspace)
      : plan(std::move(attentions), limits, workspace), scratch(plan) {}

  // Error where the last update failed, be it before the plan saw it.
  void require_batch() const;

  tilewright::Plan plan;
  tilewright::c_api::PlanScratch scratch;
  bool failed = false;
};

// NOLINTEND(readability-identifier-naming)

namespace tilewright::c_api {

// Into the caller's pointer, which the caller gives back by the handle's destroy function.
template <typename Handle, typename... Args>
void hand_out(const Path& path, Handle** target, Args&&... args) {
  required(path, target);  // first: nobody would own the handle
  *target = std::make_unique<Handle>(std::forward<Args>(args)...).release();
}

template <typename Handle>
void give_back(Handle* handle) noexcept {
  const std::unique_ptr<Handle> owner(handle);
}

AttentionSpec read_attention_spec(const Path& path, const tw_attention_spec& given);
// With the dtypes and dims that are not given written out.
tw_attention_spec c_spec(const AttentionSpec& spec, const tw_variant& variant);
Limits read_limits(const Path& path, const tw_limits* limits);
tw_limits c_limits(const Limits& limits);
Batch read_batch(const Path& path, const tw_batch* given);
KvCache read_kv_cache(const Path& path, const tw_kv_cache& cache);

}  // namespace tilewright::c_api
