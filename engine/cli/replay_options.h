// SPDX-License-Identifier: Apache-2.0
// What `replay` and `plan` share: the trace, the attention and the scheduler.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/replay.h"
#include "engine/trace.h"

namespace tilewright::engine::cli {

struct ReplayFlags {
  std::string trace;
  std::string format;
  std::int64_t requests = 0;  // 0: all
  std::string heads = "32/8";
  std::string dtype = "f32";
  double step_ms = 0;
  bool no_share = false;
  int threads = 0;
  ReplayOptions replay;

  void add_to(CLI::App& app);
  // Those of --trace; Error when it cannot be read.
  std::vector<TraceRequest> read() const;
  // Sets the threads; the flags as the replay takes them.
  ReplayOptions options() const;
};

}  // namespace tilewright::engine::cli
