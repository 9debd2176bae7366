// SPDX-License-Identifier: Apache-2.0
// Attention over paged, ragged and contiguous KV: what is computed (AttentionSpec), and one layer's
// call of it.
#pragma once

#include <tilewright/kv_cache.h>
#include <tilewright/tensor_view.h>
#include <tilewright/variants.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tilewright {

class Plan;
class AttentionImpl;

// A value: equal specs share kernels.
struct AttentionSpec {
  int num_qo_heads = 0;
  int num_kv_heads = 0;  // divides num_qo_heads; the quotient is the group size
  int head_dim = 0;      // of queries and keys; a multiple of 8, at most 576
  int head_dim_vo = 0;   // of values and outputs; 0: head_dim
  DType q_dtype = DType::bf16;
  DType kv_dtype = DType::bf16;    // of keys, and of values unless v_dtype is given
  std::optional<DType> v_dtype;    // of values
  std::optional<DType> out_dtype;  // default: q_dtype
  Variant variant = variants::causal();

  int value_dim() const { return head_dim_vo ? head_dim_vo : head_dim; }
  int group_size() const { return num_qo_heads / num_kv_heads; }
  DType value_dtype() const { return v_dtype.value_or(kv_dtype); }
  DType output_dtype() const { return out_dtype.value_or(q_dtype); }

  friend TILEWRIGHT_API bool operator==(const AttentionSpec& a, const AttentionSpec& b);
};

struct Support {
  bool ok = false;
  std::string reason;  // empty when ok
  explicit operator bool() const { return ok; }
};

// Whether a device runs this spec, or why not. Needs no such device, compiles nothing. Error
// (invalid_argument) for a spec that no device could ever run, such as head counts that do not
// divide.
TILEWRIGHT_API Support supports(Device device, const AttentionSpec& spec);

// A number, or an f32 tensor that broadcasts to [requests, num_kv_heads]: shapes [1], [requests,
// 1], [1, num_kv_heads], [requests, num_kv_heads].
struct Scale {
  float value = 1.0F;
  TensorView tensor;

  Scale() = default;
  Scale(float v) : value(v) {}               // NOLINT(google-explicit-constructor)
  Scale(const TensorView& t) : tensor(t) {}  // NOLINT(google-explicit-constructor)
};

// The value of a variant's parameter: a number for rank 0, else a tensor of the parameter's rank.
struct ParamValue {
  std::string name;
  double value = 0;
  TensorView tensor;

  ParamValue(std::string n, double v) : name(std::move(n)), value(v) {}
  ParamValue(std::string n, const TensorView& t) : name(std::move(n)), tensor(t) {}
};

enum class Padding : std::uint8_t { keep, zero };

// What may differ from layer to layer under one plan. All tensors are on the attention's device.
struct RunArgs {
  TensorView out;  // [q tokens, num_qo_heads, value_dim], written
  // Optional f32 [q tokens, num_qo_heads], any strides, written: natural log of the sum of
  // exponentials of a row (with its sink), -inf for a row that sees no key.
  TensorView lse;
  std::optional<float> sm_scale;         // default: 1 / sqrt(head_dim)
  std::optional<float> logits_soft_cap;  // > 0, for a variant with the parameter of this name
  Scale q_scale, k_scale, v_scale;       // dequantisation: the tensor's values are multiplied by it
  Scale out_scale;   // quantisation: the output is multiplied by it before it is stored
  TensorView sinks;  // optional f32 [num_qo_heads]: a learned logit in each row's denominator
  std::vector<ParamValue> params;  // of the variant, bound at run
  // Rows of out and lse behind the batch's last query token: left as they are, or output 0, lse
  // -inf.
  Padding padding = Padding::keep;
  Stream stream;
};

// Immutable, thread-safe, cheap to copy.
class TILEWRIGHT_API Attention {
 public:
  // Error (not_supported) with supports()' reason when the device cannot run the spec.
  explicit Attention(const AttentionSpec& spec, Device device = {});

  const AttentionSpec& spec() const;
  Device device() const;

  // One layer. q: [q tokens, num_qo_heads, head_dim], tokens of all requests one after the other as
  // the plan's qo_indptr says. Rows and requests without any key give output 0, lse -inf. Bytes
  // outside the mask may be anything. The plan must have been updated and made for this attention;
  // one run in flight a plan. Errors: invalid_argument for tensors of the wrong rank, shape, dtype,
  // stride or device, for a page id the cache does not have, for a missing or unknown parameter;
  // invalid_state for a plan of other attentions or one not updated.
  void run(Plan& plan, const TensorView& q, const KvCache& kv, const RunArgs& args) const;
  // KV as one cache for each level of the plan's KV, outermost first.
  void run(Plan& plan, const TensorView& q, const std::vector<KvCache>& levels,
           const RunArgs& args) const;

  // The same attention: made from one constructor call.
  friend bool operator==(const Attention& a, const Attention& b) { return a.impl_ == b.impl_; }

  const AttentionImpl& impl() const { return *impl_; }

 private:
  std::shared_ptr<const AttentionImpl> impl_;
};

}  // namespace tilewright
