// SPDX-License-Identifier: Apache-2.0
// `tilewright plan`: who computes which tile of a batch, in numbers and as a picture.
#include <fmt/format.h>

#include <charconv>
#include <fstream>
#include <memory>
#include <numeric>

#include "engine/checks.h"
#include "engine/cli/options.h"
#include "engine/cli/replay_options.h"
#include "engine/percentile.h"
#include "engine/plan_picture.h"
#include "engine/stopwatch.h"

namespace tilewright::engine::cli {
namespace {

struct Options {
  ReplayFlags flags;
  std::string lens;
  std::int64_t step = 100;
  int workers = 16;
  std::string picture;
  bool json = false;
};

// What was planned.
struct Planned {
  PlanStats stats;
  std::vector<PlanPiece> pieces;
  std::vector<PictureRequest> requests;
  int levels = 1;
  double plan_us = 0;
};

// Lines of "q_len,kv_len", those of the queries counted in kv_len; blank lines and those that begin
// with # are skipped.
std::vector<PictureRequest> read_lens(const std::string& path) {
  std::ifstream file(path);
  require(file.is_open() && (file.peek(), !file.bad()), "--lens is {}: it cannot be read", path);
  file.clear();
  std::vector<PictureRequest> requests;
  std::int64_t tokens = 0;
  int number = 0;
  for (std::string line; std::getline(file, line);) {
    ++number;
    if (line.ends_with('\r')) line.pop_back();
    if (line.find_first_not_of(" \t") == std::string::npos || line[0] == '#') continue;
    PictureRequest request;
    const char* const end = line.data() + line.size();
    const auto comma = std::from_chars(line.data(), end, request.q_len);
    const bool first = comma.ec == std::errc{} && comma.ptr != end && *comma.ptr == ',';
    const auto rest = std::from_chars(first ? comma.ptr + 1 : end, end, request.kv_len);
    require(first && rest.ec == std::errc{} && rest.ptr == end,
            "{}:{}: the line is {}: it must be q_len,kv_len", path, number, engine::quoted(line));
    require(request.q_len >= 1 && request.q_len <= kMostTraceTokens,
            "{}:{}: q_len is {}: it must be in [1, {}]", path, number, request.q_len,
            kMostTraceTokens);
    require(request.kv_len >= request.q_len && request.kv_len <= kMostTraceTokens,
            "{}:{}: kv_len is {}: it must be in [q_len, {}], the queries' own tokens included",
            path, number, request.kv_len, kMostTraceTokens);
    tokens += request.kv_len;
    require(tokens <= std::numeric_limits<std::int32_t>::max(),
            "{}:{}: there are {} KV tokens up to here: an i32 must be able to number them", path,
            number, tokens);
    requests.push_back(request);
  }
  require(!requests.empty(), "{}: it has no requests", path);
  return requests;
}

// A batch of these lengths, every request with a KV of its own.
Planned plan_lens(const Options& options) {
  Planned planned;
  planned.requests = read_lens(options.lens);
  const ReplayOptions replay = options.flags.options();
  std::vector<std::int32_t> qo_indptr{0}, kv_indptr{0};
  Limits limits;
  limits.requests = std::ssize(planned.requests);
  for (const PictureRequest& request : planned.requests) {
    qo_indptr.push_back(qo_indptr.back() + static_cast<std::int32_t>(request.q_len));
    kv_indptr.push_back(kv_indptr.back() + static_cast<std::int32_t>(request.kv_len));
    limits.q_len = std::max(limits.q_len, request.q_len);
    limits.kv_len = std::max(limits.kv_len, request.kv_len);
  }
  limits.q_tokens = qo_indptr.back();
  limits.workers = options.workers;
  const Attention attention(replay.shape.attention_spec());
  Plan plan({attention}, limits);
  plan.prepare();
  const auto view = [](std::vector<std::int32_t>& values) {
    return TensorView(values.data(), DType::i32, {std::ssize(values)});
  };
  Batch batch;
  batch.qo_indptr = view(qo_indptr);
  const std::vector<PlanInput> inputs{{attention, PageTable::ragged(view(kv_indptr))}};
  std::vector<double> times;
  for (int i = 0; i < 20; ++i) {
    const Stopwatch watch;
    plan.update(batch, inputs);
    times.push_back(watch.seconds() * 1e6);
  }
  planned.plan_us = percentile(times, 0.5);
  planned.stats = plan.stats(attention);
  planned.pieces = plan.pieces(attention);
  return planned;
}

// A step of a trace, as the scheduler makes it.
Planned plan_trace(const Options& options) {
  ReplayOptions settings = options.flags.options();
  settings.workers = options.workers;
  settings.attend = false;
  Replay replay(options.flags.read(), settings);
  for (std::int64_t i = 0; i <= options.step; ++i) {
    require(replay.step(), "--step is {}: the trace is served in {} steps", options.step, i);
  }
  Planned planned;
  const StepBatch& batch = replay.batch();
  for (std::size_t r = 0; r < batch.kv_lens.size(); ++r) {
    planned.requests.push_back({batch.qo_indptr[r + 1] - batch.qo_indptr[r], batch.kv_lens[r]});
  }
  planned.levels = static_cast<int>(batch.levels.size());
  planned.plan_us = replay.steps().back().plan_seconds * 1e6;
  planned.stats = replay.plan().stats(replay.attention());
  planned.pieces = replay.plan().pieces(replay.attention());
  return planned;
}

Json report_of(const Planned& planned, int workers) {
  const PlanBalance balance = balance_of(planned.pieces, workers);
  std::vector<std::int64_t> costs(static_cast<std::size_t>(workers), 0);
  for (const PlanPiece& piece : planned.pieces) {
    costs[static_cast<std::size_t>(piece.worker)] += piece.cost;
  }
  std::int64_t q_tokens = 0, kv_tokens = 0;
  for (const PictureRequest& request : planned.requests) {
    q_tokens += request.q_len;
    kv_tokens += request.kv_len;
  }
  return {{"requests", planned.requests.size()},
          {"q_tokens", q_tokens},
          {"kv_tokens", kv_tokens},
          {"levels", planned.levels},
          {"tiles", planned.stats.tiles},
          {"blocks", planned.stats.blocks},
          {"split_tiles", planned.stats.split_tiles},
          {"kv_bytes", planned.stats.kv_bytes},
          {"workers", workers},
          {"busy_workers", balance.busy},
          {"cost", balance.total},
          {"longest", balance.longest},
          {"balance", balance.balance},
          {"plan_us", planned.plan_us},
          {"worker_costs", costs}};
}

void print_text(const Json& r) {
  fmt::print("requests   {} with {} query tokens, {} KV tokens, {} level{}\n",
             r["requests"].get<int>(), r["q_tokens"].get<std::int64_t>(),
             r["kv_tokens"].get<std::int64_t>(), r["levels"].get<int>(),
             r["levels"].get<int>() == 1 ? "" : "s");
  fmt::print("work       {} tiles of {} blocks in all, {} tiles split; {:.4g} MB of KV read\n",
             r["tiles"].get<std::int64_t>(), r["blocks"].get<std::int64_t>(),
             r["split_tiles"].get<std::int64_t>(), r["kv_bytes"].get<double>() / 1e6);
  fmt::print(
      "balance    {:.3f} over {} workers, {} of them busy: cost {} at most, {:.1f} on average\n",
      r["balance"].get<double>(), r["workers"].get<int>(), r["busy_workers"].get<int>(),
      r["longest"].get<std::int64_t>(), r["cost"].get<double>() / r["workers"].get<double>());
  fmt::print("planning   {:.1f} us\n", r["plan_us"].get<double>());
}

int plan(const Options& options) {
  const Planned planned = options.lens.empty() ? plan_trace(options) : plan_lens(options);
  const Json report = report_of(planned, options.workers);
  options.json ? print_line(stdout, report) : print_text(report);
  if (options.picture.empty()) return kAnswered;
  std::ofstream file(options.picture);
  require(file.is_open(), "--picture is {}: it cannot be written", options.picture);
  file << plan_picture(planned.pieces, options.workers, planned.levels, planned.requests);
  file.close();
  require(file.good(), "--picture is {}: it cannot be written", options.picture);
  return kAnswered;
}

}  // namespace

void add_plan(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  options->flags.step_ms = 50;
  CLI::App* command =
      app.add_subcommand("plan", "Show who computes which tile of a batch, and how even it is");
  auto* lens = command->add_option("--lens", options->lens,
                                   "A batch: lines of q_len,kv_len, a request each");
  options->flags.add_to(*command);
  command->get_option("--trace")->excludes(lens);
  command->add_option("--step", options->step, "The step of the trace's replay, from 0")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 30))
      ->excludes(lens);
  command->add_option("--workers", options->workers)
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  command->add_option("--picture", options->picture, "Draw it into this file (SVG)");
  command->add_flag("--json", options->json, "A JSON object");
  command->callback([options, &status] {
    if (options->lens.empty() == options->flags.trace.empty()) {
      throw CLI::ValidationError("plan", "give --lens or --trace");
    }
    if (!options->flags.trace.empty() && options->flags.format.empty()) {
      throw CLI::RequiredError("--format");
    }
    if (options->flags.step_ms <= 0) {
      throw CLI::ValidationError("--step-ms", "it must be greater than 0: nothing is measured");
    }
    status = plan(*options);
  });
}

}  // namespace tilewright::engine::cli
