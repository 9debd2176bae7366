// SPDX-License-Identifier: Apache-2.0
#include <omp.h>
#include <tilewright/threads.h>

#include <atomic>

#include "base/checks.h"

namespace tilewright {
namespace {

std::atomic<int>& thread_count() {
  static std::atomic<int> count{omp_get_num_procs()};
  return count;
}

}  // namespace

void set_num_threads(int threads) {
  require(threads >= 1 && threads <= 1024, "threads is {}: it must be in [1, 1024]", threads);
  thread_count() = threads;
}

int num_threads() {
  return thread_count();
}

}  // namespace tilewright
