// SPDX-License-Identifier: Apache-2.0
// Attention variants: small programs over one logit and where it stands, written as expressions.
//
// clang-format off
//   Param slope = Param::real("slope", 1);  // a tensor [num_qo_heads], given at run
//   Variant alibi;
//   alibi.logits = expr::logit() + slope(expr::q_head()) * to_real(expr::kv_pos() - expr::q_pos());
//   alibi.mask = expr::kv_pos() <= expr::q_pos();
// clang-format on
//
// The same graph becomes CPU code, CUDA text and mask classes (which tiles are empty, full or
// mixed).
#pragma once

#include <tilewright/export.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace tilewright {

enum class ValueType : std::uint8_t { boolean, integer, real };

enum class ExprOp : std::uint8_t {
  // leaves
  constant,
  param,
  logit,  // real: q . k * sm_scale, before the mask
  q_pos,
  kv_pos,
  q_head,
  kv_head,
  batch,
  q_len,
  kv_len,
  q_index,
  q_begin,
  value,  // value: one output element (output transform only)
  // arithmetic; div is real, floor_div and mod are integer and round towards minus infinity;
  // shift_right and bit_and are integer
  add,
  sub,
  mul,
  div,
  floor_div,
  mod,
  shift_right,
  bit_and,
  neg,
  min,
  max,
  abs,
  exp,
  log,
  tanh,
  sigmoid,
  to_real,  // integer or boolean -> real
  // comparisons and logic -> boolean
  lt,
  le,
  eq,
  ne,
  logical_and,
  logical_or,
  logical_not,
  where,
};

// When a parameter's value is known: masks that are to skip tiles need it when the plan is made.
enum class Bind : std::uint8_t { run, plan };

struct ExprNode;

// A node of a variant's graph: an immutable value, cheap to copy. Integers are exact (64-bit,
// positions are below 2^31), reals are f32. Operators mix integers with reals by converting to
// real. Errors (invalid_argument): an operand of the wrong type, as in `!logit()`.
class TILEWRIGHT_API Expr {
 public:
  Expr() = default;  // empty: "not given"
  Expr(int value);  // NOLINT(google-explicit-constructor): literals are written bare in expressions
  Expr(std::int64_t value);  // NOLINT(google-explicit-constructor)
  Expr(double value);        // NOLINT(google-explicit-constructor)
  Expr(float value);         // NOLINT(google-explicit-constructor)
  Expr(bool value);          // NOLINT(google-explicit-constructor)
  explicit Expr(std::shared_ptr<const ExprNode> node) : node_(std::move(node)) {}

  // `if (expr)` would evaluate nothing: a graph is being built.
  explicit operator bool() const = delete;
  bool defined() const { return node_ != nullptr; }
  ValueType type() const;
  const ExprNode& node() const { return *node_; }
  const std::shared_ptr<const ExprNode>& shared() const { return node_; }

 private:
  std::shared_ptr<const ExprNode> node_;
};

// A named input of a variant: a number (rank 0) or a tensor of rank 1 to 3, read by integer
// indices. Tensors of reals are f32, f16 or bf16, of integers i32, i8 or u8. A read outside the
// tensor gives 0. Where an index is exactly q_head, kv_head, batch or q_index, the tensor's extent
// is checked against the head count, the number of requests or of query tokens.
class TILEWRIGHT_API Param {
 public:
  static Param real(std::string name, int rank = 0, Bind bind = Bind::run);
  static Param integer(std::string name, int rank = 0, Bind bind = Bind::plan);
  Param with_default(double value) const;  // rank 0 only

  Expr operator()() const;  // rank 0
  Expr operator()(const Expr& i) const;
  Expr operator()(const Expr& i, const Expr& j) const;
  Expr operator()(const Expr& i, const Expr& j, const Expr& k) const;

  const std::string& name() const { return name_; }
  ValueType type() const { return type_; }
  int rank() const { return rank_; }
  Bind bind() const { return bind_; }
  std::optional<double> default_value() const { return default_; }

  friend TILEWRIGHT_API bool operator==(const Param& a, const Param& b);

 private:
  std::string name_;
  ValueType type_ = ValueType::real;
  int rank_ = 0;
  Bind bind_ = Bind::run;
  std::optional<double> default_;
};

struct ExprNode {
  ExprOp op;
  ValueType type;
  std::int64_t integer = 0;  // constant (integer, boolean)
  double real = 0;           // constant (real)
  std::optional<Param> param;
  std::vector<Expr> args;
  int depth = 1;  // nodes on the longest path down from here; set by the operators, which bound it
};

namespace expr {
TILEWRIGHT_API Expr logit();
TILEWRIGHT_API Expr q_pos();    // position of the query token in its request
TILEWRIGHT_API Expr kv_pos();   // position of the key token
TILEWRIGHT_API Expr q_head();   // query/output head
TILEWRIGHT_API Expr kv_head();  // q_head / group size
TILEWRIGHT_API Expr batch();    // index of the request in the batch
TILEWRIGHT_API Expr q_len();    // query tokens of the request
TILEWRIGHT_API Expr kv_len();   // KV tokens of the request
TILEWRIGHT_API Expr q_index();  // index of the query token in the packed batch
TILEWRIGHT_API Expr q_begin();  // q_index of the request's first query token
TILEWRIGHT_API Expr value();    // an output element, in Variant::output only
}  // namespace expr

