// SPDX-License-Identifier: Apache-2.0
// `tilewright replay`: serves a trace with random keys and values, and measures it.
#include "engine/replay.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "engine/cli/options.h"
#include "engine/cli/replay_options.h"
#include "engine/numeric.h"
#include "engine/percentile.h"

namespace tilewright::engine::cli {
namespace {

struct Options {
  ReplayFlags flags;
  std::int64_t verify = 0;
  bool spoil = false;
  bool json = false;
};

template <typename Value>
std::vector<double> column(const std::vector<ReplayStep>& steps, const Value& value) {
  std::vector<double> values;
  for (const ReplayStep& step : steps) values.push_back(static_cast<double>(value(step)));
  return values;
}

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}
double mean(const std::vector<double>& values) {
  return values.empty() ? 0 : sum(values) / static_cast<double>(values.size());
}
double largest(const std::vector<double>& values) {
  return values.empty() ? 0 : *std::ranges::max_element(values);
}

Json percentiles(std::vector<double> values, double unit) {
  for (double& value : values) value *= unit;
  return {{"p50", percentile(values, 0.5)},
          {"p90", percentile(values, 0.9)},
          {"p99", percentile(values, 0.99)},
          {"max", largest(values)}};
}

Json report_of(const Replay& replay, const ReplayVerdict& verdict) {
  const std::vector<ReplayStep>& steps = replay.steps();
  const ReplayTotals& totals = replay.totals();
  const ReplayOptions& options = replay.options();
  const SchedulerStats scheduler = replay.scheduler_stats();
  const auto seconds = column(steps, [](const ReplayStep& s) { return s.seconds(); });
  const auto attention = column(steps, [](const ReplayStep& s) { return s.attention_seconds; });
  const auto balance = column(steps, [](const ReplayStep& s) { return s.balance; });
  const double read = sum(column(steps, [](const ReplayStep& s) { return s.kv_bytes; }));
  const double busy = sum(seconds);
  return {
      {"requests", totals.requests},
      {"input_tokens", totals.input_tokens},
      {"shared_tokens", totals.shared_tokens},
      {"output_tokens", totals.output_tokens},
      {"steps", steps.size()},
      {"preemptions", scheduler.preemptions},
      {"page_copies", scheduler.page_copies},
      {"clock_s", totals.clock},
      {"busy_s", busy},
      {"tokens_per_s",
       busy > 0 ? sum(column(steps, [](const ReplayStep& s) { return s.tokens; })) / busy : 0},
      {"requests_per_step", mean(column(steps, [](const ReplayStep& s) { return s.requests; }))},
      {"step_ms", percentiles(seconds, 1e3)},
      {"attention_ms", percentiles(attention, 1e3)},
      {"plan_us",
       percentiles(column(steps, [](const ReplayStep& s) { return s.plan_seconds; }), 1e6)},
      {"schedule_us",
       percentiles(column(steps, [](const ReplayStep& s) { return s.schedule_seconds; }), 1e6)},
      {"write_us",
       percentiles(column(steps, [](const ReplayStep& s) { return s.write_seconds; }), 1e6)},
      {"first_token_ms", percentiles(totals.first_token_seconds, 1e3)},
      {"balance",
       {{"mean", mean(balance)},
        {"p10", percentile(balance, 0.1)},
        {"p50", percentile(balance, 0.5)}}},
      {"kv_pages",
       {{"all", options.scheduler.kv_pages},
        {"peak", scheduler.kv_pages_peak},
        {"shared_peak", largest(column(steps, [](const ReplayStep& s) { return s.shared_pages; }))},
        {"cached", scheduler.kv_pages_cached}}},
      {"kv_bytes_read", read},
      {"kv_bytes_unshared",
       sum(column(steps, [](const ReplayStep& s) { return s.kv_bytes_unshared; }))},
      {"kv_gb_per_s", sum(attention) > 0 ? read / sum(attention) / 1e9 : 0},
      {"verified",
       {{"checked", verdict.checked}, {"wrong", verdict.wrong}, {"worst", verdict.worst}}},
      {"heads", fmt::format("{}/{}", options.shape.num_qo_heads, options.shape.num_kv_heads)},
      {"head_dim", options.shape.head_dim},
      {"dtype", options.shape.dtype == DType::bf16 ? "bf16" : "f32"},
      {"threads", num_threads()},
      {"page_size", options.scheduler.page_size},
      {"max_batch", options.scheduler.max_batch},
      {"token_budget", options.scheduler.token_budget},
      {"speed", fmt::format("{}", options.speed)},
      {"step_ms_given", options.step_seconds * 1e3}};
}

void print_text(const Json& r) {
  const auto line = [](const char* name, const std::string& text) {
    fmt::print("{:<18} {}\n", name, text);
  };
  const auto number = [&](const char* name) { return r[name].get<double>(); };
  const auto quantiles = [&](const char* name, const char* unit) {
    const Json& q = r[name];
    return fmt::format("p50 {:.3g}, p90 {:.3g}, p99 {:.3g}, max {:.3g} {}", q["p50"].get<double>(),
                       q["p90"].get<double>(), q["p99"].get<double>(), q["max"].get<double>(),
                       unit);
  };
  line("requests",
       fmt::format("{:.0f}: {:.0f} tokens in ({:.0f} found in the prefix cache), {:.0f} "
                   "out",
                   number("requests"), number("input_tokens"), number("shared_tokens"),
                   number("output_tokens")));
  line("steps", fmt::format("{:.0f}, {:.1f} requests each; {:.0f} preemptions, {:.0f} page copies",
                            number("steps"), number("requests_per_step"), number("preemptions"),
                            number("page_copies")));
  line("time", fmt::format("{:.3f} s busy of {:.3f} s, {:.0f} tokens/s while busy",
                           number("busy_s"), number("clock_s"), number("tokens_per_s")));
  line("step", quantiles("step_ms", "ms"));
  line("  attention", quantiles("attention_ms", "ms"));
  line("  planning", quantiles("plan_us", "us"));
  line("  scheduling", quantiles("schedule_us", "us"));
  line("  cache writes", quantiles("write_us", "us"));
  line("first token", quantiles("first_token_ms", "ms"));
  const Json& balance = r["balance"];
  line("balance", fmt::format("mean {:.3f}, p50 {:.3f}, p10 {:.3f}", balance["mean"].get<double>(),
                              balance["p50"].get<double>(), balance["p10"].get<double>()));
  const Json& pages = r["kv_pages"];
  line("KV pages", fmt::format("{} at most in use of {}; {:.0f} at most by several requests of a "
                               "step",
                               pages["peak"].get<std::int64_t>(), pages["all"].get<std::int64_t>(),
                               pages["shared_peak"].get<double>()));
  line("KV bytes read", fmt::format("{:.4g} GB ({:.2f} GB/s); {:.4g} GB had every request read for "
                                    "itself",
                                    number("kv_bytes_read") / 1e9, number("kv_gb_per_s"),
                                    number("kv_bytes_unshared") / 1e9));
}

// Makes one value of every output wrong.
void spoil(const TensorView& out) {
  const std::int64_t vectors = out.shape[0] * out.shape[1];
  for (std::int64_t i = 0; i < vectors; ++i) {
    if (out.dtype == DType::bf16) {
      std::uint16_t& value = static_cast<std::uint16_t*>(out.data)[i * out.shape[2]];
      value = f32_to_bf16(bf16_to_f32(value) + 1);
    } else {
      static_cast<float*>(out.data)[i * out.shape[2]] += 1;
    }
  }
}

int replay_trace(const Options& options) {
  ReplayOptions settings = options.flags.options();
  settings.verify = options.verify;
  if (options.spoil) settings.after_run = spoil;
  Replay replay(options.flags.read(), settings);
  while (replay.step()) {
  }
  const ReplayVerdict verdict = replay.verify();
  const Json report = report_of(replay, verdict);
  if (options.json) {
    print_line(stdout, report);
  } else {
    print_text(report);
    if (options.verify > 0) {
      fmt::print(
          "{:<18} {} outputs against float64: {} wrong, at worst {:.3g} of the allowed error\n",
          "verified", verdict.checked, verdict.wrong, verdict.worst);
    }
  }
  for (const std::string& example : verdict.examples) {
    fmt::print(stderr, "tilewright: wrong output: {}\n", example);
  }
  return verdict.wrong == 0 ? kAnswered : kSomeFailed;
}

}  // namespace

void add_replay(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "replay",
      "Serve a trace's arrivals and lengths with random keys and values (attention only)");
  options->flags.add_to(*command);
  command->get_option("--trace")->required();
  command->get_option("--format")->required();
  command->add_option("--verify", options->verify, "Check K random outputs against float64")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 24));
  command->add_flag("--spoil", options->spoil,
                    "Make every output wrong before the check, to see that it finds it");
  command->add_flag("--json", options->json, "A JSON object");
  command->callback([options, &status] { status = replay_trace(*options); });
}

}  // namespace tilewright::engine::cli
