// SPDX-License-Identifier: Apache-2.0
#include "engine/cli/length_reader.h"

#include <charconv>
#include <string_view>

#include "engine/checks.h"

namespace tilewright::engine::cli {
namespace {

bool read_number(std::string_view text, std::int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

// "4096" or, shared and own ones, "8192+256".
bool read_keys(std::string_view text, RequestLengths& lengths) {
  const std::size_t plus = text.find('+');
  if (plus == std::string_view::npos) return read_number(text, lengths.kv_len);
  std::int64_t own = 0;
  return read_number(text.substr(0, plus), lengths.shared_len) &&
         read_number(text.substr(plus + 1), own) &&
         !__builtin_add_overflow(lengths.shared_len, own, &lengths.kv_len);
}

}  // namespace

std::vector<RequestLengths> read_lengths(const std::string& argument, const std::string& text) {
  std::vector<RequestLengths> batch;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view part = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    const std::size_t times = part.find('x');
    const std::size_t colon = part.find(':');
    const std::size_t q_begin = times == std::string_view::npos ? 0 : times + 1;
    RequestLengths lengths;
    const bool well = colon != std::string_view::npos && q_begin <= colon &&
                      (q_begin == 0 || read_number(part.substr(0, times), lengths.requests)) &&
                      read_number(part.substr(q_begin, colon - q_begin), lengths.q_len) &&
                      read_keys(part.substr(colon + 1), lengths);
    require(well,
            "{} has {}: it must be like 64x1:4096, requests x query tokens : keys, or without "
            "requests for one; keys may be like 8192+256, shared and own ones",
            argument, engine::quoted(part));
    batch.push_back(lengths);
  }
  return batch;
}

}  // namespace tilewright::engine::cli
