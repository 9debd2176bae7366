// SPDX-License-Identifier: Apache-2.0
#include "variant/bindings.h"

#include <algorithm>
#include <optional>

#include "base/checks.h"
#include "base/numeric.h"
#include "variant/graph.h"

namespace tilewright {
namespace {

// The element's offset; none outside of the tensor.
std::optional<std::int64_t> offset_of(const BoundParam& param, const std::int64_t* index) {
  std::int64_t offset = 0;
  for (int dim = 0; dim < param.rank; ++dim) {
    if (index[dim] < 0 || index[dim] >= param.shape[dim]) return std::nullopt;
    offset += index[dim] * param.strides[dim];
  }
  return offset;
}

const char* moment_name(Bind when) {
  return when == Bind::plan ? "when the plan is updated" : "at run";
}

std::string known_names(const std::vector<Param>& params, Bind when) {
  std::string names;
  for (const Param& param : params) {
    if (param.bind() != when) continue;
    names += names.empty() ? "" : ", ";
    names += "\"" + param.name() + "\"";
  }
  return names.empty() ? "none" : names;
}

void bind_number(const Param& param, const ParamValue& value, BoundParam& bound) {
  require(param.rank() == 0, "parameter \"{}\" is a number: it must be a tensor of rank {}",
          param.name(), param.rank());
  check_param_number(param, value.value);
  bound.scalar = value.value;
}

void bind_tensor(const Param& param, const TensorView& tensor, Device device, BoundParam& bound) {
  const bool real = param.type() == ValueType::real;
  const bool good_dtype =
      real ? tensor.dtype == DType::f32 || tensor.dtype == DType::f16 || tensor.dtype == DType::bf16
           : tensor.dtype == DType::i32 || tensor.dtype == DType::u8 || tensor.dtype == DType::i8;
  // A number may also come as a tensor of one element.
  const int rank = std::max(param.rank(), 1);
  if (tensor.rank != rank || !good_dtype || tensor.device != device ||
      (tensor.data == nullptr && tensor.numel() > 0) ||
      (param.rank() == 0 && tensor.numel() != 1)) {
    const std::string name = "parameter \"" + param.name() + "\"";
    require_rank(name, tensor, {rank});
    if (real) {
      require_dtype(name, tensor, {DType::f32, DType::f16, DType::bf16});
    } else {
      require_dtype(name, tensor, {DType::i32, DType::u8, DType::i8});
    }
    require_device(name, tensor, device);
    require_shape(name, tensor, {1});
  }
  bound.data = tensor.data;
  bound.dtype = tensor.dtype;
  if (param.rank() == 0) {
    if (device.type == DeviceType::cpu) {
      bound.scalar = real ? static_cast<double>(load_element(bound.data, bound.dtype, 0))
                          : static_cast<double>(load_integer(bound.data, bound.dtype, 0));
    }
    return;
  }
  for (int dim = 0; dim < rank; ++dim) {
    bound.shape[dim] = tensor.shape[dim];
    bound.strides[dim] = tensor.strides[dim];
  }
}

}  // namespace

float BoundParam::real_at(const std::int64_t* index) const {
  if (rank == 0) return static_cast<float>(scalar);
  const auto offset = offset_of(*this, index);
  return offset ? load_element(data, dtype, *offset) : 0.0F;
}

std::int64_t BoundParam::integer_at(const std::int64_t* index) const {
  if (rank == 0) return static_cast<std::int64_t>(scalar);
  const auto offset = offset_of(*this, index);
  return offset ? load_integer(data, dtype, *offset) : 0;
}

ParamBinder::ParamBinder(const Variant& variant) : params_(variant.params()) {
  require(params_.size() <= static_cast<std::size_t>(Bindings::kMaxParams),
          "the variant has {} parameters: at most {} are possible", params_.size(),
          Bindings::kMaxParams);
  extents_.resize(params_.size());
  for (const ExprNode* node :
       topological_order({&variant.logits, &variant.mask, &variant.output})) {
    if (node->op != ExprOp::param) continue;
    auto& extents = extents_[static_cast<std::size_t>(index_of(node->param->name()))];
    for (std::size_t dim = 0; dim < std::min<std::size_t>(node->args.size(), 3); ++dim) {
      switch (node->args[dim].node().op) {
        case ExprOp::q_head:
          extents[dim] = Extent::q_heads;
          break;
        case ExprOp::kv_head:
          extents[dim] = Extent::kv_heads;
          break;
        case ExprOp::batch:
          extents[dim] = Extent::requests;
          break;
        case ExprOp::q_index:
          extents[dim] = Extent::q_tokens;
          break;
        default:
          break;
      }
    }
  }
}

int ParamBinder::index_of(const std::string& name) const {
  for (std::size_t i = 0; i < params_.size(); ++i) {
    if (params_[i].name() == name) return static_cast<int>(i);
  }
  return -1;
}

bool ParamBinder::binds_at(Bind when) const {
  return std::any_of(params_.begin(), params_.end(),
                     [&](const Param& param) { return param.bind() == when; });
}

void ParamBinder::check_extents(std::size_t index, const TensorView& tensor,
                                const ParamExtents& extents) const {
  const Param& param = params_[index];
  for (int dim = 0; dim < param.rank(); ++dim) {
    const std::int64_t extent = tensor.shape[dim];
    switch (extents_[index][static_cast<std::size_t>(dim)]) {
      case Extent::q_heads:
        require(extent == extents.num_qo_heads,
                "parameter \"{}\" is {}: dimension {} must be the number of query heads, {}",
                param.name(), tensor, dim, extents.num_qo_heads);
        break;
      case Extent::kv_heads:
        require(extent == extents.num_kv_heads,
                "parameter \"{}\" is {}: dimension {} must be the number of KV heads, {}",
                param.name(), tensor, dim, extents.num_kv_heads);
        break;
      case Extent::requests:
        require(extent >= extents.requests,
                "parameter \"{}\" is {}: dimension {} must be at least the number of requests, {}",
                param.name(), tensor, dim, extents.requests);
        break;
      case Extent::q_tokens:
        require(extent >= extents.q_tokens,
                "parameter \"{}\" is {}: dimension {} must be at least the number of query tokens, "
                "{}",
                param.name(), tensor, dim, extents.q_tokens);
        break;
      case Extent::any:
        break;
    }
  }
}

void ParamBinder::bind(const std::vector<ParamValue>& values, Bind when,
                       const ParamExtents& extents, Device device, Bindings& bindings) const {
  std::array<const ParamValue*, Bindings::kMaxParams> given{};
  for (const ParamValue& value : values) {
    const int index = index_of(value.name);
    if (index < 0) {  // not require(): the names would be listed, and memory allocated, always
      raise(ErrorCode::invalid_argument, "there is no parameter \"{}\": those bound {} are {}",
            value.name, moment_name(when), known_names(params_, when));
    }
    const Param& param = params_[static_cast<std::size_t>(index)];
    require(param.bind() == when, "parameter \"{}\" is given {}: it must be given {}", value.name,
            moment_name(when), moment_name(param.bind()));
    require(given[index] == nullptr, "parameter \"{}\" is given twice", value.name);
    given[index] = &value;
  }
  for (std::size_t i = 0; i < params_.size(); ++i) {
    const Param& param = params_[i];
    if (param.bind() != when) continue;
    BoundParam bound;
    bound.bound = true;
    bound.rank = param.rank();
    if (given[i] == nullptr) {
      require(param.default_value().has_value(),
              "parameter \"{}\" is missing: it has no default and must be given {}", param.name(),
              moment_name(when));
      bound.scalar = *param.default_value();
    } else if (given[i]->tensor.defined()) {
      bind_tensor(param, given[i]->tensor, device, bound);
      check_extents(i, given[i]->tensor, extents);
    } else {
      bind_number(param, *given[i], bound);
    }
    bindings.params[i] = bound;
  }
}

}  // namespace tilewright
