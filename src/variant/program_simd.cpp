// SPDX-License-Identifier: Apache-2.0
// The vector instructions of ExprProgram, compiled for every instruction set Highway knows and
// chosen at run time. Each instruction runs over all lanes before the next one; registers stay in
// the L1 cache.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "variant/program_simd.cpp"
#include <hwy/foreach_target.h>
// Highway asks for this order: foreach_target.h comes first.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "variant/integer.h"
#include "variant/param_line.h"
#include "variant/program_code.h"

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, ExprProgram::Code::kUniformBytes / sizeof(float)>;
using DI = hn::Rebind<std::int32_t, DF>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;

// Lanes of an operand; step 0: one vector (or, of wide integers, one lane) stands for all of them.
struct View {
  const void* data = nullptr;
  std::size_t step = 0;

  template <typename T>
  const T* at(std::size_t i) const {
    return static_cast<const T*>(data) + i * step;
  }
};

// exp, log and tanh for every float: Highway's are for finite arguments in their domain.
HWY_INLINE VF exp_lanes(DF d, VF x) {
  const VF y = hn::Exp(d, hn::Min(x, hn::Set(d, 104.0F)));
  return hn::IfThenElse(hn::IsNaN(x), x, y);
}

HWY_INLINE VF log_lanes(DF d, VF x) {
  const VF infinity = hn::Set(d, std::numeric_limits<float>::infinity());
  const VF nan = hn::Set(d, std::numeric_limits<float>::quiet_NaN());
  VF y = hn::Log(d, x);
  y = hn::IfThenElse(hn::Eq(x, infinity), infinity, y);
  y = hn::IfThenElse(hn::Eq(x, hn::Zero(d)), hn::Neg(infinity), y);
  return hn::IfThenElse(hn::Ge(x, hn::Zero(d)), y, nan);
}

HWY_INLINE VF tanh_lanes(DF d, VF x) {
  return hn::IfThenElse(hn::IsNaN(x), x, hn::Tanh(d, x));
}

HWY_INLINE VF sigmoid_lanes(DF d, VF x) {
  const VF one = hn::Set(d, 1.0F);
  return hn::Div(one, hn::Add(one, exp_lanes(d, hn::Neg(x))));
}

// In doubles the quotient of two 32-bit integers is exact enough for floor: it differs from an
// integer by at least 2^-31 of itself, or not at all.
HWY_INLINE void floor_quotients(const std::int32_t* a, const std::int32_t* b, std::int32_t* out) {
  const hn::Half<DI> di;
  const hn::Rebind<double, decltype(di)> dd;
  for (std::size_t i = 0; i < hn::Lanes(DI()); i += hn::Lanes(di)) {
    const auto divisor = hn::LoadU(di, b + i);
    const auto quotient =
        hn::Floor(hn::Div(hn::PromoteTo(dd, hn::LoadU(di, a + i)), hn::PromoteTo(dd, divisor)));
    const auto by_zero = hn::Eq(divisor, hn::Zero(di));
    hn::StoreU(hn::IfThenZeroElse(by_zero, hn::DemoteTo(di, quotient)), di, out + i);
  }
}

HWY_INLINE hn::Mask<DF> less_equal(VF a, VF b) {
  return hn::Le(a, b);
}
HWY_INLINE hn::Mask<DI> less_equal(VI a, VI b) {
  return hn::Not(hn::Lt(b, a));
}

class Machine {
 public:
  explicit Machine(const ProgramCall& call)
      : call_(call),
        code_(*call.code),
        lanes_(hn::Lanes(DF())),
        padded_((call.count + lanes_ - 1) / lanes_ * lanes_) {}

  void run() {
    load_inputs();
    broadcast_uniforms();
    const std::size_t last = code_.instructions.size() - 1;
    for (std::size_t i = 0; i < code_.instructions.size(); ++i) {
      const ProgramInstruction& in = code_.instructions[i];
      // Every instruction reads lane i before it writes it, so the result may overwrite the input.
      const bool direct = i == last && call_.out_real != nullptr && padded_ == call_.count;
      std::byte* out =
          direct ? reinterpret_cast<std::byte*>(call_.out_real) : vector_register(in.destination);
      execute(in, out);
      if (direct) return;
    }
    call_.out_real != nullptr ? store_reals() : store_mask();
  }

