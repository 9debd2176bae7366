// SPDX-License-Identifier: Apache-2.0
#include "runtime/machine.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <csignal>
#include <cstring>
#include <mutex>
#include <numeric>
#include <string_view>

#include "runtime/launch.h"
#include "runtime/stacks.h"

namespace tw::emulator {
namespace {

constexpr u64 kMostPolls = 1 << 19;
constexpr u32 kHighPriority = 1U << 31;

struct Machine {
  Launch launch;
  void (*body)(const void*) = nullptr;
  const void* context = nullptr;

  Fiber host;
  std::vector<std::unique_ptr<Cluster>> resident;
  std::vector<Block*> finished;
  std::vector<i32> order;  // numbers of clusters as they start, the next one last
  std::vector<Warp*> runnable;
  Warp* turn = nullptr;  // whose lanes run now
  std::string failure;
  bool failed = false;
  u64 polls = 0;
  Statistics statistics;

  u64 random_state = 0;
  // Out of 256, drawn once a launch: that a warp goes on after its lanes have met (else they take
  // turns evenly; with it some run far ahead), and that a copy lands before somebody waits for it.
  u32 stay = 0;
  u32 land_early = 0;
  // Of so many runnable warps, drawn each time, the one of highest priority goes on: with one they
  // are served evenly, with many some wait for a long time.
  u32 candidates = 1;
  u32 lowest_priority = kHighPriority;

