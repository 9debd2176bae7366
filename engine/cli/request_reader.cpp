// SPDX-License-Identifier: Apache-2.0
#include "engine/cli/request_reader.h"

#include <istream>
#include <limits>

#include "engine/chat_template.h"
#include "engine/checks.h"

namespace tilewright::engine::cli {
namespace {

// Objects in objects beyond any request's need would overflow the stack of whoever walks them.
constexpr int kMaxDepth = 16;

Json parse_line(const std::string& line) {
  try {
    Json request = Json::parse(line, [](int depth, Json::parse_event_t, Json&) {
      require(depth <= kMaxDepth, "the line nests deeper than {}", kMaxDepth);
      return true;
    });
    require(request.is_object(), "the line is {}: it must be a JSON object", engine::quoted(line));
    return request;
  } catch (const Json::parse_error& error) {
    raise(ErrorCode::invalid_argument, "the line is no JSON: byte {} is wrong", error.byte);
  } catch (const Json::exception&) {  // a number beyond double
    raise(ErrorCode::invalid_argument, "the line is no JSON that can be read: {}",
          engine::quoted(line));
  }
}

std::int32_t token_of(const Json& value) {
  require(
      value.is_number_integer() && value >= 0 && value <= std::numeric_limits<std::int32_t>::max(),
      "tokens has {}: they must be token ids", shown(value));
  return value.get<std::int32_t>();
}

// Sets `value` from a request's field; Error when it has another type.
template <typename T>
void read_field(const Json& request, const char* name, T& value) {
  if (!request.contains(name)) return;
  const Json& field = request[name];
  bool fits = false;
  if constexpr (std::is_same_v<T, bool>) {
    fits = field.is_boolean();
  } else if constexpr (std::is_integral_v<T>) {
    fits =
        field.is_number_integer() &&
        (!field.is_number_unsigned() ||
         field.get<std::uint64_t>() <= static_cast<std::uint64_t>(std::numeric_limits<T>::max())) &&
        field.get<std::int64_t>() >= std::numeric_limits<T>::min() &&
        field.get<std::int64_t>() <= std::numeric_limits<T>::max();
  } else {
    fits = field.is_number();
  }
  require(fits, "{} is {}: it must be {}", name, shown(field),
          std::is_same_v<T, bool> ? "true or false"
          : std::is_integral_v<T> ? "an integer"
                                  : "a number");
  value = field.get<T>();
}

}  // namespace

std::string shown(const Json& value) {
  return engine::quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

std::vector<std::int32_t> read_prompt(const Json& request, const GgufFile& file,
                                      const Tokenizer& tokenizer) {
  const int given = static_cast<int>(request.contains("prompt")) +
                    static_cast<int>(request.contains("messages")) +
                    static_cast<int>(request.contains("tokens"));
  require(given == 1, "a request has {} of prompt, messages and tokens: it must have one", given);
  std::vector<std::int32_t> tokens;
  if (request.contains("tokens")) {
    require(request["tokens"].is_array(), "tokens is {}: it must be a list of token ids",
            shown(request["tokens"]));
    for (const Json& value : request["tokens"]) tokens.push_back(token_of(value));
  } else if (request.contains("prompt")) {
    require(request["prompt"].is_string(), "prompt is {}: it must be a string",
            shown(request["prompt"]));
    tokens = tokenizer.encode(request["prompt"].get<std::string>(), ControlTokens::parse);
    if (tokenizer.adds_bos() && tokenizer.bos()) tokens.insert(tokens.begin(), *tokenizer.bos());
  } else {
    const Json& messages = request["messages"];
    std::vector<ChatMessage> chat;
    require(messages.is_array() && !messages.empty(),
            "messages is {}: it must be a list of messages", shown(messages));
    for (const Json& message : messages) {
      require(message.is_object() && message.contains("role") && message["role"].is_string() &&
                  message.contains("content") && message["content"].is_string(),
              "messages has {}: it must have a role and a content, both strings", shown(message));
      chat.push_back({message["role"], message["content"]});
    }
    tokens = ChatTemplate(file, tokenizer).encode(tokenizer, chat);
  }
  return tokens;
}

Request read_request(const Json& id, const Json& json, const Request& defaults,
                     const GgufFile& file, const Tokenizer& tokenizer) {
  Request request = defaults;
  request.id = id.dump();
  request.prompt = read_prompt(json, file, tokenizer);
  read_field(json, "max_new_tokens", request.max_new_tokens);
  read_field(json, "n", request.n);
  read_field(json, "temperature", request.temperature);
  read_field(json, "top_k", request.top_k);
  read_field(json, "top_p", request.top_p);
  read_field(json, "min_p", request.min_p);
  read_field(json, "seed", request.seed);
  read_field(json, "ignore_eos", request.ignore_eos);
  if (json.contains("stop")) {
    const Json& stop = json["stop"];
    request.stop.clear();
    for (const Json& text : stop.is_array() ? stop : Json::array({stop})) {
      require(text.is_string(), "stop is {}: it must be a string or a list of strings",
              shown(stop));
      request.stop.push_back(text);
    }
  }
  return request;
}

int read_requests(std::istream& input, const RequestHandler& handle, const FailureHandler& failed) {
  int number = 0;
  for (std::string line; std::getline(input, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    Json id = number;
    try {
      const Json request = parse_line(line);
      if (request.contains("id")) {
        require(request["id"].is_string() || request["id"].is_number(),
                "id is {}: it must be a string or a number", shown(request["id"]));
        id = request["id"];
      }
      handle(id, request);
    } catch (const Error& error) {
      failed(id, error.what(), number);
    }
  }
  return number;
}

}  // namespace tilewright::engine::cli
