// SPDX-License-Identifier: Apache-2.0
// Requests as JSON lines: what `tilewright generate` and `score` read. Errors name the field.
#pragma once

#include <cstdint>
#include <functional>
#include <iosfwd>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/gguf.h"
#include "engine/tokenizer.h"

namespace tilewright::engine::cli {

using Json = nlohmann::ordered_json;

// A value for messages, cut when it is long.
std::string shown(const Json& value);

// The tokens of a request's `prompt` (raw), `messages` (chat template of the model's file) or
// `tokens`.
std::vector<std::int32_t> read_prompt(const Json& request, const GgufFile& file,
                                      const Tokenizer& tokenizer);
// `defaults` has what the request does not say.
Request read_request(const Json& id, const Json& json, const Request& defaults,
                     const GgufFile& file, const Tokenizer& tokenizer);

using RequestHandler = std::function<void(const Json& id, const Json& request)>;
using FailureHandler = std::function<void(const Json& id, const std::string& message, int line)>;

// Calls handle(id, request) for each line that is not blank. A line that is no JSON object, or that
// `handle` raises an Error for, goes to `failed`, and the others go on. `id` is the number of the
// line when it has none. Returns how many lines there are.
int read_requests(std::istream& input, const RequestHandler& handle, const FailureHandler& failed);

}  // namespace tilewright::engine::cli