  u32 random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return static_cast<u32>((random_state * 0x2545F4914F6CDD1DULL) >> 32);
  }
  u32 below(u64 bound) { return static_cast<u32>((random() * bound) >> 32); }
  bool chance(u32 of_256) { return (random() >> 24) < of_256; }
};

Machine* machine = nullptr;

constexpr std::string_view kPointNames[] = {"sync_warp",     "a shuffle",    "a vote of the warp",
                                            "load_matrix",   "store_matrix", "multiply_16x8x16",
                                            "sync_block",    "any_of_block", "count_of_block",
                                            "named_barrier", "wgmma",        "sync_cluster"};

std::string describe(Point point, Site site) {
  std::string_view file = site.file;
  file.remove_prefix(file.rfind('/') + 1);
  return fmt::format("{} ({}:{})", kPointNames[static_cast<u32>(point)], file, site.line);
}

// --- Whose turn it is

void add_to_runnable(Warp& warp) {
  if (warp.position >= 0) return;
  warp.position = static_cast<i32>(machine->runnable.size());
  machine->runnable.push_back(&warp);
}

void remove_lanes(Warp& warp, u32 lanes) {
  warp.runnable &= ~lanes;
  if (warp.runnable != 0 || warp.position < 0) return;
  Warp* last = machine->runnable.back();
  machine->runnable[warp.position] = last;
  last->position = warp.position;
  machine->runnable.pop_back();
  warp.position = -1;
}

void shuffle_lanes(Warp& warp) {
  const u32 random = machine->random();
  warp.first_lane = random % kWarpSize;
  warp.backwards = (random & 0x100) != 0;
  if (random >> 26 == 0) warp.priority = machine->random() | kHighPriority;
}

// Behind all others, so that those who wait for each other come to run in turn.
void go_last() {
  self->warp->priority = --machine->lowest_priority;
}

// What stands for a cluster's barrier among the numbers of a block's.
constexpr i32 kClusterBarrier = kNumBarriers;

std::vector<Block*> resident_blocks() {
  std::vector<Block*> blocks;
  for (const auto& cluster : machine->resident) {
    for (const auto& block : cluster->blocks) blocks.push_back(block.get());
  }
  return blocks;
}

std::string describe_deadlock() {
  std::string text = "deadlock: every thread waits";
  for (const Block* block : resident_blocks()) {
    std::string before;
    i32 first = 0;
    const auto num_warps = static_cast<i32>(block->warps.size());
    for (i32 i = 0; i <= num_warps; ++i) {
      std::string state;
      if (i < num_warps) {
        const Warp& warp = block->warps[i];
        state = "done";
        if (warp.barrier >= 0) {
          const bool of_cluster = warp.barrier == kClusterBarrier;
          const Barrier& barrier =
              of_cluster ? block->cluster->barrier : block->barriers[warp.barrier];
          state = fmt::format("at {}, barrier {}, where {} of {} threads have come",
                              describe(warp.point, warp.site), warp.barrier, barrier.arrived,
                              barrier.expected);
        }
      }
      if (i > 0 && state != before) {
        text += fmt::format("\n  block {}, warps {} to {}: {}", block->id, first, i - 1, before);
        first = i;
      }
      before = state;
    }
  }
  return text;
}

Fiber& choose(bool other_warp) {
  Machine& m = *machine;
  if (m.runnable.empty()) {
    m.failed = true;
    m.failure = describe_deadlock();
    return m.host;
  }
  // Now and then some lanes of a warp are left behind.
  if (other_warp || m.turn->runnable == 0 || m.chance(2)) {
    m.turn = m.runnable[m.below(m.runnable.size())];
    for (u32 i = 1; i < m.candidates; ++i) {
      Warp* other = m.runnable[m.below(m.runnable.size())];
      if (other->priority > m.turn->priority) m.turn = other;
    }
    shuffle_lanes(*m.turn);
  }
  Warp& warp = *m.turn;
  const u32 rotated = std::rotr(warp.runnable, static_cast<int>(warp.first_lane));
  const u32 step = warp.backwards ? 31 - std::countl_zero(rotated) : std::countr_zero(rotated);
  return warp.fibers[(warp.first_lane + step) % kWarpSize];
}

void run_others(bool other_warp) {
  Fiber& next = choose(other_warp);
  if (&next == self) return;
  ++machine->statistics.switches;
  switch_to(next);
}

// --- Meetings

std::string lanes_text(u32 lanes) {
  return fmt::format("lanes {:#010x}", lanes);
}

// One lane more is here; true when it is the last one.
bool arrive(Warp& warp, Point point, Site site) {
  const u32 lane = 1U << self->lane;
  if (warp.arrived == 0) {
    warp.point = point;
    warp.site = site;
  } else if (warp.point != point || warp.site.line != site.line ||
             (warp.site.file != site.file && std::strcmp(warp.site.file, site.file) != 0)) {
    fail(fmt::format("a warp disagrees: {} wait in {}, this one comes to {}",
                     lanes_text(warp.arrived), describe(warp.point, warp.site),
                     describe(point, site)));
  }
  if (warp.alive != kAllLanes) {
    fail(fmt::format("deadlock: it comes to {}, but of its warp {} are done", describe(point, site),
                     lanes_text(~warp.alive)));
  }
  warp.arrived |= lane;
  remove_lanes(warp, lane);
  return warp.arrived == kAllLanes;
}

void release(Warp& warp) {
  warp.arrived = 0;
  warp.phase ^= 1;
  warp.barrier = -1;
  warp.runnable = kAllLanes;
  shuffle_lanes(warp);
  add_to_runnable(warp);
  machine->polls = 0;
  ++machine->statistics.meetings;
}

// --- Blocks

[[noreturn]] void leave_for_host() {
  switch_to(machine->host, true);
  __builtin_unreachable();
}

void record_failure(const std::string& what) {
  machine->failed = true;
  machine->failure = fmt::format("block {}, thread {}: {}", self->block->id, self->thread, what);
}

void run_thread() {
  try {
    machine->body(machine->context);
    if (self->warp->arrived != 0) {
      fail(fmt::format("deadlock: it is done, but {} of its warp wait in {}",
                       lanes_text(self->warp->arrived),
                       describe(self->warp->point, self->warp->site)));
    }
    if (self->block->alive == 1) check_no_bulk_copies();
  } catch (const Failure& failure) {
    record_failure(failure.what());
  }
  if (machine->failed) leave_for_host();
  Warp& warp = *self->warp;
  Block& block = *self->block;
  warp.alive &= ~(1U << self->lane);
  remove_lanes(warp, 1U << self->lane);
  machine->polls = 0;
  if (--block.alive == 0) {
    machine->finished.push_back(&block);
    leave_for_host();
  }
  Fiber& next = choose(false);
  ++machine->statistics.switches;
  switch_to(next, true);
}

std::unique_ptr<Block> make_block(const Launch& launch) {
  auto block = std::make_unique<Block>();
  block->num_threads = launch.block;
  block->memory = std::make_unique<GuardedBuffer>("shared memory", launch.shared_bytes);
  block->shared = block->memory->data();
  block->shared_bytes = launch.shared_bytes;
  block->fibers.resize(launch.block);
  block->warps.resize(launch.block / kWarpSize);
  for (Fiber& fiber : block->fibers) fiber.stack = take_stack();
  return block;
}

void start_block(Block& block, i32 id) {
  block.id = id;
  block.alive = block.num_threads;
  block.memory->fill(0xFF);
  for (Barrier& barrier : block.barriers) barrier = {};
  block.bulk_copies.clear();
  block.mbarriers.clear();
  block.unfenced_by.assign(static_cast<std::size_t>(block.shared_bytes) / kUnit + 1, 0);
  for (i32 thread = 0; thread < block.num_threads; ++thread) {
    Fiber& fiber = block.fibers[thread];
    fiber.block = &block;
    fiber.warp = &block.warps[thread / kWarpSize];
    fiber.thread = thread;
    fiber.lane = thread % kWarpSize;
    fiber.copies.clear();
    fiber.groups = 0;
    fiber.unfenced.clear();
    prepare(fiber, run_thread);
  }
  for (std::size_t i = 0; i < block.warps.size(); ++i) {
    Warp& warp = block.warps[i];
    warp = {};
    warp.block = &block;
    warp.fibers = &block.fibers[i * kWarpSize];
    warp.alive = kAllLanes;
    warp.runnable = kAllLanes;
    warp.priority = machine->random() | kHighPriority;
    shuffle_lanes(warp);
    add_to_runnable(warp);
  }
}

void end_block(Block& block) {
  if (block.memory->intact()) return;
  machine->failed = true;
  machine->failure = fmt::format("block {} wrote outside of its {} bytes of shared memory",
                                 block.id, block.shared_bytes);
}

// --- Faults

std::string describe_fault(const char* address, [[maybe_unused]] const void* state) {
  if (overflows(self->stack, address)) {
    return fmt::format("its stack of {} bytes is too small", kStackBytes);
  }
  std::string_view verb = "accesses";
#ifdef __x86_64__
  const auto& registers = static_cast<const ucontext_t*>(state)->uc_mcontext.gregs;
  verb = (registers[REG_ERR] & 2) != 0 ? "writes" : "reads";
#endif
  return fmt::format("{} {}", verb, describe_address(address));
}

void on_fault(int signal, siginfo_t* info, void* state) {
  if (machine == nullptr || self == &machine->host) {
    ::signal(signal, SIG_DFL);  // not of a kernel: the access is repeated, and ends the process
    return;
  }
  record_failure(describe_fault(static_cast<const char*>(info->si_addr), state));
  leave_for_host();
}

// While it lives, faults of kernels become failures. The handler leaves its stack by a switch to
// the host and never returns, which is why the signal stays unblocked.
class FaultHandler {
 public:
  FaultHandler() : stack_(std::size_t{128} << 10) {
    stack_t alternative = {};
    alternative.ss_sp = stack_.data();
    alternative.ss_size = stack_.size();
    sigaltstack(&alternative, &stack_before_);
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_);
  }
  ~FaultHandler() {
    sigaction(SIGSEGV, &before_, nullptr);
    sigaltstack(&stack_before_, nullptr);
  }
  FaultHandler(const FaultHandler&) = delete;
  FaultHandler& operator=(const FaultHandler&) = delete;

