// SPDX-License-Identifier: Apache-2.0
// How much of a GPU's memory bandwidth the operators around attention reach, in bf16:
//
//   ops_bench [SUBSTRING]
//
// One line a case:
//   us      of a call: many of them in a CUDA graph, each on data that no cache holds any more
//   GB/s    of the bytes that must be read and written, all else (weights, positions, slots) left
//   out copy    the same of a copy on the device of as many bytes, in the same run ratio   of the
//   two times: 1 is as fast as a copy
#include <tilewright/tilewright.h>

#include <cstdio>
#include <numeric>
#include <random>
#include <string>

#include "place.h"

namespace tilewright::bench {
namespace {

constexpr std::int64_t kHeadDim = 128;
constexpr std::int64_t kPage = 16;
constexpr std::int64_t kElement = 2;  // bytes
// What the calls of a graph go through before the first one's data comes again: several times an
// L2 cache of 50 MB.
constexpr std::int64_t kRound = std::int64_t{768} << 20;
constexpr int kCalls = 24;

// Memory that is cut into tensors, one behind the other and apart by multiples of 256 bytes.
class Arena {
 public:
  Arena(Place& place, std::int64_t bytes) : place_(place), end_(bytes) {
    // Numbers near 1, none of them special: two bytes each, whatever their place.
    std::vector<std::uint16_t> values(static_cast<std::size_t>(bytes / kElement));
    std::minstd_rand random(1);
    for (std::uint16_t& value : values) {
      value = static_cast<std::uint16_t>(0x3F00U + (random() & 0x80FFU));
    }
    data_ = static_cast<std::byte*>(place.upload(values.data(), values.size() * kElement));
  }

  void rewind() { at_ = 0; }
  void* take(std::int64_t bytes) {
    void* const taken = data_ + at_;
    at_ += (bytes + 255) / 256 * 256;
    if (at_ > end_) throw std::length_error("the arena is too small");
    return taken;
  }
  TensorView tensor(std::initializer_list<std::int64_t> shape) {
    std::int64_t elements = 1;
    for (const std::int64_t extent : shape) elements *= extent;
    return {take(elements * kElement), DType::bf16, shape, place_.device()};
  }

 private:
  Place& place_;
  std::byte* data_ = nullptr;
  std::int64_t at_ = 0;
  std::int64_t end_;
};

// Rows of `hidden` elements that a token's call reads or writes, and a call on data of its own.
struct Case {
  const char* name;
  int rows_of_token;
  std::function<std::function<void()>(Arena&, std::int64_t tokens, std::int64_t hidden)> make;
};

// What all calls of a benchmark share.
struct Shared {
  Place& place;
  TensorView weight;  // of as many elements as the longest row
  TensorView positions;
};

// Pages in random order, their tokens in order.
Ints slots_of(std::int64_t tokens) {
  Ints pages(static_cast<std::size_t>(tokens / kPage));
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), std::minstd_rand(3));
  Ints slots;
  for (const std::int32_t page : pages) {
    for (std::int32_t row = 0; row < kPage; ++row) {
      slots.push_back(page * static_cast<std::int32_t>(kPage) + row);
    }
  }
  return slots;
}

