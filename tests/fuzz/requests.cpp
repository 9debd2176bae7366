// SPDX-License-Identifier: Apache-2.0
// JSON lines of requests, whole and damaged: each line is answered once, by a request as it says or
// by an error.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>
#include <memory>
#include <sstream>

#include "engine/cli/request_reader.h"
#include "engine/gguf_writer.h"
#include "engine/tiny_vocabulary.h"
#include "fuzz/mutate.h"
#include "fuzz/targets.h"

namespace tilewright::fuzz {
namespace {

using engine::cli::Json;
using engine::cli::read_request;
using engine::cli::read_requests;

constexpr std::array<std::string_view, 24> kWords = {"\"prompt\": ",
                                                     "\"tokens\": [",
                                                     "\"messages\": [{",
                                                     "\"stop\": ",
                                                     "\"seed\": ",
                                                     "\"role\": \"\"",
                                                     "null",
                                                     "true",
                                                     "1e400",
                                                     "1e39",
                                                     "-1",
                                                     "18446744073709551615",
                                                     "2147483648",
                                                     "0.5",
                                                     "\\ud800",
                                                     "\\u0000",
                                                     "\n",
                                                     "\"",
                                                     "{",
                                                     "}",
                                                     "[[[[[[[[[[[[[[[[[[",
                                                     "]",
                                                     ",",
                                                     "\xEF\xBB\xBF"};
constexpr std::array<const char*, 10> kFields = {
    "id",    "max_new_tokens", "n",    "temperature", "top_k",
    "top_p", "min_p",          "seed", "ignore_eos",  "stop"};

struct Words {
  std::string bytes;
  engine::GgufFile file;
  engine::Tokenizer tokenizer;

  Words() : bytes(written()), file("words", std::as_bytes(std::span(bytes))), tokenizer(file) {}

  static std::string written() {
    test::GgufWriter writer;
    test::TinyVocabulary({{"h", "e"}, {"l", "l"}}).write(writer);
    return writer.bytes();
  }
};

Json draw_value(Draw& draw, int depth = 0) {
  switch (draw.below(depth < 2 ? 9 : 7)) {
    case 0:
      return draw.range(0, 300);
    case 1:
      return draw.extreme();
    case 2:
      return std::ldexp(static_cast<double>(draw.range(-1000, 1000)),
                        static_cast<int>(draw.range(-10, 1000)));
    case 3:
      return draw.chance(0.5);
    case 4:
      return nullptr;
    case 5:
      return std::string(draw.below(20), static_cast<char>(draw.range(32, 126)));
    case 6:
      return static_cast<std::uint64_t>(draw.extreme());
    case 7: {
      Json list = Json::array();
      for (std::uint64_t left = draw.below(4); left > 0; --left) {
        list.push_back(draw_value(draw, depth + 1));
      }
      return list;
    }
    default:
      return Json{{draw.chance(0.5) ? "role" : "content", draw_value(draw, depth + 1)}};
  }
}

Json draw_request(Draw& draw) {
  Json request = Json::object();
  switch (draw.below(4)) {
    case 0:
      request["prompt"] = draw.chance(0.9) ? Json("hello 1 2 3") : draw_value(draw);
      break;
    case 1:
      request["messages"] = Json::array({{{"role", "user"}, {"content", "hello"}}});
      if (draw.chance(0.2)) request["messages"].push_back(draw_value(draw));
      break;
    case 2:
      request["tokens"] = {1, 2, draw.range(0, 300)};
      if (draw.chance(0.2)) request["tokens"].push_back(draw_value(draw));
      break;
    default:
      break;
  }
  for (std::uint64_t left = draw.below(4); left > 0; --left) {
    request[kFields[draw.below(kFields.size())]] = draw_value(draw);
  }
  return request;
}

// The request says what the line said, in the field's type.
void expect_same(const Json& json, const engine::Request& request) {
  const auto same = [&](const char* name, auto value) {
    if (!json.contains(name)) return;
    const Json& said = json[name];
    if constexpr (std::is_same_v<decltype(value), bool>) {
      check(said.is_boolean() && said == value, fmt::format("{} is {}", name, value));
    } else if constexpr (std::is_integral_v<decltype(value)>) {
      check(said.is_number_integer() && said == value, fmt::format("{} is {}", name, value));
    } else {
      check(said.is_number() && said.get<float>() == value, fmt::format("{} is {}", name, value));
    }
  };
  same("max_new_tokens", request.max_new_tokens);
  same("n", request.n);
  same("temperature", request.temperature);
  same("top_k", request.top_k);
  same("top_p", request.top_p);
  same("min_p", request.min_p);
  same("seed", request.seed);
  same("ignore_eos", request.ignore_eos);
  if (json.contains("tokens")) {
    check(json["tokens"] == Json(request.prompt), fmt::format("prompt is {}", request.prompt));
  }
}

std::int64_t lines_of(const std::string& text) {
  std::istringstream input(text);
  std::int64_t lines = 0;
  for (std::string line; std::getline(input, line);) {
    lines += line.find_first_not_of(" \t\r") != std::string::npos ? 1 : 0;
  }
  return lines;
}

}  // namespace

bool fuzz_requests(Draw& draw) {
  static const Words words;
  std::string text;
  for (std::int64_t left = draw.range(1, 3); left > 0; --left) {
    text += draw_request(draw).dump() + "\n";
  }
  mutate(text, draw, kWords);
  draw.note([&] { return shown(text); });
  std::istringstream input(text);
  std::int64_t well = 0;
  std::int64_t failed = 0;
  const auto handle = [&](const Json& id, const Json& json) {
    const engine::Request request =
        read_request(id, json, engine::Request{}, words.file, words.tokenizer);
    expect_same(json, request);
    check(Json::parse(request.id) == id, "the id is " + request.id);
    ++well;
  };
  read_requests(input, handle, [&](const Json&, const std::string& message, int line) {
    check(message.size() > 10 && line > 0, "the message is " + message);
    ++failed;
  });
  check(well + failed == lines_of(text), "a line has no answer, or two");
  return well > 0;
}

}  // namespace tilewright::fuzz
