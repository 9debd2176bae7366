// SPDX-License-Identifier: Apache-2.0
// Loops over OpenMP's threads, which are oneDNN's too. OpenMP's own fork and join are invisible to
// ThreadSanitizer, so atomics tell it of them.
#pragma once

#include <omp.h>

#include <atomic>
#include <cstdint>
#include <exception>

namespace tilewright::engine {

template <typename Body>
class ParallelShares {
 public:
  ParallelShares(std::int64_t count, const Body& body) : count_(count), body_(body) {}

  void run() {
    started().fetch_add(1, std::memory_order_release);
    fork(*this);
    joined_.load(std::memory_order_acquire);
    if (failed_) std::rethrow_exception(error_);
  }

 private:
  static std::atomic<std::uint64_t>& started() {
    static std::atomic<std::uint64_t> count{0};
    return count;
  }

  // How the threads get the address is OpenMP's business.
  __attribute__((no_sanitize("thread"))) static void fork(ParallelShares& shares) {
#pragma omp parallel
    shares.run_thread();
  }

  __attribute__((noinline)) void run_thread() {
    started().load(std::memory_order_acquire);
    const std::int64_t thread = omp_get_thread_num();
    const std::int64_t threads = omp_get_num_threads();
    try {
      body_(count_ * thread / threads, count_ * (thread + 1) / threads);
    } catch (...) {
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
    joined_.fetch_add(1, std::memory_order_release);
  }

  std::int64_t count_;
  const Body& body_;
  std::atomic<int> joined_{0};
  std::atomic<bool> failed_{false};
  std::exception_ptr error_;
};

// Runs body(begin, end) on each of omp_get_max_threads() threads for its share of [0, count), which
// may be empty. An exception of any of them is thrown again here after all have finished.
template <typename Body>
void parallel_shares(std::int64_t count, const Body& body) {
  ParallelShares<Body>(count, body).run();
}

}  // namespace tilewright::engine
