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

namespace parallel_detail {

// One parallel region. What its threads share is written before `fork` and read after it.
template <typename Body>
class Region {
 public:
  Region(int threads, const Body& body) : threads_(threads), body_(body) {}

  void run() {
    epoch().fetch_add(1, std::memory_order_release);
    fork(threads_, *this);
    joined_.load(std::memory_order_acquire);
    if (failed_) std::rethrow_exception(error_);
  }

 private:
  static std::atomic<std::uint64_t>& epoch() {
    static std::atomic<std::uint64_t> count{0};
    return count;
  }

  // Passing the region's address to the threads is OpenMP's business, which ThreadSanitizer does
  // not see.
  __attribute__((no_sanitize("thread"))) static void fork(int threads, Region& region) {
#pragma omp parallel num_threads(threads)
    region.run_thread();
  }

  __attribute__((noinline)) void run_thread() {
    epoch().load(std::memory_order_acquire);
    // OpenMP may grant fewer threads than asked for: the bodies are dealt out to those there are.
    for (int thread = omp_get_thread_num(); thread < threads_; thread += omp_get_num_threads()) {
      try {
        body_(thread);
      } catch (...) {
        if (!failed_.exchange(true)) error_ = std::current_exception();
      }
    }
    joined_.fetch_add(1, std::memory_order_release);
  }

  int threads_;
  const Body& body_;
  std::atomic<int> joined_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

}  // namespace parallel_detail

// Runs body(thread) once on each of `threads` threads, thread 0 .. threads - 1. An exception of any
// of them is thrown again here after all have finished.
template <typename Body>
void parallel_threads(int threads, const Body& body) {
  if (threads <= 1) {
    body(0);
  } else {
    parallel_detail::Region<Body>(threads, body).run();
  }
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
