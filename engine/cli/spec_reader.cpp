// SPDX-License-Identifier: Apache-2.0
#include "engine/cli/spec_reader.h"

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <string_view>
#include <utility>

#include "engine/checks.h"

namespace tilewright::engine::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string shown(const Json& value) {
  return value.dump(-1, ' ', true, Json::error_handler_t::replace).substr(0, 100);
}

void require_fields(const Json& object, const char* what,
                    std::initializer_list<std::string_view> known) {
  require(object.is_object(), "{} is {}: it must be a JSON object", what, shown(object));
  for (const auto& [name, value] : object.items()) {
    require(std::find(known.begin(), known.end(), name) != known.end(),
            "{} has the unknown field {}", what, engine::quoted(name));
  }
}

std::int64_t integer_of(const Json& object, const char* name, std::int64_t otherwise) {
  if (!object.contains(name)) return otherwise;
  const Json& value = object[name];
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() ||
                     value.get<std::uint64_t>() <= std::numeric_limits<std::int32_t>::max()) &&
                    value.get<std::int64_t>() >= std::numeric_limits<std::int32_t>::min() &&
                    value.get<std::int64_t>() <= std::numeric_limits<std::int32_t>::max();
  require(fits, "{} is {}: it must be an integer of 32 bits", name, shown(value));
  return value.get<std::int64_t>();
}

double number_of(const Json& object, const char* name, double otherwise) {
  if (!object.contains(name)) return otherwise;
  require(object[name].is_number(), "{} is {}: it must be a number", name, shown(object[name]));
  return object[name].get<double>();
}

std::string text_of(const Json& object, const char* name, const std::string& otherwise) {
  if (!object.contains(name)) return otherwise;
  require(object[name].is_string(), "{} is {}: it must be a string", name, shown(object[name]));
  return object[name].get<std::string>();
}

Variant read_variant(const Json& json) {
  if (json.is_string()) return read_variant(Json{{"name", json}});
  require_fields(json, "variant",
                 {"name", "text", "window_left", "left", "right", "logits_soft_cap", "sink_tokens",
                  "chunk_size", "block_size"});
  if (json.contains("text")) {
    require(json.size() == 1, "variant has text and more: text stands alone");
    return deserialize(text_of(json, "text", ""));
  }
  const std::string name = text_of(json, "name", "causal");
  const auto fields = [&](std::initializer_list<std::string_view> known) {
    for (const auto& [field, value] : json.items()) {
      require(field == "name" || std::find(known.begin(), known.end(), field) != known.end(),
              "variant {} has no {}", engine::quoted(name), field);
    }
  };
  const double cap = number_of(json, "logits_soft_cap", 0);
  if (name == "full") {
    fields({"logits_soft_cap"});
    return variants::full(cap);
  }
  if (name == "causal") {
    fields({"window_left", "logits_soft_cap"});
    return variants::causal(integer_of(json, "window_left", -1), cap);
  }
  if (name == "sliding_window") {
    fields({"left", "right", "logits_soft_cap"});
    return variants::sliding_window(integer_of(json, "left", -1), integer_of(json, "right", -1),
                                    cap);
  }
  if (name == "attention_sink") {
    fields({"sink_tokens", "window_left", "logits_soft_cap"});
    return variants::attention_sink(integer_of(json, "sink_tokens", 4),
                                    integer_of(json, "window_left", -1), cap);
  }
  if (name == "chunked_local") {
    fields({"chunk_size"});
    return variants::chunked_local(integer_of(json, "chunk_size", 0));
  }
  if (name == "block_causal") {
    fields({"block_size"});
    return variants::block_causal(integer_of(json, "block_size", 0));
  }
  fields({});
  using Make = Variant (*)();
  constexpr std::pair<std::string_view, Make> kPlain[] = {
      {"prefix_lm", variants::prefix_lm},
      {"causal_by_request", variants::causal_by_request},
      {"document", [] { return variants::document(); }},
      {"bidirectional_spans", variants::bidirectional_spans},
      {"tree", variants::tree},
      {"dense_mask", variants::dense_mask},
      {"packed_mask", variants::packed_mask},
      {"alibi", variants::alibi},
  };
  for (const auto& [known, make] : kPlain) {
    if (name == known) return make();
  }
  raise(ErrorCode::invalid_argument,
        "variant is {}: it must be the name of a ready-made one, or {{\"text\": ...}} as "
        "Variant::serialize() writes it",
        engine::quoted(name));
}

AttentionSpec read_spec(const Json& json) {
  require_fields(json, "the spec",
                 {"num_qo_heads", "num_kv_heads", "head_dim", "head_dim_vo", "q_dtype", "kv_dtype",
                  "v_dtype", "out_dtype", "variant"});
  AttentionSpec spec;
  spec.num_qo_heads = static_cast<int>(integer_of(json, "num_qo_heads", 0));
  spec.num_kv_heads = static_cast<int>(integer_of(json, "num_kv_heads", spec.num_qo_heads));
  spec.head_dim = static_cast<int>(integer_of(json, "head_dim", 0));
  spec.head_dim_vo = static_cast<int>(integer_of(json, "head_dim_vo", 0));
  spec.q_dtype = read_dtype("q_dtype", text_of(json, "q_dtype", "bf16"));
  spec.kv_dtype = json.contains("kv_dtype") ? read_dtype("kv_dtype", text_of(json, "kv_dtype", ""))
                                            : spec.q_dtype;
  for (const auto& [name, dtype] :
       {std::pair{"v_dtype", &spec.v_dtype}, std::pair{"out_dtype", &spec.out_dtype}}) {
    if (json.contains(name)) *dtype = read_dtype(name, text_of(json, name, ""));
  }
  if (json.contains("variant")) spec.variant = read_variant(json["variant"]);
  supports({}, spec);  // an Error for what no device could run
  return spec;
}

}  // namespace

DType read_dtype(const std::string& field, const std::string& text) {
  constexpr std::pair<std::string_view, DType> kNames[] = {
      {"f32", DType::f32},       {"f16", DType::f16},       {"bf16", DType::bf16},
      {"f8e4m3", DType::f8e4m3}, {"f8e5m2", DType::f8e5m2},
  };
  for (const auto& [name, dtype] : kNames) {
    if (text == name) return dtype;
  }
  raise(ErrorCode::invalid_argument, "{} is {}: it must be f32, f16, bf16, f8e4m3 or f8e5m2", field,
        engine::quoted(text));
}

std::vector<AttentionSpec> read_specs(const Json& json) {
  std::vector<AttentionSpec> specs;
  if (!json.is_array()) return {read_spec(json)};
  for (const Json& spec : json) specs.push_back(read_spec(spec));
  require(!specs.empty(), "the list of specs is empty");
  return specs;
}

std::vector<AttentionSpec> read_spec_file(const std::string& path) {
  std::ifstream file(path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  require(file.is_open() && !file.bad(), "--spec is {}: it cannot be read", path);
  try {
    return read_specs(Json::parse(text));
  } catch (const Json::exception& error) {
    raise(ErrorCode::invalid_argument, "--spec is {}: it is no JSON: {}", path, error.what());
  } catch (const Error& error) {
    raise(error.code(), "--spec is {}: {}", path, error.what());
  }
}

}  // namespace tilewright::engine::cli