 private:
  std::byte* vector_register(std::size_t index) const {
    return call_.scratch + code_.register_offset() + index * code_.register_bytes(call_.narrow);
  }

  View view(const ProgramOperand& operand) const {
    switch (operand.kind) {
      case ProgramOperand::Kind::real_input:
        return real_input_;
      case ProgramOperand::Kind::kv_input:
        return kv_input_;
      case ProgramOperand::Kind::uniform:
        return {call_.scratch + code_.uniform_offset() +
                    operand.index * ExprProgram::Code::kUniformBytes,
                0};
      default:
        return {vector_register(operand.index), 1};
    }
  }

  // Whole vectors are read: inputs whose end is inside one are copied and padded.
  template <typename T>
  View padded_input(const T* data, std::size_t offset) const {
    if (padded_ == call_.count) return {data, 1};
    T* copy = reinterpret_cast<T*>(call_.scratch + offset);
    std::copy_n(data, call_.count, copy);
    std::fill(copy + call_.count, copy + padded_, T{});
    return {copy, 1};
  }

  void load_inputs() {
    if (code_.reads_real) real_input_ = padded_input(call_.reals, code_.real_input_offset());
    if (!code_.reads_kv) return;
    if (call_.narrow) {
      kv_input_ = padded_input(call_.kv_pos, code_.kv_input_offset());
    } else {
      auto* copy = reinterpret_cast<std::int64_t*>(call_.scratch + code_.kv_input_offset());
      std::copy_n(call_.kv_pos, call_.count, copy);
      std::fill(copy + call_.count, copy + padded_, std::int64_t{0});
      kv_input_ = {copy, 1};
    }
  }

  void broadcast_uniforms() const {
    const DF df;
    const DI di;
    std::byte* out = call_.scratch + code_.uniform_offset();
    for (const ProgramUniform& uniform : code_.uniforms) {
      const Scalar value = call_.scalars[uniform.slot];
      if (uniform.type == ValueType::real) {
        hn::Store(hn::Set(df, value.real), df, reinterpret_cast<float*>(out));
      } else if (uniform.type == ValueType::boolean || call_.narrow) {
        const std::int64_t lane =
            uniform.type == ValueType::boolean ? -value.integer : value.integer;
        hn::Store(hn::Set(di, static_cast<std::int32_t>(lane)), di,
                  reinterpret_cast<std::int32_t*>(out));
      } else {
        std::memcpy(out, &value.integer, sizeof(value.integer));
      }
      out += ExprProgram::Code::kUniformBytes;
    }
  }

  void execute(const ProgramInstruction& in, std::byte* out) const {
    View a = view(in.args[0]);
    const View b = in.arity > 1 ? view(in.args[1]) : View{};
    const View c = in.arity > 2 ? view(in.args[2]) : View{};
    if (in.op == ExprOp::param) {
      gather(in, {a, b, c}, out);
    } else if (in.op == ExprOp::where) {
      select(in, a, b, c, out);
    } else if (in.operand == ValueType::real) {
      real_operator(in.op, a, b, out);
    } else if (in.operand == ValueType::boolean) {
      boolean_operator(in.op, a, b, out);
    } else if (call_.narrow) {
      narrow_operator(in.op, a, b, out);
    } else {
      wide_operator(in.op, a, b, out);
    }
  }

  template <class D, class DOut, class Op>
  HWY_INLINE void unary(D d, DOut d_out, const View& a, std::byte* out, const Op& op) const {
    auto* to = reinterpret_cast<hn::TFromD<DOut>*>(out);
    for (std::size_t i = 0; i < padded_; i += lanes_) {
      hn::StoreU(op(hn::LoadU(d, a.at<hn::TFromD<D>>(i))), d_out, to + i);
    }
  }

  template <class D, class DOut, class Op>
  HWY_INLINE void binary(D d, DOut d_out, const View& a, const View& b, std::byte* out,
                         const Op& op) const {
    auto* to = reinterpret_cast<hn::TFromD<DOut>*>(out);
    using T = hn::TFromD<D>;
    for (std::size_t i = 0; i < padded_; i += lanes_) {
      hn::StoreU(op(hn::LoadU(d, a.at<T>(i)), hn::LoadU(d, b.at<T>(i))), d_out, to + i);
    }
  }

