// SPDX-License-Identifier: Apache-2.0
// kernels/arch/bulk.h for the emulator.
#pragma once

#include "arch/memory.h"
#include "arch/types.h"
#include "runtime/machine.h"

namespace tw {

struct alignas(8) Mbarrier {
  u64 state;
};

TW_DEVICE void mbarrier_init(Mbarrier* mbarrier, u32 arrivals) {
  emulator::init_mbarrier(&mbarrier->state, arrivals);
}
TW_DEVICE void mbarrier_arrive(Mbarrier* mbarrier) {
  emulator::arrive_at_mbarrier(&mbarrier->state, 0);
}
TW_DEVICE void mbarrier_arrive(Mbarrier* mbarrier, u32 count) {
  for (u32 i = 0; i < count; ++i) mbarrier_arrive(mbarrier);
}
TW_DEVICE void mbarrier_arrive_if(bool arrives, Mbarrier* mbarrier) {
  if (arrives) mbarrier_arrive(mbarrier);
}
TW_DEVICE void mbarrier_arrive_expect(Mbarrier* mbarrier, u32 bytes) {
  emulator::arrive_at_mbarrier(&mbarrier->state, bytes);
}
TW_DEVICE void mbarrier_arrive_expect_if(bool arrives, Mbarrier* mbarrier, u32 bytes) {
  if (arrives) mbarrier_arrive_expect(mbarrier, bytes);
}
TW_DEVICE bool mbarrier_try_wait(Mbarrier* mbarrier, u32 parity) {
  return emulator::mbarrier_passed(&mbarrier->state, parity);
}
TW_DEVICE bool mbarrier_test(Mbarrier* mbarrier, u32 parity) {
  return emulator::mbarrier_passed(&mbarrier->state, parity);
}
TW_DEVICE void mbarrier_wait(Mbarrier* mbarrier, u32 parity) {
  while (!mbarrier_try_wait(mbarrier, parity)) {
  }
}

TW_DEVICE void copy_bulk(void* shared, const void* global, u32 bytes, Mbarrier* mbarrier) {
  emulator::issue_bulk_copy(shared, global, bytes, &mbarrier->state);
}
TW_DEVICE void prefetch_map(const BoxMap& /*map*/) {}
TW_DEVICE void copy_box(void* shared, const BoxMap& map, i32 element, i32 token, i32 head, i32 page,
                        CachePolicy /*policy*/, Mbarrier* mbarrier) {
  emulator::issue_box_copy(shared, map, {element, token, head, page}, &mbarrier->state);
}
TW_DEVICE void fence_async_proxy() {
  emulator::fence_copies();
}

}  // namespace tw
