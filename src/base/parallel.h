// SPDX-License-Identifier: Apache-2.0
// Fork-join loops over OpenMP's threads. OpenMP's own synchronisation is invisible to
// ThreadSanitizer, so the fork and the join are also told by atomics; they cost nanoseconds.
#pragma once

#include <omp.h>
#include <tilewright/threads.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

namespace tilewright {

// Runs body(thread) once on each of `threads` threads, thread 0 .. threads - 1. An exception of any
// of them is thrown again here after all have finished.
template <typename Body>
void parallel_threads(int threads, const Body& body) {
  if (threads <= 1) {
    body(0);
    return;
  }
  static std::atomic<std::uint64_t> fork_epoch{0};
  std::atomic<int> joined{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  fork_epoch.fetch_add(1, std::memory_order_release);
#pragma omp parallel num_threads(threads)
  {
    fork_epoch.load(std::memory_order_acquire);
    // OpenMP may grant fewer threads than asked for: the bodies are dealt out to those there are.
    for (int thread = omp_get_thread_num(); thread < threads; thread += omp_get_num_threads()) {
      try {
        body(thread);
      } catch (...) {
        if (!failed.exchange(true)) error = std::current_exception();
      }
    }
    joined.fetch_add(1, std::memory_order_release);
  }
  joined.load(std::memory_order_acquire);
  if (failed) std::rethrow_exception(error);
}

// Runs body(thread, begin, end) over [0, count) in chunks of `grain`, taken in turn by at most
// `threads` threads. The chunks do not depend on the number of threads, so neither does anything
// computed within one.
template <typename Body>
void parallel_chunks(std::int64_t count, std::int64_t grain, int threads, const Body& body) {
  const std::int64_t chunks = (count + grain - 1) / grain;
  std::atomic<std::int64_t> next{0};
  parallel_threads(static_cast<int>(std::min<std::int64_t>(threads, chunks)), [&](int thread) {
    for (std::int64_t chunk = next.fetch_add(1, std::memory_order_relaxed); chunk < chunks;
         chunk = next.fetch_add(1, std::memory_order_relaxed)) {
      body(thread, chunk * grain, std::min(count, (chunk + 1) * grain));
    }
  });
}

// Runs body(begin, end) as above on up to num_threads() threads.
template <typename Body>
void parallel_for(std::int64_t count, std::int64_t grain, const Body& body) {
  parallel_chunks(count, grain, num_threads(),
                  [&](int, std::int64_t begin, std::int64_t end) { body(begin, end); });
}

}  // namespace tilewright