std::vector<Case> cases(const Shared& s) {
  const Stream on = s.place.stream();
  const auto first = [](const TensorView& all, std::int64_t count) {
    return all.slice(0, 0, count);
  };
  return {
      {"rms_norm", 2,
       [=](Arena& arena, std::int64_t tokens, std::int64_t hidden) -> std::function<void()> {
         const TensorView x = arena.tensor({tokens, hidden});
         const TensorView out = arena.tensor({tokens, hidden});
         const TensorView weight = first(s.weight, hidden);
         return [=] { rms_norm(x, weight, out, 1e-6F, 0, {}, on); };
       }},
      {"fused_add_rms_norm", 4,
       [=](Arena& arena, std::int64_t tokens, std::int64_t hidden) -> std::function<void()> {
         const TensorView x = arena.tensor({tokens, hidden});
         const TensorView residual = arena.tensor({tokens, hidden});
         const TensorView weight = first(s.weight, hidden);
         return [=] { fused_add_rms_norm(x, residual, weight, x, 1e-6F, 0, {}, on); };
       }},
      {"act_and_mul", 3,
       [=](Arena& arena, std::int64_t tokens, std::int64_t hidden) -> std::function<void()> {
         const TensorView x = arena.tensor({tokens, 2 * hidden});
         const TensorView out = arena.tensor({tokens, hidden});
         return [=] { act_and_mul(x, out, Activation::silu, on); };
       }},
      {"gather_rows", 2,
       [=](Arena& arena, std::int64_t tokens, std::int64_t hidden) -> std::function<void()> {
         const TensorView x = arena.tensor({tokens, hidden});
         const TensorView out = arena.tensor({tokens, hidden});
         const TensorView indices = s.place.ints(slots_of(tokens));
         return [=] { gather_rows(x, indices, out, on); };
       }},
      {"apply_rope", 2,
       [=](Arena& arena, std::int64_t tokens, std::int64_t hidden) -> std::function<void()> {
         const TensorView x = arena.tensor({tokens, hidden / kHeadDim, kHeadDim});
         const TensorView out = arena.tensor({tokens, hidden / kHeadDim, kHeadDim});
         const TensorView positions = first(s.positions, tokens);
         return [=] { apply_rope(x, positions, out, {}, {}, on); };
       }},
      {"write_kv_cache", 4,
       [=](Arena& arena, std::int64_t tokens, std::int64_t hidden) -> std::function<void()> {
         const std::int64_t heads = hidden / kHeadDim;
         const TensorView k = arena.tensor({tokens, heads, kHeadDim});
         const TensorView v = arena.tensor({tokens, heads, kHeadDim});
         const KvCache cache =
             KvCache::combined(arena.tensor({tokens / kPage, 2, kPage, heads, kHeadDim}));
         const TensorView slots = s.place.ints(slots_of(tokens));
         return [=] { write_kv_cache(k, v, cache, slots, {}, {}, {}, on); };
       }},
  };
}

void run_case(Arena& arena, const Shared& shared, const Case& c, std::int64_t megabytes,
              std::int64_t hidden) {
  const std::int64_t row = c.rows_of_token * hidden * kElement;
  const std::int64_t tokens = (megabytes << 20) / row / kPage * kPage;
  const std::int64_t bytes = tokens * row;
  const std::int64_t sets = kRound / bytes;
  arena.rewind();
  std::vector<std::function<void()>> calls;
  for (std::int64_t i = 0; i < sets; ++i) calls.push_back(c.make(arena, tokens, hidden));
  calls[0]();  // compiles
  const auto set_of = [&](int call) { return static_cast<std::size_t>(call % sets); };
  const double us = shared.place.device_us(kCalls, [&](int call) { calls[set_of(call)](); });
  arena.rewind();
  std::vector<std::pair<void*, void*>> copies;
  for (std::int64_t i = 0; i < sets; ++i) {
    void* const from = arena.take(bytes / 2);
    copies.emplace_back(arena.take(bytes / 2), from);
  }
  const double copy_us = shared.place.device_us(kCalls, [&](int call) {
    const auto& [to, from] = copies[set_of(call)];
    cuda::copy_on_device(to, from, static_cast<std::size_t>(bytes / 2), shared.place.stream());
  });
  const auto rate = [&](double time) { return static_cast<double>(bytes) * 1e-3 / time; };
  std::printf("%-20s %6lld MB  hidden %5lld %9.2f us %8.0f GB/s  copy %8.0f GB/s  ratio %.3f\n",
              c.name, static_cast<long long>(megabytes), static_cast<long long>(hidden), us,
              rate(us), rate(copy_us), us / copy_us);
  std::fflush(stdout);
}

void run_all(const std::string& only) {
  Place place(Device{DeviceType::cuda, 0});
  constexpr std::int64_t kMaxHidden = 8192;
  constexpr std::int64_t kMaxTokens = 32768;
  Arena weights(place, kMaxHidden * kElement);
  Ints positions(kMaxTokens);
  std::iota(positions.begin(), positions.end(), 0);
  const Shared shared{place, weights.tensor({kMaxHidden}), place.ints(positions)};
  // The alignment of a round's tensors is what they have beyond its bytes.
  Arena arena(place, kRound + (std::int64_t{1} << 20));
  for (const Case& c : cases(shared)) {
    if (std::string(c.name).find(only) == std::string::npos) continue;
    for (const std::int64_t megabytes : {64, 256}) {
      for (const std::int64_t hidden : {4096, 8192}) {
        run_case(arena, shared, c, megabytes, hidden);
      }
    }
  }
}

}  // namespace
}  // namespace tilewright::bench

int main(int argc, char** argv) {
  try {
    tilewright::bench::run_all(argc > 1 ? argv[1] : "");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ops_bench: %s\n", error.what());
    return 2;
  }
}
