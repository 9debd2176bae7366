// SPDX-License-Identifier: Apache-2.0
// `tilewright trace`: makes a trace up.
#include "engine/trace.h"

#include <fstream>
#include <iostream>
#include <memory>
#include <optional>

#include "engine/checks.h"
#include "engine/cli/options.h"
#include "engine/trace_generator.h"

namespace tilewright::engine::cli {
namespace {

struct Options {
  std::string format;
  std::int64_t requests = 0;
  std::uint64_t seed = 0;
  std::string out = "-";
  // Those that are given replace the format's own.
  std::optional<double> rate, input_median, input_sigma, output_median, output_sigma, continued,
      turn_median, turn_sigma;
  std::optional<std::int64_t> longest_input, longest_output, prefix_tokens;

  TraceShape shape() const {
    TraceShape shape = default_shape(trace_format(format));
    const auto set = [](auto& value, const auto& given) { value = given.value_or(value); };
    set(shape.rate, rate);
    set(shape.input_median, input_median);
    set(shape.input_sigma, input_sigma);
    set(shape.output_median, output_median);
    set(shape.output_sigma, output_sigma);
    set(shape.longest_input, longest_input);
    set(shape.longest_output, longest_output);
    set(shape.continued, continued);
    set(shape.turn_median, turn_median);
    set(shape.turn_sigma, turn_sigma);
    set(shape.prefix_tokens, prefix_tokens);
    return shape;
  }
};

int make_trace(const Options& options) {
  const TraceFormat format = trace_format(options.format);
  const auto trace = generate_trace(format, options.requests, options.seed, options.shape());
  if (options.out == "-") {
    write_trace(std::cout, trace, format);
    std::cout.flush();
    require(std::cout.good(), "--out is -: standard output cannot be written");
    return kAnswered;
  }
  std::ofstream file(options.out);
  require(file.is_open(), "--out is {}: it cannot be written", options.out);
  write_trace(file, trace, format);
  file.close();
  require(file.good(), "--out is {}: it cannot be written", options.out);
  return kAnswered;
}

}  // namespace

void add_trace(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("trace", "Make up a trace of requests, for replay");
  command->add_option("--format", options->format, "azure (CSV) or mooncake (JSON lines)")
      ->required()
      ->check(CLI::IsMember({"azure", "mooncake"}));
  command->add_option("--requests", options->requests)
      ->required()
      ->check(CLI::Range(1, 100'000'000));
  command->add_option("--seed", options->seed, "The same trace for the same seed")
      ->capture_default_str();
  command->add_option("--out", options->out, "A file; - is standard output")->capture_default_str();
  constexpr double kMost = kMostTraceTokens;
  const auto number = [&](const char* name, std::optional<double>& value, const char* text,
                          double least, double most) {
    command->add_option(name, value, text)->check(CLI::Range(least, most));
  };
  number("--rate", options->rate, "Requests a second (Poisson)", 1e-6, 1e6);
  number("--input-median", options->input_median, "Tokens (lognormal)", 1, kMost);
  number("--input-sigma", options->input_sigma, "Of the logarithm", 0, 10);
  number("--output-median", options->output_median, "Tokens (lognormal)", 1, kMost);
  number("--output-sigma", options->output_sigma, "Of the logarithm", 0, 10);
  command->add_option("--longest-input", options->longest_input, "Tokens")
      ->check(CLI::Range(std::int64_t{1}, kMostTraceTokens));
  command->add_option("--longest-output", options->longest_output, "Tokens")
      ->check(CLI::Range(std::int64_t{1}, kMostTraceTokens));
  number("--continued", options->continued,
         "Mooncake: this share goes on from an earlier request and its answer", 0, 1);
  number("--turn-median", options->turn_median, "Mooncake: new tokens of those (lognormal)", 1,
         kMost);
  number("--turn-sigma", options->turn_sigma, "Of the logarithm", 0, 10);
  command
      ->add_option("--prefix-tokens", options->prefix_tokens,
                   "Mooncake: the others begin with the same tokens, whole blocks of 512")
      ->check(CLI::Range(std::int64_t{0}, kMostTraceTokens));
  command->callback([options, command, &status] {
    if (options->format == "azure") {
      for (const char* name : {"--continued", "--turn-median", "--turn-sigma", "--prefix-tokens"}) {
        if (command->count(name) > 0) {
          throw CLI::ValidationError(name, "the azure format does not tell what is shared");
        }
      }
    }
    status = make_trace(*options);
  });
}

}  // namespace tilewright::engine::cli
