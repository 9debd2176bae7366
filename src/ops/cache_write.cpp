// SPDX-License-Identifier: Apache-2.0
// Keys and values of new tokens into their slots of a cache.
#include <tilewright/ops.h>

#include <array>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "base/element.h"
#include "base/numeric.h"
#include "ops/cuda_run.h"
#include "ops/op_common.h"
#include "ops/rope_checks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cache_write.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "base/simd_io-inl.h"

#ifndef TILEWRIGHT_OPS_CACHE_WRITE_CALL
#define TILEWRIGHT_OPS_CACHE_WRITE_CALL
namespace tilewright {
namespace {

// Tokens [begin, end) of one KV head of keys or of values. Strides are in elements.
struct HeadWrite {
  const void* from;
  void* to;
  DType from_dtype;
  DType to_dtype;
  std::int64_t begin;
  std::int64_t end;
  std::size_t dim;
  std::int64_t token_stride;
  std::int64_t element_stride;
  std::int64_t page_stride;
  std::int64_t row_stride;
  std::int64_t page_size;
  TensorView slots;
  float scale;

  std::int64_t slot(std::int64_t token) const {
    return load_integer(slots.data, slots.dtype, token * slots.strides[0]);
  }
};

template <typename T>
inline constexpr bool kIsFp8 = std::is_same_v<T, F8E4M3> || std::is_same_v<T, F8E5M2>;

}  // namespace
}  // namespace tilewright
#endif

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

template <typename From, typename To>
void convert_row(const From* from, To* to, const HeadWrite& write) {
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(to, from, write.dim * sizeof(To));
  } else {
    const hn::ScalableTag<float> d;
    const auto scale = hn::Set(d, write.scale);
    for_lanes(d, write.dim, [&](std::size_t i, auto part) HWY_ATTR {
      auto value = load(d, from + i, part);
      if constexpr (kIsFp8<To>) value = hn::Div(value, scale);
      store(d, value, to + i, part);
    });
  }
}

template <typename From, typename To>
void write_rows(const HeadWrite& write) {
  std::vector<From> gathered(write.element_stride == 1 ? 0 : write.dim);
  for (std::int64_t token = write.begin; token < write.end; ++token) {
    const std::int64_t slot = write.slot(token);
    if (slot < 0) continue;
    const From* from = static_cast<const From*>(write.from) + token * write.token_stride;
    for (std::size_t i = 0; i < gathered.size(); ++i) {
      gathered[i] = from[static_cast<std::int64_t>(i) * write.element_stride];
    }
    if (!gathered.empty()) from = gathered.data();
    To* to = static_cast<To*>(write.to) + (slot / write.page_size) * write.page_stride +
             (slot % write.page_size) * write.row_stride;
    convert_row(from, to, write);
  }
}

