// SPDX-License-Identifier: Apache-2.0
// The ready-made variants by name, with arguments by name.
#include <tilewright/c_variant.h>
#include <tilewright/variants.h>

#include <array>
#include <cmath>
#include <optional>
#include <string_view>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

namespace {

constexpr std::size_t kMaxArgs = 3;

enum class Kind : std::uint8_t { integer, real, flag };

struct Arg {
  const char* name;
  Kind kind;
  std::optional<double> value;  // when it is left out; none: it must be given
};

using Values = std::array<double, kMaxArgs>;

std::int64_t integer(double value) {
  return static_cast<std::int64_t>(value);
}

bool flag(double value) {
  return value != 0;
}

struct ReadyMade {
  const char* name;
  std::vector<Arg> args;
  Variant (*make)(const Values&);
};

constexpr Arg kSoftCap = {"logits_soft_cap", Kind::real, 0};

// In the order of variants.h, with its defaults.
const std::vector<ReadyMade>& ready_made() {
  static const std::vector<ReadyMade> all = {
      {"full", {kSoftCap}, [](const Values& v) { return variants::full(v[0]); }},
      {"causal",
       {{"window_left", Kind::integer, -1}, kSoftCap},
       [](const Values& v) { return variants::causal(integer(v[0]), v[1]); }},
      {"sliding_window",
       {{"left", Kind::integer, {}}, {"right", Kind::integer, {}}, kSoftCap},
       [](const Values& v) {
         return variants::sliding_window(integer(v[0]), integer(v[1]), v[2]);
       }},
      {"attention_sink",
       {{"sink_tokens", Kind::integer, {}}, {"window_left", Kind::integer, {}}, kSoftCap},
       [](const Values& v) {
         return variants::attention_sink(integer(v[0]), integer(v[1]), v[2]);
       }},
      {"prefix_lm", {}, [](const Values&) { return variants::prefix_lm(); }},
      {"causal_by_request", {}, [](const Values&) { return variants::causal_by_request(); }},
      {"chunked_local",
       {{"chunk_size", Kind::integer, {}}},
       [](const Values& v) { return variants::chunked_local(integer(v[0])); }},
      {"block_causal",
       {{"block_size", Kind::integer, {}}},
       [](const Values& v) { return variants::block_causal(integer(v[0])); }},
      {"document",
       {{"causal", Kind::flag, 1}},
       [](const Values& v) { return variants::document(flag(v[0])); }},
      {"bidirectional_spans", {}, [](const Values&) { return variants::bidirectional_spans(); }},
      {"tree", {}, [](const Values&) { return variants::tree(); }},
      {"dense_mask", {}, [](const Values&) { return variants::dense_mask(); }},
      {"packed_mask", {}, [](const Values&) { return variants::packed_mask(); }},
      {"block_sparse",
       {{"q_block", Kind::integer, {}}, {"kv_block", Kind::integer, {}}},
       [](const Values& v) { return variants::block_sparse(integer(v[0]), integer(v[1])); }},
      {"alibi", {}, [](const Values&) { return variants::alibi(); }},
      {"t5_relative_bias",
       {{"bidirectional", Kind::flag, {}},
        {"num_buckets", Kind::integer, 32},
        {"max_distance", Kind::integer, 128}},
       [](const Values& v) {
         return variants::t5_relative_bias(flag(v[0]), static_cast<int>(v[1]),
                                           static_cast<int>(v[2]));
       }},
      {"additive_bias",
       {{"per_head", Kind::flag, 0}},
       [](const Values& v) { return variants::additive_bias(flag(v[0])); }},
      {"sigmoid",
       {{"bias", Kind::real, 0}, {"causal", Kind::flag, 1}},
       [](const Values& v) { return variants::sigmoid(v[0], flag(v[1])); }},
  };
  return all;
}

template <typename List>
std::string names_of(const List& list) {
  std::string names;
  for (const auto& entry : list) {
    if (!names.empty()) names += ", ";
    names += entry.name;
  }
  return names.empty() ? "none" : names;
}

const ReadyMade& find(std::string_view name) {
  for (const ReadyMade& variant : ready_made()) {
    if (name == variant.name) return variant;
  }
  raise(ErrorCode::invalid_argument, "name is \"{}\": there is no such variant; those known are {}",
        name, names_of(ready_made()));
}

void check_value(std::string_view variant, const Arg& arg, double value) {
  // Integers that are exact in a double, and 32 bits for those that C++ takes as int.
  constexpr double kMost = 2147483647;
  if (arg.kind == Kind::integer) {
    require(value == std::floor(value) && std::abs(value) <= kMost,
            "{} of variant \"{}\" is {}: it must be an integer below 2^31", arg.name, variant,
            value);
  }
  if (arg.kind == Kind::flag) {
    require(value == 0 || value == 1, "{} of variant \"{}\" is {}: it must be 0 or 1", arg.name,
            variant, value);
  }
}

Values read_values(const ReadyMade& variant, const tw_variant_arg* args, std::size_t count) {
  check_count("num_args", count);
  if (count > 0) required("args", args);
  std::array<std::optional<double>, kMaxArgs> given;
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view name = &required({{"args", i}, "name"}, args[i].name);
    std::size_t index = 0;
    while (index < variant.args.size() && name != variant.args[index].name) ++index;
    require(index < variant.args.size(), "variant \"{}\" has no argument \"{}\": it has {}",
            variant.name, name, names_of(variant.args));
    require(!given[index].has_value(), "argument \"{}\" of variant \"{}\" is given twice", name,
            variant.name);
    check_value(variant.name, variant.args[index], args[i].value);
    given[index] = args[i].value;
  }
  Values values{};
  for (std::size_t i = 0; i < variant.args.size(); ++i) {
    const std::optional<double> value = given[i].has_value() ? given[i] : variant.args[i].value;
    require(value.has_value(), "argument \"{}\" of variant \"{}\" is missing", variant.args[i].name,
            variant.name);
    values[i] = *value;
  }
  return values;
}

}  // namespace

tw_status tw_variant_create(const char* name, const tw_variant_arg* args, size_t num_args,
                            tw_variant** variant) {
  return guarded([&] {
    const ReadyMade& found = find(&required("name", name));
    hand_out("variant", variant, found.make(read_values(found, args, num_args)));
  });
}