 private:
  std::vector<char> stack_;
  stack_t stack_before_ = {};
  struct sigaction before_ = {};
};

void start_cluster(Cluster& cluster) {
  const i32 number = machine->order.back();
  machine->order.pop_back();
  cluster.finished = 0;
  cluster.barrier = {};
  const auto size = static_cast<i32>(cluster.blocks.size());
  for (const auto& block : cluster.blocks) start_block(*block, number * size + block->rank);
}

std::unique_ptr<Cluster> make_cluster(const Launch& launch) {
  auto cluster = std::make_unique<Cluster>();
  for (i32 rank = 0; rank < launch.cluster; ++rank) {
    cluster->blocks.push_back(make_block(launch));
    cluster->blocks.back()->cluster = cluster.get();
    cluster->blocks.back()->rank = rank;
  }
  return cluster;
}

void give_stacks(const Cluster& cluster) {
  for (const auto& block : cluster.blocks) {
    for (const Fiber& fiber : block->fibers) give_stack(fiber.stack);
  }
}

void run_blocks(Machine& m) {
  const i32 resident = std::clamp(m.launch.max_resident_blocks / m.launch.cluster, 1,
                                  static_cast<i32>(m.order.size()));
  for (i32 i = 0; i < resident; ++i) m.resident.push_back(make_cluster(m.launch));
  for (const auto& cluster : m.resident) start_cluster(*cluster);
  while (!m.resident.empty() && !m.failed) {
    switch_to(choose(true));
    for (Block* block : m.finished) {
      if (!m.failed) end_block(*block);
      Cluster* const cluster = block->cluster;
      if (++cluster->finished < m.launch.cluster) continue;
      if (!m.order.empty()) {
        start_cluster(*cluster);
        continue;
      }
      give_stacks(*cluster);
      std::erase_if(m.resident, [&](const auto& each) { return each.get() == cluster; });
    }
    m.finished.clear();
  }
  for (const auto& cluster : m.resident) give_stacks(*cluster);
}

}  // namespace