void write_head(const HeadWrite& write) {
  visit_float(write.to_dtype, [&](auto to) {
    using To = decltype(to);
    if (write.from_dtype == write.to_dtype) {
      write_rows<To, To>(write);
    } else {
      visit_wide_float(write.from_dtype, [&](auto from) { write_rows<decltype(from), To>(write); });
    }
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {
namespace {

HWY_EXPORT(write_head);

bool is_fp8(DType dtype) {
  return dtype == DType::f8e4m3 || dtype == DType::f8e5m2;
}

// One half of a call: keys or values.
struct Side {
  const char* name;
  const char* cache_name;
  const char* scale_name;
  const TensorView& from;
  const TensorView& to;
  const Scale& scale;
  Device device;  // the call's
};

// What belongs to whom, for scales by request.
struct Requests {
  TensorView token_indptr;  // undefined: one request
  std::int64_t count = 1;
  std::int64_t tokens = 0;

  std::int64_t begin(std::int64_t request) const {
    if (!token_indptr.defined()) return request == 0 ? 0 : tokens;
    return load_integer(token_indptr.data, token_indptr.dtype, request * token_indptr.strides[0]);
  }
};

// The scale of a request's head; the tensor is [heads] or [requests, heads], or 1 instead of each.
float scale_of(const Scale& scale, std::int64_t request, std::int64_t head) {
  const TensorView& t = scale.tensor;
  if (!t.defined()) return scale.value;
  const int last = t.rank - 1;
  std::int64_t at = t.shape[last] == 1 ? 0 : head * t.strides[last];
  if (t.rank == 2 && t.shape[0] > 1) at += request * t.strides[0];
  return static_cast<const float*>(t.data)[at];
}

void check_scale(const Side& side, const Requests& requests) {
  const TensorView& tensor = side.scale.tensor;
  require(side.scale.value > 0 && std::isfinite(side.scale.value),
          "{} is {}: it must be positive and finite", side.scale_name, side.scale.value);
  require(is_fp8(side.to.dtype) || (!tensor.defined() && side.scale.value == 1.0F),
          "{} is given, but {} is {}: only fp8 caches have scales", side.scale_name,
          side.cache_name, side.to);
  require(side.from.dtype != side.to.dtype || (!tensor.defined() && side.scale.value == 1.0F),
          "{} is given, but {} is {} already: it cannot be scaled", side.scale_name, side.name,
          side.from);
  if (!tensor.defined()) return;
  require_rank(side.scale_name, tensor, {1, 2});
  require_dtype(side.scale_name, tensor, {DType::f32});
  require_device(side.scale_name, tensor, side.device);
  const std::int64_t heads = side.to.shape[2];
  const std::int64_t columns = tensor.shape[tensor.rank - 1];
  const std::int64_t rows = tensor.rank == 2 ? tensor.shape[0] : 1;
  require((columns == 1 || columns == heads) && (rows == 1 || rows == requests.count),
          "{} is {}: its shape must be [1] or [{}], one a KV head, or broadcast to [{}, {}]{}",
          side.scale_name, tensor, heads, requests.count, heads,
          requests.token_indptr.defined() ? "" : "; token_indptr tells the requests");
  if (on_cuda(side.device)) return;  // what is in memory there is not read here
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < columns; ++column) {
      const float value = scale_of(side.scale, row, column);
      require(value > 0 && std::isfinite(value), "{}[{}] is {}: it must be positive and finite",
              side.scale_name,
              tensor.rank == 2 ? fmt::format("{}, {}", row, column) : fmt::format("{}", column),
              value);
    }
  }
}

void check_side(const Side& side, const Requests& requests) {
  require_rank(side.cache_name, side.to, {4});
  require_dtype(side.cache_name, side.to,
                {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2});
  require_device(side.cache_name, side.to, side.device);
  require_last_dim_contiguous(side.cache_name, side.to);
  require_writable(side.cache_name, side.to);
  require_shape(side.name, side.from, {requests.tokens, side.to.shape[2], side.to.shape[3]});
  if (side.from.dtype != side.to.dtype) {
    require_dtype(side.name, side.from, {DType::f32, DType::f16, DType::bf16});
  }
  require_device(side.name, side.from, side.device);
  check_scale(side, requests);
}

void check_slots(const TensorView& slots, const KvCache& cache) {
  const std::int64_t limit = cache.k.shape[0] * cache.k.shape[1];
  for (std::int64_t token = 0; token < slots.shape[0]; ++token) {
    const std::int64_t slot = load_integer(slots.data, slots.dtype, token * slots.strides[0]);
    require(slot >= -1 && slot < limit,
            "slot_mapping[{}] is {}: it must be -1 or below {}, {} pages of {} tokens", token, slot,
            limit, cache.k.shape[0], cache.k.shape[1]);
  }
}

Requests read_requests(const TensorView& token_indptr, std::int64_t tokens, const TensorView& slots,
                       Device device) {
  Requests requests{token_indptr, 1, tokens};
  if (!token_indptr.defined()) return requests;
  require_rank("token_indptr", token_indptr, {1});
  require_dtype("token_indptr", token_indptr, {DType::i32, DType::i64});
  require_device("token_indptr", token_indptr, device);
  requests.count = token_indptr.shape[0] - 1;
  require(requests.count >= 0, "token_indptr is {}: it must have an entry more than requests",
          token_indptr);
  if (on_cuda(device)) return requests;
  std::int64_t last = 0;
  for (std::int64_t r = 0; r <= requests.count; ++r) {
    const std::int64_t begin = requests.begin(r);
    require(begin >= last && begin <= tokens && (r > 0 || begin == 0),
            "token_indptr[{}] is {}: it must ascend from 0 to at most {}, the tokens", r, begin,
            tokens);
    last = begin;
  }
  for (std::int64_t token = last; token < tokens; ++token) {
    const std::int64_t slot = load_integer(slots.data, slots.dtype, token * slots.strides[0]);
    require(slot == -1,
            "slot_mapping[{}] is {}: it must be -1 behind the last token of token_indptr, {}",
            token, slot, last);
  }
  return requests;
}

// Heads are dealt out to threads, not tokens: of two tokens with one slot the later one stays,
// whatever the threads.
void write_side(const Side& side, const TensorView& slots, const Requests& requests) {
  const TensorView& from = side.from;
  const TensorView& to = side.to;
  const TensorView& scale = side.scale.tensor;
  const std::int64_t parts = scale.rank == 2 && scale.shape[0] > 1 ? requests.count : 1;
  const std::int64_t elements = from.shape[0] * from.shape[2];
  parallel_items(to.shape[2], elements, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t head = begin; head < end; ++head) {
      const TensorView source = from.select(1, head);
      const TensorView target = to.select(2, head);
      for (std::int64_t part = 0; part < parts; ++part) {
        const HeadWrite write{source.data,
                              target.data,
                              from.dtype,
                              to.dtype,
                              parts == 1 ? 0 : requests.begin(part),
                              parts == 1 ? requests.tokens : requests.begin(part + 1),
                              static_cast<std::size_t>(from.shape[2]),
                              source.strides[0],
                              source.shape[1] > 1 ? source.strides[1] : 1,
                              target.strides[0],
                              target.strides[1],
                              to.shape[1],
                              slots,
                              scale_of(side.scale, part, head)};
        HWY_DYNAMIC_DISPATCH(write_head)(write);
      }
    }
  });
}

// What a call has, checked.
struct CacheWrite {
  Side keys;
  Side values;
  Requests requests;
};

CacheWrite checked_call(const TensorView& k, const TensorView& v, const KvCache& cache,
                        const TensorView& slot_mapping, const Scale& k_scale, const Scale& v_scale,
                        const TensorView& token_indptr) {
  const Side keys{"k", "cache.k", "k_scale", k, cache.k, k_scale, k.device};
  const Side values{"v", "cache.v", "v_scale", v, cache.v, v_scale, k.device};
  require_rank("k", k, {3});
  require_rank("slot_mapping", slot_mapping, {1});
  require_shape("slot_mapping", slot_mapping, {k.shape[0]});
  require_dtype("slot_mapping", slot_mapping, {DType::i32, DType::i64});
  require_device("slot_mapping", slot_mapping, k.device);
  const Requests requests = read_requests(token_indptr, k.shape[0], slot_mapping, k.device);
  check_side(keys, requests);
  check_side(values, requests);
  for (int dim = 0; dim < 3; ++dim) {
    require(cache.k.shape[dim] == cache.v.shape[dim],
            "cache.v is {}: pages, page size and heads must be those of cache.k, {}", cache.v,
            cache.k);
  }
  if (!on_cuda(k.device)) check_slots(slot_mapping, cache);
  return {keys, values, requests};
}

}  // namespace

void check_cache_write(const TensorView& k, const TensorView& v, const KvCache& cache,
                       const TensorView& slot_mapping, const Scale& k_scale, const Scale& v_scale,
                       const TensorView& token_indptr) {
  checked_call(k, v, cache, slot_mapping, k_scale, v_scale, token_indptr);
}

void write_kv_cache(const TensorView& k, const TensorView& v, const KvCache& cache,
                    const TensorView& slot_mapping, const Scale& k_scale, const Scale& v_scale,
                    const TensorView& token_indptr, Stream stream) {
  const CacheWrite call = checked_call(k, v, cache, slot_mapping, k_scale, v_scale, token_indptr);
  if (on_cuda(k.device)) {
    run_on_cuda(cache_write_launch(k, v, cache, slot_mapping, k_scale, v_scale, token_indptr),
                k.device, stream);
    return;
  }
  if (k.shape[0] == 0) return;
  write_side(call.keys, slot_mapping, call.requests);
  write_side(call.values, slot_mapping, call.requests);
}

}  // namespace tilewright
#endif  // HWY_ONCE
