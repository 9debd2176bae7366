// SPDX-License-Identifier: Apache-2.0
// `tilewright generate`: answers requests in continuous batching.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>

#include "engine/checks.h"
#include "engine/cli/options.h"
#include "engine/percentile.h"

namespace tilewright::engine::cli {
namespace {

struct GenerateOptions {
  CommonOptions common;
  EngineOptions engine;
  Request defaults;  // sampling parameters of requests that do not say their own
  std::string question;
  std::string input;
  std::string share = "on";
  std::string share_attention = "on";
  std::string stats_file;
  bool json = false;
  bool progress = false;
};

// What was measured over all requests.
struct Totals {
  std::int64_t requests = 0, prompt_tokens = 0, shared_tokens = 0, generated_tokens = 0;
  std::vector<double> ttft_ms, itl_ms;

  void add(const Result& result) {
    ++requests;
    prompt_tokens += result.prompt_tokens;
    shared_tokens += result.shared_tokens;
    generated_tokens += static_cast<std::int64_t>(result.tokens.size());
    ttft_ms.push_back(result.ttft_ms);
    itl_ms.insert(itl_ms.end(), result.itl_ms.begin(), result.itl_ms.end());
  }
};

Json stats_json(const GenerateOptions& options, const EngineStats& stats, const Totals& totals) {
  const StepTimes& t = stats.times;
  const auto quantiles = [](const std::vector<double>& values) {
    return Json{{"p50", percentile(values, 0.5)}, {"p99", percentile(values, 0.99)}};
  };
  return {{"seconds", stats.seconds},
          {"requests", totals.requests},
          {"prompt_tokens", totals.prompt_tokens},
          {"shared_tokens", totals.shared_tokens},
          {"generated_tokens", totals.generated_tokens},
          {"tokens_per_s",
           stats.seconds > 0 ? static_cast<double>(totals.generated_tokens) / stats.seconds : 0},
          {"ttft_ms", quantiles(totals.ttft_ms)},
          {"itl_ms", quantiles(totals.itl_ms)},
          {"kv_pages_peak", stats.kv_pages_peak},
          {"page_copies", stats.page_copies},
          {"kv_bytes_read", stats.kv_bytes_read},
          {"kv_bytes_unshared", stats.kv_bytes_unshared},
          {"steps", stats.steps},
          {"preemptions", stats.preemptions},
          {"time_s",
           {{"attention", t.attention},
            {"matmul", t.matmul},
            {"sampling", t.sampling},
            {"plan", t.plan},
            {"other", t.other}}},
          {"device", options.common.device},
          {"device_busy_s", stats.device_busy},
          {"device_idle_s", stats.device_idle},
          {"threads", num_threads()},
          {"dtype", options.common.dtype},
          {"max_batch", options.engine.max_batch},
          {"page_size", options.engine.page_size}};
}

Json result_json(const Result& result) {
  return {{"id", Json::parse(result.id)},
          {"index", result.index},
          {"tokens", result.tokens},
          {"text", result.text},
          {"finish_reason", result.finish_reason == FinishReason::stop ? "stop" : "length"},
          {"ttft_ms", result.ttft_ms},
          {"itl_ms_p50", percentile(result.itl_ms, 0.5)},
          {"prompt_tokens", result.prompt_tokens},
          {"shared_tokens", result.shared_tokens}};
}

int generate(GenerateOptions options) {
  options.engine.share_prefixes = options.share == "on";
  options.engine.share_attention = options.share_attention == "on";
  options.engine.token_budget =
      std::max<std::int64_t>(options.engine.token_budget, options.engine.max_batch);
  const bool asked = !options.question.empty();
  const bool streams = asked && options.defaults.n == 1 && !options.json;
  std::ofstream stats_file;
  if (!options.stats_file.empty()) {
    stats_file.open(options.stats_file);
    require(stats_file.is_open(), "--stats is {}: it cannot be written", options.stats_file);
  }
  const LoadedModel loaded(options.common);
  Totals totals;
  Engine::Events events;
  const auto report = [&](const char* event, const Result& result) {
    return Json{{"event", event},
                {"id", Json::parse(result.id)},
                {"index", result.index},
                {"generated", result.tokens.size()}};
  };
  events.admitted = [&](const Result& result) {
    if (options.progress) print_line(stderr, report("admitted", result));
  };
  events.token = [&](const Result& result, const std::string& text) {
    if (options.progress) {
      Json event = report("token", result);
      event["text"] = text;
      print_line(stderr, event);
    }
    if (streams) {
      fmt::print("{}", text);
      std::fflush(stdout);
    }
  };
  events.finished = [&](const Result& result) {
    totals.add(result);
    if (options.progress) print_line(stderr, report("finished", result));
    if (options.json) {
      print_line(stdout, result_json(result));
    } else if (streams) {
      fmt::print("\n");
    } else {
      fmt::print("== {}{}\n{}\n\n", Json::parse(result.id).dump(),
                 result.index > 0 ? fmt::format(" {}", result.index) : "", result.text);
    }
  };
  Engine engine = loaded.on_gpu != nullptr
                      ? Engine(*loaded.on_gpu, loaded.tokenizer, options.engine, events)
                      : Engine(*loaded.on_cpu, loaded.tokenizer, options.engine, events);

  bool all_well = true;
  const auto submit = [&](const Json& id, const Json& json) {
    engine.submit(read_request(id, json, options.defaults, loaded.file, loaded.tokenizer));
  };
  if (asked) {
    const Json message{{"role", "user"}, {"content", options.question}};
    submit("question", {{"messages", Json::array({message})}});
  } else {
    all_well = read_requests(options.input, options.json, submit);
  }
  while (engine.step()) {
  }
  if (stats_file.is_open()) {
    stats_file << stats_json(options, engine.stats(), totals).dump() << "\n";
    stats_file.close();
    require(stats_file.good(), "--stats is {}: it cannot be written", options.stats_file);
  }
  return all_well ? kAnswered : kSomeFailed;
}

}  // namespace

void add_generate(CLI::App& app, int& status) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* command =
      app.add_subcommand("generate", "Answer one question, or the requests of a JSON lines file");
  options->common.add_to(*command);
  Request& defaults = options->defaults;
  auto* question = command->add_option("question", options->question, "Streams one answer");
  auto* input =
      command->add_option("--input", options->input,
                          "JSON lines: {id, prompt | messages | tokens, ...}; - is standard input");
  question->excludes(input);
  command->add_option("--max-new-tokens", defaults.max_new_tokens)
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--n", defaults.n, "Samples of each request, with seeds S, S + 1, ...")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command->add_option("--temperature", defaults.temperature, "0 is greedy")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1e4));
  command->add_option("--top-k", defaults.top_k, "0: off")->capture_default_str();
  command->add_option("--top-p", defaults.top_p, "1: off")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--min-p", defaults.min_p, "0: off")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  command->add_option("--seed", defaults.seed)->capture_default_str();
  command->add_option("--stop", defaults.stop, "End before this text; may be given several times")
      ->take_all()
      ->check([](const std::string& text) { return text.empty() ? "it must not be empty" : ""; });
  command->add_flag("--ignore-eos", defaults.ignore_eos, "Go on behind the model's end of answer");
  command->add_option("--max-batch", options->engine.max_batch, "Sequences a step")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command->add_option("--token-budget", options->engine.token_budget, "New tokens a step")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 16));
  command->add_option("--kv-pages", options->engine.kv_pages, "Pages of the KV cache")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 24));
  command->add_option("--page-size", options->engine.page_size, "Tokens a page")
      ->capture_default_str()
      ->check(CLI::Range(1, 1024));
  command->add_option("--share", options->share, "Share the pages of common beginnings")
      ->capture_default_str()
      ->check(CLI::IsMember({"on", "off"}));
  command
      ->add_option("--share-attention", options->share_attention,
                   "Attend to shared pages for all their sequences at once")
      ->capture_default_str()
      ->check(CLI::IsMember({"on", "off"}));
  command->add_flag("--batch-invariant", options->engine.batch_invariant,
                    "A request's bits depend on nothing but itself");
  command->add_option("--stats", options->stats_file,
                      "Write totals and times to this file, as JSON");
  command->add_flag("--profile", options->engine.profile,
                    "On a GPU: time by kind of work in --stats; slower");
  command->add_flag("--json", options->json, "One JSON object a line for each answer");
  command->add_flag("--progress", options->progress, "JSON lines of events on standard error");
  command->callback([options, &status] {
    if (options->question.empty() == options->input.empty()) {
      throw CLI::ValidationError("generate", "give a question or --input");
    }
    status = generate(*options);
  });
}

}  // namespace tilewright::engine::cli