  // Comparisons give booleans: 0 or -1.
  template <class D, class Op>
  HWY_INLINE void compare(D d, const View& a, const View& b, std::byte* out, const Op& op) const {
    const DI di;
    using V = hn::Vec<D>;
    binary(d, di, a, b, out,
           [&](V x, V y) HWY_ATTR { return hn::BitCast(di, hn::VecFromMask(d, op(x, y))); });
  }

  // What reals and narrow integers share. False: not one of these.
  template <class D>
  HWY_INLINE bool common_operator(D d, ExprOp op, const View& a, const View& b,
                                  std::byte* out) const {
    using V = hn::Vec<D>;
    switch (op) {
      case ExprOp::add:
        binary(d, d, a, b, out, [](V x, V y) HWY_ATTR { return hn::Add(x, y); });
        return true;
      case ExprOp::sub:
        binary(d, d, a, b, out, [](V x, V y) HWY_ATTR { return hn::Sub(x, y); });
        return true;
      case ExprOp::mul:
        binary(d, d, a, b, out, [](V x, V y) HWY_ATTR { return hn::Mul(x, y); });
        return true;
      case ExprOp::neg:
        unary(d, d, a, out, [](V x) HWY_ATTR { return hn::Neg(x); });
        return true;
      case ExprOp::abs:
        unary(d, d, a, out, [](V x) HWY_ATTR { return hn::Abs(x); });
        return true;
      case ExprOp::min:  // the second when either is NaN, on every target
        binary(d, d, a, b, out,
               [](V x, V y) HWY_ATTR { return hn::IfThenElse(hn::Lt(x, y), x, y); });
        return true;
      case ExprOp::max:
        binary(d, d, a, b, out,
               [](V x, V y) HWY_ATTR { return hn::IfThenElse(hn::Lt(y, x), x, y); });
        return true;
      case ExprOp::lt:
        compare(d, a, b, out, [](V x, V y) HWY_ATTR { return hn::Lt(x, y); });
        return true;
      case ExprOp::le:
        compare(d, a, b, out, [](V x, V y) HWY_ATTR { return less_equal(x, y); });
        return true;
      case ExprOp::eq:
        compare(d, a, b, out, [](V x, V y) HWY_ATTR { return hn::Eq(x, y); });
        return true;
      case ExprOp::ne:  // Ne of NaN is not the same on all targets
        compare(d, a, b, out, [](V x, V y) HWY_ATTR { return hn::Not(hn::Eq(x, y)); });
        return true;
      default:
        return false;
    }
  }

  HWY_NOINLINE void real_operator(ExprOp op, const View& a, const View& b, std::byte* out) const {
    const DF d;
    if (common_operator(d, op, a, b, out)) return;
    switch (op) {
      case ExprOp::div:
        return binary(d, d, a, b, out, [](VF x, VF y) HWY_ATTR { return hn::Div(x, y); });
      case ExprOp::exp:
        return unary(d, d, a, out, [](VF x) HWY_ATTR { return exp_lanes(DF(), x); });
      case ExprOp::log:
        return unary(d, d, a, out, [](VF x) HWY_ATTR { return log_lanes(DF(), x); });
      case ExprOp::tanh:
        return unary(d, d, a, out, [](VF x) HWY_ATTR { return tanh_lanes(DF(), x); });
      default:
        return unary(d, d, a, out, [](VF x) HWY_ATTR { return sigmoid_lanes(DF(), x); });
    }
  }

  HWY_NOINLINE void narrow_operator(ExprOp op, const View& a, const View& b, std::byte* out) const {
    const DI d;
    if (common_operator(d, op, a, b, out)) return;
    if (op == ExprOp::to_real) {
      return unary(d, DF(), a, out, [](VI x) HWY_ATTR { return hn::ConvertTo(DF(), x); });
    }
    if (op == ExprOp::bit_and) {
      return binary(d, d, a, b, out, [](VI x, VI y) HWY_ATTR { return hn::And(x, y); });
    }
    if (op == ExprOp::shift_right) {
      // Counts from 32 to 63 leave the sign only, as 31 does.
      return binary(d, d, a, b, out, [](VI x, VI y) HWY_ATTR {
        return hn::Shr(x, hn::Min(hn::And(y, hn::Set(DI(), 63)), hn::Set(DI(), 31)));
      });
    }
    auto* to = reinterpret_cast<std::int32_t*>(out);
    for (std::size_t i = 0; i < padded_; i += lanes_) {
      const std::int32_t* x = a.at<std::int32_t>(i);
      const std::int32_t* y = b.at<std::int32_t>(i);
      floor_quotients(x, y, to + i);
      if (op == ExprOp::floor_div) continue;
      const VI divisor = hn::LoadU(d, y);
      const VI rest = hn::Sub(hn::LoadU(d, x), hn::Mul(divisor, hn::LoadU(d, to + i)));
      hn::StoreU(hn::IfThenZeroElse(hn::Eq(divisor, hn::Zero(d)), rest), d, to + i);
    }
  }

