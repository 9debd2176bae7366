// SPDX-License-Identifier: Apache-2.0
// The command line. Exit status 0: every request was answered, every check passed; 1: not all of
// them, or none because a file or the device could not be used; 2: the command line itself is
// wrong.
#include <cstdio>
#include <exception>

#include "engine/checks.h"
#include "engine/cli/options.h"

namespace tilewright::engine::cli {
namespace {

int run(int argc, char** argv) {
  CLI::App app{"Tilewright: an attention engine for LLM serving"};
  app.set_version_flag("--version", version());
  app.require_subcommand(1);
  int status = kAnswered;
  add_generate(app, status);
  add_score(app, status);
  add_tokenize(app, status);
  add_doctor(app, status);
  add_replay(app, status);
  add_plan(app, status);
  add_trace(app, status);
  add_compile(app, status);
  add_cache(app, status);
  add_explain(app, status);
  for (CLI::App* command : app.get_subcommands({})) {
    command->set_version_flag("--version", version());
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kAnswered : kBadUsage;
  }
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    raise(ErrorCode::invalid_state, "standard output cannot be written: the answers are not whole");
  }
  return status;
}

}  // namespace
}  // namespace tilewright::engine::cli

int main(int argc, char** argv) {
  try {
    return tilewright::engine::cli::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tilewright: %s\n", error.what());
    return tilewright::engine::cli::kSomeFailed;
  }
}
