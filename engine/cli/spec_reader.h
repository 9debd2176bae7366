// SPDX-License-Identifier: Apache-2.0
// Attention specs from JSON, for --spec.
#pragma once

#include <tilewright/attention.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace tilewright::engine::cli {

// An object, or a list of them (docs/jit.md):
//   {"num_qo_heads": 32, "num_kv_heads": 8, "head_dim": 128, "q_dtype": "bf16", "kv_dtype": "bf16",
//    "variant": {"name": "causal", "window_left": 4095}}
// Errors name the field.
std::vector<AttentionSpec> read_specs(const nlohmann::ordered_json& json);
// The same of a file; Errors name it.
std::vector<AttentionSpec> read_spec_file(const std::string& path);

// "bf16", "f8e4m3", ...; Error naming `field` otherwise.
DType read_dtype(const std::string& field, const std::string& text);

}  // namespace tilewright::engine::cli
