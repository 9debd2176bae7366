// SPDX-License-Identifier: Apache-2.0
// The command line. Exit status 0: every request was answered; 1: some were not, or none because a
// file or the device could not be used; 2: the command line itself is wrong.
#include <exception>
#include <iostream>

#include "engine/cli/options.h"

int main(int argc, char** argv) {
  namespace cli = tilewright::engine::cli;
  CLI::App app{"Tilewright: an attention engine for LLM serving"};
  app.set_version_flag("--version", tilewright::version());
  app.require_subcommand(1);
  int status = cli::kAnswered;
  cli::add_generate(app, status);
  cli::add_score(app, status);
  cli::add_tokenize(app, status);
  cli::add_doctor(app, status);
  for (CLI::App* command : app.get_subcommands({})) {
    command->set_version_flag("--version", tilewright::version());
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? cli::kAnswered : cli::kBadUsage;
  } catch (const std::exception& error) {
    std::cerr << "tilewright: " << error.what() << "\n";
    return cli::kSomeFailed;
  }
  return status;
}