void fail(const std::string& what) {
  throw Failure(what);
}

void meet(Point point, Site site, Collective collective) {
  Warp& warp = *self->warp;
  if (!arrive(warp, point, site)) {
    run_others(false);
    return;
  }
  if (collective != nullptr) collective(warp, warp.phase);
  release(warp);
  if (!machine->chance(machine->stay)) run_others(true);
}

namespace {

// The warp's lanes meet at the barrier; whoever is the last one releases all warps that wait.
i32 wait_at(Barrier& barrier, i32 number, i32 threads, Point point, Site site, bool vote) {
  Warp& warp = *self->warp;
  const u32 phase = warp.phase;
  warp.votes |= static_cast<u32>(vote) << self->lane;
  if (!arrive(warp, point, site)) {
    run_others(false);
    return static_cast<i32>(warp.result[phase]);
  }
  if (barrier.arrived != 0 && (barrier.expected != threads || barrier.point != point)) {
    fail(
        fmt::format("warps disagree: this one comes to {} for {} threads, others wait in {} for {}",
                    describe(point, site), threads, kPointNames[static_cast<u32>(barrier.point)],
                    barrier.expected));
  }
  barrier.point = point;
  barrier.expected = threads;
  barrier.arrived += kWarpSize;
  barrier.votes += std::popcount(warp.votes);
  barrier.waiting.push_back(&warp);
  warp.votes = 0;
  warp.barrier = number;
  if (barrier.arrived == threads) {
    for (Warp* each : barrier.waiting) {
      each->result[each->phase] = barrier.votes;
      release(*each);
    }
    barrier.waiting.clear();
    barrier.arrived = 0;
    barrier.votes = 0;
  }
  run_others(true);
  return static_cast<i32>(warp.result[phase]);
}

}  // namespace

i32 wait_at_barrier(i32 number, i32 threads, Point point, Site site, bool vote) {
  land_copies(0);
  Block& block = *self->block;
  if (threads <= 0 || threads > block.num_threads || threads % kWarpSize != 0) {
    fail(fmt::format("{} of {} threads: it must be a multiple of {} up to {}",
                     describe(point, site), threads, kWarpSize, block.num_threads));
  }
  return wait_at(block.barriers[number], number, threads, point, site, vote);
}

void wait_at_cluster_barrier(Site site) {
  land_copies(0);
  Cluster& cluster = *self->block->cluster;
  const i32 threads = self->block->num_threads * static_cast<i32>(cluster.blocks.size());
  wait_at(cluster.barrier, kClusterBarrier, threads, Point::sync_cluster, site, false);
  cluster.begun = true;
}

void* remote_place(const void* mine, u32 bytes, i32 rank) {
  check_shared(mine, bytes, bytes, "an access to another block's memory");
  const Cluster& cluster = *self->block->cluster;
  if (rank < 0 || rank >= static_cast<i32>(cluster.blocks.size())) {
    fail(fmt::format("it accesses the memory of block {} of a cluster of {}", rank,
                     cluster.blocks.size()));
  }
  const Block& block = *cluster.blocks[rank];
  if (!cluster.begun && &block != self->block) {
    fail(
        fmt::format("it accesses the memory of block {} of its cluster, which may not have begun: "
                    "there was no barrier of the cluster",
                    rank));
  }
  if (block.alive == 0) {
    fail(fmt::format("it accesses the memory of block {} of its cluster, which has ended", rank));
  }
  return block.shared + (static_cast<const char*>(mine) - self->block->shared);
}

