// SPDX-License-Identifier: Apache-2.0
// Copies of boxes: where a box's elements land, what is behind a tensor's ends, and mistakes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "arch/bulk.h"
#include "arch/thread.h"
#include "runtime/launch.h"

namespace tw {
namespace {

using emulator::BoxTensor;
using emulator::GuardedBuffer;
using emulator::launch;
using ::testing::HasSubstr;

constexpr i32 kElements = 72, kTokens = 8, kHeads = 2, kPages = 3, kBoxTokens = 8;
constexpr u32 kBoxBytes = kBoxTokens * 128;

struct BoxParams {
  BoxMap map;
  u16* out;  // [kBoxTokens, 64]
  i32 element, token, head, page;
  i32 shift;   // of the box's place, in bytes
  i32 expect;  // bytes
};

// One warp: a box, and out of its swizzled rows again.
TW_KERNEL TW_LAUNCH_BOUNDS(32, 1) copy_one(TW_PARAMETER BoxParams p) {
  char* const box = aligned_shared_memory();
  auto* const full = reinterpret_cast<Mbarrier*>(box + kBoxBytes + 256);
  if (thread_id() == 0) mbarrier_init(full, 32);
  sync_block();
  if (thread_id() == 0) {
    mbarrier_arrive_expect(full, static_cast<u32>(p.expect));
    mbarrier_arrive(full, 31);
    copy_box(box + p.shift, p.map, p.element, p.token, p.head, p.page, keep_as_usual(), full);
  }
  mbarrier_wait(full, 0);
  for (i32 i = thread_id(); i < kBoxTokens * 64; i += 32) {
    const i32 row = i / 64;
    const i32 unit = i % 64 / 8 ^ row % 8;
    p.out[i] = *reinterpret_cast<const u16*>(box + row * 128 + unit * 16 + i % 8 * 2);
  }
}

class EmulatedBox : public ::testing::Test {
 protected:
  // NHD: the heads of a token lie side by side.
  EmulatedBox() {
    for (i32 i = 0; i < kPages * kTokens * kHeads * kElements; ++i) {
      values_.as<u16>()[i] = static_cast<u16>(i + 1);
    }
    values_.make_read_only();
  }

  static i32 value(i32 element, i32 token, i32 head, i32 page) {
    const bool inside = element < kElements && token < kTokens && page >= 0 && page < kPages;
    return inside ? ((page * kTokens + token) * kHeads + head) * kElements + element + 1 : 0;
  }

  std::string result(u64 seed, i32 element, i32 token, i32 head, i32 page, i32 shift = 0,
                     i32 expect = kBoxBytes) {
    constexpr i64 kTokenBytes = kHeads * kElements * 2;
    const BoxTensor tensor{values_.as<char>(),
                           {kElements, kTokens, kHeads, kPages},
                           {2, kTokenBytes, kElements * 2, kTokens * kTokenBytes},
                           kBoxTokens};
    BoxParams params{{}, out_.as<u16>(), element, token, head, page, shift, expect};
    std::memcpy(&params.map, &tensor, sizeof(tensor));
    try {
      launch(copy_one, {.block = 32, .shared_bytes = 2048, .seed = seed}, params);
    } catch (const emulator::Failure& failure) {
      return failure.what();
    }
    for (i32 i = 0; i < kBoxTokens * 64; ++i) {
      if (out_.as<u16>()[i] != value(element + i % 64, token + i / 64, head, page)) return "values";
    }
    return "nothing";
  }

  GuardedBuffer values_{"values", kPages* kTokens* kHeads* kElements * 2};
  GuardedBuffer out_{"out", kBoxTokens * 64 * 2};
};

TEST_F(EmulatedBox, LandsInSwizzledRows) {
  for (u64 seed = 0; seed < 4; ++seed) {
    EXPECT_EQ(result(seed, 0, 0, 0, 0), "nothing");
    EXPECT_EQ(result(seed, 0, 0, 1, 2), "nothing");
  }
}
TEST_F(EmulatedBox, ZerosBehindTheEnds) {
  EXPECT_EQ(result(1, 64, 0, 1, 1), "nothing");  // eight elements there
  EXPECT_EQ(result(1, 0, 4, 0, 2), "nothing");   // four tokens
  EXPECT_EQ(result(1, 0, 0, 0, 3), "nothing");
  EXPECT_EQ(result(1, 0, 0, 0, -1), "nothing");
}
TEST_F(EmulatedBox, MistakesAreFound) {
  EXPECT_THAT(result(1, 0, 0, 0, 0, 64), HasSubstr("128 must divide it"));
  EXPECT_THAT(result(1, 0, 0, 0, 0, 0, kBoxBytes + 16),
              HasSubstr("it waits for a value that nobody stores"));
}

}  // namespace
}  // namespace tw
