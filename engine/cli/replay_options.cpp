// SPDX-License-Identifier: Apache-2.0
#include "engine/cli/replay_options.h"

#include <tilewright/threads.h>

#include <charconv>
#include <optional>
#include <utility>

namespace tilewright::engine::cli {
namespace {

// "32/8": query heads and KV heads.
std::optional<std::pair<int, int>> parse_heads(const std::string& text) {
  const char* const end = text.data() + text.size();
  int query = 0, kv = 0;
  const auto slash = std::from_chars(text.data(), end, query);
  if (slash.ec != std::errc{} || slash.ptr == end || *slash.ptr != '/') return std::nullopt;
  const auto rest = std::from_chars(slash.ptr + 1, end, kv);
  if (rest.ec != std::errc{} || rest.ptr != end) return std::nullopt;
  if (query < 1 || kv < 1 || query > 1024 || query % kv != 0) return std::nullopt;
  return std::pair(query, kv);
}

std::string check_speed(const std::string& text) {
  double speed = 0;
  return CLI::detail::lexical_cast(text, speed) && speed > 0
             ? ""
             : text + ": it must be a number greater than 0, or inf";
}

}  // namespace

void ReplayFlags::add_to(CLI::App& app) {
  SchedulerOptions& scheduler = replay.scheduler;
  auto* file = app.add_option("--trace", trace, "A file of requests");
  app.add_option("--format", format, "Of the trace: azure (CSV) or mooncake (JSON lines)")
      ->check(CLI::IsMember({"azure", "mooncake"}))
      ->needs(file);
  app.add_option("--requests", requests, "The first N only; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40));
  app.add_option("--speed", replay.speed,
                 "Requests arrive X times as fast as in the trace; inf: all at once")
      ->capture_default_str()
      ->check(check_speed);
  app.add_option("--step-ms", step_ms,
                 "Steps take this long on the trace's clock, on every machine; 0: what they took")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e9));
  app.add_option("--heads", heads, "Query heads / KV heads")
      ->capture_default_str()
      ->check([](const std::string& text) {
        return parse_heads(text) ? ""
                                 : text +
                                       ": it must be query heads / KV heads, as in 32/8, the "
                                       "first at most 1024 and a multiple of the second";
      });
  app.add_option("--head-dim", replay.shape.head_dim)
      ->capture_default_str()
      ->check(CLI::Range(8, 576));
  app.add_option("--dtype", dtype, "Of queries, KV cache and outputs")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--max-batch", scheduler.max_batch, "Requests a step")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  app.add_option("--token-budget", scheduler.token_budget, "New tokens a step")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16));
  app.add_option("--kv-pages", scheduler.kv_pages,
                 "Pages of the KV cache; 0: for 131072 tokens, or for the longest request")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  app.add_option("--page-size", scheduler.page_size, "Tokens a page")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  app.add_flag("--no-share", no_share, "Do not share the pages of common beginnings");
  app.add_option("--seed", replay.seed, "Of queries, keys, values and checks")
      ->capture_default_str();
  app.add_option("--threads", threads, "CPU threads; default: all cores")
      ->check(CLI::Range(1, 1024));
}

std::vector<TraceRequest> ReplayFlags::read() const {
  return read_trace(trace, trace_format(format),
                    requests > 0 ? requests : std::numeric_limits<std::int64_t>::max());
}

ReplayOptions ReplayFlags::options() const {
  if (threads > 0) set_num_threads(threads);
  ReplayOptions options = replay;
  const auto [query_heads, kv_heads] = parse_heads(heads).value();
  options.shape.num_qo_heads = query_heads;
  options.shape.num_kv_heads = kv_heads;
  options.shape.dtype = dtype == "bf16" ? DType::bf16 : DType::f32;
  options.step_seconds = step_ms / 1e3;
  options.scheduler.share_prefixes = !no_share;
  options.scheduler.token_budget =
      std::max<std::int64_t>(options.scheduler.token_budget, options.scheduler.max_batch);
  return options;
}

}  // namespace tilewright::engine::cli
