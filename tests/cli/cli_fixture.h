// SPDX-License-Identifier: Apache-2.0
// Runs the program `tilewright` as a user does.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "engine/gguf_writer.h"

namespace tilewright::test {

struct Outcome {
  using Json = nlohmann::ordered_json;

  int status = -1;
  std::string out, err;

  std::vector<Json> lines() const { return parse(out); }
  std::vector<Json> events() const { return parse(err); }

 private:
  static std::vector<Json> parse(const std::string& text) {
    std::vector<Json> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
    return lines;
  }
};

inline std::string contents(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// One word for the shell, a space before it.
inline std::string word(const std::string& text) {
  std::string out(" '");
  for (const char c : text) out.append(c == '\'' ? "'\\''" : std::string(1, c));
  return out.append("'");
}

class CliFixture : public ::testing::Test {
 protected:
  Outcome run(const std::vector<std::string>& arguments, const std::string& input = "") {
    const TemporaryFile in(input), out(""), err("");
    // Threads that spin while they wait would fight those of tests beside this one.
    std::string command = "OMP_WAIT_POLICY=passive ";
    command.append(environment).append(word(TILEWRIGHT_CLI));
    for (const std::string& argument : arguments) command.append(word(argument));
    command.append(" <").append(in.path()).append(" >").append(out.path());
    command.append(redirect).append(" 2>").append(err.path());
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, contents(out.path()),
            contents(err.path())};
  }

  std::string environment;  // before the program, for the shell
  std::string redirect;     // behind its arguments
};

}  // namespace tilewright::test