  HWY_NOINLINE void boolean_operator(ExprOp op, const View& a, const View& b,
                                     std::byte* out) const {
    const DI d;
    switch (op) {
      case ExprOp::logical_and:
        return binary(d, d, a, b, out, [](VI x, VI y) HWY_ATTR { return hn::And(x, y); });
      case ExprOp::logical_or:
        return binary(d, d, a, b, out, [](VI x, VI y) HWY_ATTR { return hn::Or(x, y); });
      case ExprOp::logical_not:
        return unary(d, d, a, out, [](VI x) HWY_ATTR { return hn::Not(x); });
      case ExprOp::ne:
        return binary(d, d, a, b, out, [](VI x, VI y) HWY_ATTR { return hn::Xor(x, y); });
      case ExprOp::eq:
        return binary(d, d, a, b, out, [](VI x, VI y) HWY_ATTR { return hn::Not(hn::Xor(x, y)); });
      default:  // to_real
        return unary(d, DF(), a, out,
                     [](VI x) HWY_ATTR { return hn::ConvertTo(DF(), hn::Neg(x)); });
    }
  }

  HWY_NOINLINE void select(const ProgramInstruction& in, const View& condition, const View& yes,
                           const View& no, std::byte* out) const {
    const auto* chosen = static_cast<const std::int32_t*>(condition.data);
    if (in.type == ValueType::integer && !call_.narrow) {
      auto* to = reinterpret_cast<std::int64_t*>(out);
      for (std::size_t i = 0; i < padded_; ++i) {
        to[i] = *(chosen[i * condition.step] != 0 ? yes : no).at<std::int64_t>(i);
      }
      return;
    }
    const DI d;  // a choice of bits, whatever they mean
    auto* to = reinterpret_cast<std::int32_t*>(out);
    for (std::size_t i = 0; i < padded_; i += lanes_) {
      const auto mask = hn::MaskFromVec(hn::LoadU(d, condition.at<std::int32_t>(i)));
      const VI x = hn::LoadU(d, yes.at<std::int32_t>(i));
      const VI y = hn::LoadU(d, no.at<std::int32_t>(i));
      hn::StoreU(hn::IfThenElse(mask, x, y), d, to + i);
    }
  }

  template <typename Out, typename Op>
  HWY_INLINE void wide(const View& a, const View& b, std::byte* out, const Op& op) const {
    Out* HWY_RESTRICT to = reinterpret_cast<Out*>(out);
    const auto* x = static_cast<const std::int64_t*>(a.data);
    const auto* y = b.data != nullptr ? static_cast<const std::int64_t*>(b.data) : x;
    for (std::size_t i = 0; i < padded_; ++i) {
      to[i] = static_cast<Out>(op(x[i * a.step], y[i * b.step]));
    }
  }

  template <typename Op>
  HWY_INLINE void wide_compare(const View& a, const View& b, std::byte* out, const Op& op) const {
    wide<std::int32_t>(a, b, out,
                       [&](std::int64_t x, std::int64_t y) { return op(x, y) ? -1 : 0; });
  }