void finish_products(Warp& warp, u32 groups) {
  const u32 end = warp.product_groups > groups ? warp.product_groups - groups : 0;
  auto next = warp.products.begin();
  for (; next != warp.products.end() && next->group < end; ++next) next->run(*next);
  warp.products.erase(warp.products.begin(), next);
}

u32 draw(u32 bound) {
  return machine->below(bound);
}

bool may_land_now() {
  return machine->chance(machine->land_early);
}

void interleave() {
  if (!machine->chance(64)) return;
  go_last();
  run_others(true);
}

void poll() {
  if (++machine->polls > kMostPolls) {
    fail("it waits for a value that nobody stores: nothing has happened for a long time");
  }
  go_last();
  run_others(true);
}

void note_progress() {
  machine->polls = 0;
}

void check_shared(const void* pointer, u32 bytes, u32 alignment, const char* instruction) {
  const char* at = static_cast<const char*>(pointer);
  const Block& block = *self->block;
  if (at < block.shared || at + bytes > block.shared + block.shared_bytes) {
    fail(fmt::format("{} at {}, which is not in the block's shared memory", instruction,
                     describe_address(at)));
  }
  if (reinterpret_cast<u64>(at) % alignment != 0) fail_misaligned(at, alignment);
}

void check_fenced(const void* pointer) {
  const auto unit =
      static_cast<std::size_t>(static_cast<const char*>(pointer) - self->block->shared) / kUnit;
  const u16 by = self->block->unfenced_by[unit];
  if (by == 0) return;
  fail(fmt::format("wgmma reads {}: thread {} copied it and has not fenced since it landed",
                   describe_address(static_cast<const char*>(pointer)), by - 1));
}

void fail_misaligned(const void* pointer, u32 alignment) {
  fail(fmt::format("{} must be aligned to {} bytes", describe_address(pointer), alignment));
}

Statistics run_grid(const Launch& launch, void (*body)(const void*), const void* context) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  if (launch.block <= 0 || launch.block > 1024 || launch.block % kWarpSize != 0) {
    throw Failure(fmt::format("block is {}: it must be a multiple of 32 up to 1024", launch.block));
  }
  if (launch.grid <= 0 || launch.max_resident_blocks <= 0 || launch.shared_bytes < 0) {
    throw Failure(
        fmt::format("grid is {}, max_resident_blocks {}, shared_bytes {}: they must be positive",
                    launch.grid, launch.max_resident_blocks, launch.shared_bytes));
  }
  if (launch.cluster <= 0 || launch.grid % launch.cluster != 0) {
    throw Failure(fmt::format("cluster is {}: the grid, {}, must be a multiple of it",
                              launch.cluster, launch.grid));
  }
  Machine m;
  m.launch = launch;
  m.body = body;
  m.context = context;
  m.random_state = (launch.seed + 1) * 0x9E3779B97F4A7C15ULL | 1;
  for (int i = 0; i < 8; ++i) m.random();
  constexpr u32 kStay[] = {0, 128, 240, 254};
  constexpr u32 kLandEarly[] = {0, 32, 128};
  m.stay = kStay[m.below(4)];
  m.land_early = kLandEarly[m.below(3)];
  constexpr u32 kCandidates[] = {1, 2, 8, 32};
  m.candidates = kCandidates[m.below(4)];
  m.order.resize(static_cast<std::size_t>(launch.grid / launch.cluster));
  std::iota(m.order.begin(), m.order.end(), 0);
  for (std::size_t i = m.order.size(); i > 1; --i) std::swap(m.order[i - 1], m.order[m.below(i)]);

  machine = &m;
  self = &m.host;
  grid_size = launch.grid;
  {
    const FaultHandler faults;
    run_blocks(m);
  }
  machine = nullptr;
  self = nullptr;
  if (m.failed) throw Failure(m.failure);
  return m.statistics;
}

}  // namespace tw::emulator
