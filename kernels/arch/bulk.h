// SPDX-License-Identifier: Apache-2.0
// Hopper and later: bulk copies into shared memory, and the mbarriers that say when they have
// landed. An mbarrier goes through phases; a phase ends when as many threads as it was made for
// have arrived and all bytes they said to expect have landed. Phases have parities 0, 1, 0, ...
#pragma once

#include "arch/memory.h"
#include "arch/types.h"

namespace tw {

// In shared memory.
struct alignas(8) Mbarrier {
  u64 state;
};

// By one thread; then a barrier, before others use it.
TW_DEVICE void mbarrier_init(Mbarrier* mbarrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(mbarrier)),
               "r"(arrivals)
               : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
TW_DEVICE void mbarrier_arrive(Mbarrier* mbarrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(mbarrier))
               : "memory");
}
// The same, for `count` threads.
TW_DEVICE void mbarrier_arrive(Mbarrier* mbarrier, u32 count) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(mbarrier)),
               "r"(count)
               : "memory");
}
// For this thread where `arrives`, without a branch: of one that other branches meet behind,
// ptxas 13.0 leaves the threads apart.
TW_DEVICE void mbarrier_arrive_if(bool arrives, Mbarrier* mbarrier) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "setp.ne.u32 p, %1, 0;\n"
      "@p mbarrier.arrive.shared::cta.b64 _, [%0];\n}" ::"r"(shared_address(mbarrier)),
      "r"(static_cast<u32>(arrives))
      : "memory");
}
// Arrives, and says how many bytes the phase waits for.
TW_DEVICE void mbarrier_arrive_expect(Mbarrier* mbarrier, u32 bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(mbarrier)),
      "r"(bytes)
      : "memory");
}
// The same for this thread where `arrives`, without a branch.
TW_DEVICE void mbarrier_arrive_expect_if(bool arrives, Mbarrier* mbarrier, u32 bytes) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "setp.ne.u32 p, %2, 0;\n"
      "@p mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n}" ::"r"(
          shared_address(mbarrier)),
      "r"(bytes), "r"(static_cast<u32>(arrives))
      : "memory");
}
// Whether the phase of this parity has ended; may wait a while for it.
TW_DEVICE bool mbarrier_try_wait(Mbarrier* mbarrier, u32 parity) {
  u32 passed;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(passed)
      : "r"(shared_address(mbarrier)), "r"(parity)
      : "memory");
  return passed != 0;
}
// The same, without waiting for a while.
TW_DEVICE bool mbarrier_test(Mbarrier* mbarrier, u32 parity) {
  u32 passed;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(passed)
      : "r"(shared_address(mbarrier)), "r"(parity)
      : "memory");
  return passed != 0;
}
TW_DEVICE void mbarrier_wait(Mbarrier* mbarrier, u32 parity) {
  while (!mbarrier_try_wait(mbarrier, parity)) {
  }
}

// One thread copies a multiple of 16 bytes from global to shared memory, both aligned to 16; they
// count for the mbarrier's phase when they have landed.
TW_DEVICE void copy_bulk(void* shared, const void* global, u32 bytes, Mbarrier* mbarrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(mbarrier))
      : "memory");
}
// One thread copies a box of a tensor [pages, heads, tokens, elements of 16 bits]: 64 elements of
// each token, as many tokens as the map says, from the one given on; zeros for what is behind the
// end of a dimension. A token's elements become a row of 128 bytes of a matrix for matrix
// instructions, whose 16-byte units are swizzled by their addresses (see SharedMatrix). `map` must
// be a parameter of the kernel.
TW_DEVICE void copy_box(void* shared, const BoxMap& map, i32 element, i32 token, i32 head, i32 page,
                        CachePolicy policy, Mbarrier* mbarrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(shared_address(shared)),
      "l"(&map), "r"(element), "r"(token), "r"(head), "r"(page), "r"(shared_address(mbarrier)),
      "l"(policy.bits)
      : "memory");
}
// Fetches a map ahead of its first box.
TW_DEVICE void prefetch_map(const BoxMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// Orders what this thread read and wrote in shared memory before bulk copies and matrix
// instructions that touch the same bytes.
TW_DEVICE void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace tw
