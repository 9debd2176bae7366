// SPDX-License-Identifier: Apache-2.0
// What the emulated instructions stand on. Threads of a block are fibers of one OS thread; a thread
// runs until it comes to a point where it must wait for others, and who runs next is drawn from the
// seed. All instructions that a warp executes together are one kind of meeting: every lane must
// come to the same instruction.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "arch/types.h"
#include "runtime/guarded_buffer.h"

namespace tw::emulator {

// Where device code called an instruction.
struct Site {
  const char* file;
  int line;
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

enum class Point : u8 {
  sync_warp,
  shuffle,
  ballot,
  load_matrix,
  store_matrix,
  multiply,
  sync_block,
  any_of_block,
  count_of_block,
  named_barrier,
  warp_group,
  sync_cluster,
};

inline constexpr u32 kUnit = 16;  // bytes that land at once

struct Copy {
  char* shared;
  const char* global;  // nullptr: zeros
  u32 bytes;
  u32 group;
};

// What lands at once.
struct BulkCopy {
  std::vector<Copy> copies;
  u64* mbarrier;
};

// What a BoxMap of the emulator says: make_box_map.
struct BoxTensor {
  const char* data;
  i64 shape[4];    // elements of 16 bits, tokens, heads, pages
  i64 strides[4];  // in bytes
  i64 box_tokens;
};
static_assert(sizeof(BoxTensor) <= sizeof(BoxMap));

// A warp's part of a wgmma that is under way.
struct Product {
  void (*run)(const Product&);
  float* d[kWarpSize];
  const u32* registers[kWarpSize];
  const char* a;  // null: in registers
  const char* b;
  i32 b_block_bytes;
  bool adds;
  i32 warp;
  u32 group;
};

struct Mbarrier {
  const u64* word;
  i32 arrivals;   // of each phase
  i32 pending;    // of them
  i64 bytes = 0;  // expected and not landed
  u32 phase = 0;
};

struct Warp;
struct Block;

struct Fiber {
  void* context = nullptr;
  Warp* warp = nullptr;
  Block* block = nullptr;
  i32 thread = 0;
  i32 lane = 0;
  void (*entry)() = nullptr;
  char* stack = nullptr;
  // For the address sanitizer.
  const void* stack_bottom = nullptr;
  u64 stack_size = 0;
  void* sanitizer_stack = nullptr;
  // Asynchronous copies on their way, and how many groups were committed.
  std::vector<Copy> copies;
  u32 groups = 0;
  // Units of shared memory where copies have landed since it fenced.
  std::vector<u32> unfenced;
};

union Operand {
  u64 bits;
  void* pointer;
};

struct Warp {
  Block* block = nullptr;
  Fiber* fibers = nullptr;  // of 32 lanes
  u32 alive = 0;
  u32 runnable = 0;  // neither waiting nor done
  u32 arrived = 0;   // at the meeting below
  u32 votes = 0;
  // Of the next meeting. Operands and results are kept twice: a fast lane may leave its operand for
  // the next meeting before a slow one has read those of this one.
  u32 phase = 0;
  Point point = Point::sync_warp;
  Site site = {};
  i32 barrier = -1;               // where the whole warp waits
  std::vector<Product> products;  // under way, and how many groups of them were committed
  u32 product_groups = 0;
  Operand operand[2][kWarpSize] = {};
  u64 result[2] = {};
  // Who of several warps goes first, and in which order its lanes take their turns.
  u32 priority = 0;
  u32 first_lane = 0;
  bool backwards = false;
  i32 position = -1;  // in the list of warps that can run
};

struct Barrier {
  Point point = Point::sync_block;
  i32 expected = 0;
  i32 arrived = 0;
  i32 votes = 0;
  std::vector<Warp*> waiting;
};

inline constexpr i32 kNumBarriers = 16;

// Blocks that start together and reach each other's shared memory.
struct Cluster {
  std::vector<std::unique_ptr<Block>> blocks;
  i32 finished = 0;  // of them
  Barrier barrier;
  bool begun = false;  // a barrier was passed: so all blocks have begun
};

struct Block {
  i32 id = 0;
  Cluster* cluster = nullptr;
  i32 rank = 0;  // in the cluster
  i32 num_threads = 0;
  i32 alive = 0;
  char* shared = nullptr;
  i64 shared_bytes = 0;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barriers[kNumBarriers];
  std::vector<BulkCopy> bulk_copies;
  std::vector<Mbarrier> mbarriers;
  // Of each unit of kUnit bytes of shared memory: who copied to it (thread + 1) and has not fenced.
  std::vector<u16> unfenced_by;
  std::unique_ptr<GuardedBuffer> memory;
};

// The thread that runs now.
inline Fiber* self = nullptr;
inline i32 grid_size = 0;

// Ends the launch by an exception that leaves the thread: launch() throws a Failure that names the
// thread and what it did wrong.
[[noreturn]] void fail(const std::string& what);

// Returns when all lanes of the warp have come to this point. The last one to come calls
// `collective`, if there is one, with the number of this meeting's operands.
using Collective = void (*)(Warp& warp, u32 phase);
void meet(Point point, Site site, Collective collective = nullptr);
// Returns when `threads` threads have come to the barrier: how many of them voted for it.
i32 wait_at_barrier(i32 number, i32 threads, Point point, Site site, bool vote);
// Returns when all threads of the cluster have come.
void wait_at_cluster_barrier(Site site);
// The same place in the shared memory of another block of the cluster; fails if it has ended.
void* remote_place(const void* mine, u32 bytes, i32 rank);
// Others may run before this thread goes on.
void interleave();
// This thread asked for something that another one must bring about: others run.
void poll();
// Something that a polling thread may wait for has happened.
void note_progress();

// A random number below `bound`, and whether a copy lands before somebody needs it.
u32 draw(u32 bound);
bool may_land_now();

// cp.async of this thread: groups, and how many of the last ones may still be under way.
// land_copies lands those of groups before `group`, and others by chance.
void issue_copy(void* shared, const void* global, u32 bytes, bool valid);
void commit_copies();
void wait_for_copies(u32 groups);
void land_copies(u32 group);
// fence.proxy.async by this thread: what its copies have written may be read by wgmma.
void fence_copies();

// cp.async.bulk of the block, and the mbarriers that count what landed.
void init_mbarrier(u64* word, u32 arrivals);
void arrive_at_mbarrier(u64* word, u32 expected_bytes);
bool mbarrier_passed(const u64* word, u32 parity);
void issue_bulk_copy(void* shared, const void* global, u32 bytes, u64* mbarrier);
void issue_box_copy(void* shared, const BoxMap& map, const i32 (&at)[4], u64* mbarrier);
void check_no_bulk_copies();

// wgmma: carries out all but the last `groups` groups of a warp.
void finish_products(Warp& warp, u32 groups);

// Fails if the bytes are not all in the block's shared memory, or not aligned.
void check_shared(const void* pointer, u32 bytes, u32 alignment, const char* instruction);
// Fails if a thread copied to the place, which is in shared memory, and has not fenced.
void check_fenced(const void* pointer);
[[noreturn]] void fail_misaligned(const void* pointer, u32 alignment);

template <u32 alignment>
TW_DEVICE void check_aligned(const void* pointer) {
  if (reinterpret_cast<u64>(pointer) % alignment != 0) [[unlikely]] {
    fail_misaligned(pointer, alignment);
  }
}

// The address with some bits flipped.
template <typename T>
T* flip_address(T* pointer, u64 bits) {
  const auto at = reinterpret_cast<u64>(pointer);
  return pointer + static_cast<i64>((at ^ bits) - at);
}
// Where boxes put, and wgmma reads, what is at this place of rows of 128 bytes.
template <typename T>
T* swizzled(T* pointer) {
  static_assert(sizeof(T) == 1);
  return flip_address(pointer, (reinterpret_cast<u64>(pointer) >> 7 & 7) << 4);
}

// Leaves a value for the other lanes and takes that of lane `source`.
template <typename T>
T exchange(T value, i32 source, Site site) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
  Warp& warp = *self->warp;
  Operand(&operand)[kWarpSize] = warp.operand[warp.phase];
  __builtin_memcpy(&operand[self->lane], &value, sizeof(T));
  meet(Point::shuffle, site);
  T result;
  __builtin_memcpy(&result, &operand[source], sizeof(T));
  return result;
}

// Hands the other lanes the address of something of this thread, for a collective.
TW_DEVICE void meet_with(Point point, Site site, void* operand, Collective collective) {
  Warp& warp = *self->warp;
  warp.operand[warp.phase][self->lane].pointer = operand;
  meet(point, site, collective);
}

}  // namespace tw::emulator