TILEWRIGHT_API Expr operator+(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr operator-(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr operator*(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr operator/(const Expr& a, const Expr& b);  // real division
TILEWRIGHT_API Expr operator-(const Expr& a);
TILEWRIGHT_API Expr operator<(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr operator<=(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr operator>(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr operator>=(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr operator==(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr operator!=(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr operator&&(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr operator||(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr operator!(const Expr& a);
TILEWRIGHT_API Expr floor_div(const Expr& a, const Expr& b);  // b: not 0; by 0 gives 0
TILEWRIGHT_API Expr mod(const Expr& a, const Expr& b);        // the sign of b; by 0 gives 0
TILEWRIGHT_API Expr min(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr max(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr shift_right(const Expr& a, const Expr& b);  // floor_div(a, 2^(b mod 64))
TILEWRIGHT_API Expr bit_and(const Expr& a, const Expr& b);
TILEWRIGHT_API Expr abs(const Expr& a);
TILEWRIGHT_API Expr exp(const Expr& a);
TILEWRIGHT_API Expr log(const Expr& a);
TILEWRIGHT_API Expr tanh(const Expr& a);
TILEWRIGHT_API Expr sigmoid(const Expr& a);
TILEWRIGHT_API Expr to_real(const Expr& a);
TILEWRIGHT_API Expr where(const Expr& condition, const Expr& yes, const Expr& no);

// How the frequencies of a rotary embedding are changed for contexts longer than those a model was
// trained on. Linear scaling is RopeSpec::position_scale = 1 / factor.

// "NTK-aware": theta becomes theta * factor^(dim / (dim - 2)). Dynamic NTK is this with the factor
// f * length / original_max_position - (f - 1).
struct NtkScaling {
  double factor = 1;
};

// Llama 3.1's: wavelengths above original_max_position / low_freq_factor are stretched by factor,
// those below original_max_position / high_freq_factor are left, others are in between.
struct Llama3Scaling {
  double factor = 8;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  double original_max_position = 8192;
};

// YaRN (arXiv 2309.00071): pairs that turn less than beta_slow times over the original context are
// stretched by factor, those that turn more than beta_fast times are left, with a ramp in between.
struct YarnScaling {
  double factor = 1;
  double original_max_position = 4096;
  double beta_fast = 32;
  double beta_slow = 1;
  // Cosines and sines are multiplied by it; 0: 0.1 * ln(factor) + 1 for factors above 1, else 1.
  double attention_factor = 0;
  bool truncate = true;  // the ramp's ends are rounded outwards to whole pairs
};

// LongRoPE (arXiv 2402.13753) and GGUF's rope_freqs: the frequency of pair i is divided by
// factors[i].
struct LongRopeScaling {
  std::vector<double> factors;  // [dim / 2]
  double attention_factor = 1;  // cosines and sines are multiplied by it
};

using RopeScaling =
    std::variant<std::monostate, NtkScaling, Llama3Scaling, YarnScaling, LongRopeScaling>;

// Rotary position embedding (arXiv 2104.09864) of a head's first `dim` elements.
struct RopeSpec {
  int dim = 0;                // 0: the whole head_dim; even
  double theta = 10000.0;     // base of the frequencies
  double position_scale = 1;  // positions are multiplied by it (linear scaling)
  bool interleaved = false;   // pairs are (2i, 2i + 1); else (i, i + dim / 2), "rotate half"
  RopeScaling scaling{};

  friend TILEWRIGHT_API bool operator==(const RopeSpec& a, const RopeSpec& b);
};

// What an attention computes between Q K^T and the output. Members that are not set mean "as
// usual".
struct TILEWRIGHT_API Variant {
  Expr logits;  // real, over logit(): replaces each scaled logit
  Expr mask;    // boolean: which (query, key) pairs attend
  Expr output;  // real, over value(), q_pos, q_head, kv_head, batch: replaces output elements
  // Applied to queries and keys on the fly; the cache holds unrotated keys.
  std::optional<RopeSpec> rope;
  // False: the transformed logits are the weights, as in sigmoid attention.
  bool softmax = true;

  // The parameters of all expressions, in order of first use. Error when one name has two
  // declarations.
  std::vector<Param> params() const;
  // Canonical text, equal for equal graphs: what a variant is compared, stored and hashed by.
  std::string serialize() const;
  // Errors: logits not real, mask not boolean, value() outside of output, logit() in mask, ...
  void validate() const;

  friend TILEWRIGHT_API bool operator==(const Variant& a, const Variant& b);
};

// Reads what Variant::serialize() wrote. Errors (invalid_argument) name the line.
TILEWRIGHT_API Variant deserialize(std::string_view text);

}  // namespace tilewright