  // The rare case: integers beyond 32 bits, one lane after the other.
  HWY_NOINLINE void wide_operator(ExprOp op, const View& a, const View& b, std::byte* out) const {
    using I = std::int64_t;
    switch (op) {
      case ExprOp::add:
        return wide<I>(a, b, out, wrap_add);
      case ExprOp::sub:
        return wide<I>(a, b, out, wrap_sub);
      case ExprOp::mul:
        return wide<I>(a, b, out, wrap_mul);
      case ExprOp::floor_div:
        return wide<I>(a, b, out, [](I x, I y) { return floor_div(x, y); });
      case ExprOp::mod:
        return wide<I>(a, b, out, floor_mod);
      case ExprOp::shift_right:
        return wide<I>(a, b, out, [](I x, I y) { return shift_right(x, y); });
      case ExprOp::bit_and:
        return wide<I>(a, b, out, [](I x, I y) { return x & y; });
      case ExprOp::neg:
        return wide<I>(a, b, out, [](I x, I) { return wrap_neg(x); });
      case ExprOp::abs:
        return wide<I>(a, b, out, [](I x, I) { return wrap_abs(x); });
      case ExprOp::min:
        return wide<I>(a, b, out, [](I x, I y) { return x < y ? x : y; });
      case ExprOp::max:
        return wide<I>(a, b, out, [](I x, I y) { return y < x ? x : y; });
      case ExprOp::lt:
        return wide_compare(a, b, out, [](I x, I y) { return x < y; });
      case ExprOp::le:
        return wide_compare(a, b, out, [](I x, I y) { return x <= y; });
      case ExprOp::eq:
        return wide_compare(a, b, out, [](I x, I y) { return x == y; });
      case ExprOp::ne:
        return wide_compare(a, b, out, [](I x, I y) { return x != y; });
      default:  // to_real
        return wide<float>(a, b, out, [](I x, I) { return x; });
    }
  }

  // False: the lanes' reads do not lie on one line of the tensor, or its dtype is not a usual one.
  bool gather_line(const BoundParam& param, const View (&indices)[3], std::byte* out) const {
    if (!call_.narrow) return false;
    ParamLine line;
    const View& along = indices[param.rank - 1];
    line.indices = static_cast<const std::int32_t*>(along.data);
    line.step = static_cast<std::int64_t>(along.step);
    line.lanes = static_cast<std::int64_t>(call_.count);
    std::int64_t fixed[2] = {};
    for (int dim = 0; dim + 1 < param.rank; ++dim) {
      if (indices[dim].step != 0) return false;
      fixed[dim] = *indices[dim].at<std::int32_t>(0);
    }
    return line.read(param, fixed, out);
  }

  HWY_NOINLINE void gather(const ProgramInstruction& in, const View (&indices)[3],
                           std::byte* out) const {
    const BoundParam& param = call_.bindings->params[in.param];
    if (gather_line(param, indices, out)) return;
    for (std::size_t i = 0; i < call_.count; ++i) {
      std::int64_t index[3] = {};
      for (int dim = 0; dim < param.rank; ++dim) {
        index[dim] =
            call_.narrow ? *indices[dim].at<std::int32_t>(i) : *indices[dim].at<std::int64_t>(i);
      }
      if (in.type == ValueType::real) {
        reinterpret_cast<float*>(out)[i] = param.real_at(index);
      } else if (call_.narrow) {
        reinterpret_cast<std::int32_t*>(out)[i] =
            static_cast<std::int32_t>(param.integer_at(index));
      } else {
        reinterpret_cast<std::int64_t*>(out)[i] = param.integer_at(index);
      }
    }
  }

  void store_reals() const {
    const View result = view(code_.result);
    const auto* lanes = static_cast<const float*>(result.data);
    if (lanes == call_.out_real) return;
    for (std::size_t i = 0; i < call_.count; ++i) call_.out_real[i] = lanes[i * result.step];
  }

  void store_mask() const {
    const DI di;
    const hn::Rebind<std::uint8_t, DI> du;
    const View result = view(code_.result);
    std::size_t i = 0;
    for (; i + lanes_ <= call_.count; i += lanes_) {
      const VI lanes = hn::LoadU(di, result.at<std::int32_t>(i));
      hn::StoreU(hn::DemoteTo(du, hn::And(lanes, hn::Set(di, 1))), du, call_.out_mask + i);
    }
    for (; i < call_.count; ++i) {
      call_.out_mask[i] = static_cast<std::uint8_t>(*result.at<std::int32_t>(i) & 1);
    }
  }

  const ProgramCall& call_;
  const ExprProgram::Code& code_;
  std::size_t lanes_;
  std::size_t padded_;
  View real_input_;
  View kv_input_;
};

void execute_on_target(const ProgramCall& call) {
  Machine(call).run();
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {

HWY_EXPORT(execute_on_target);

void execute_program(const ProgramCall& call) {
  HWY_DYNAMIC_DISPATCH(execute_on_target)(call);
}

}  // namespace tilewright
#endif
