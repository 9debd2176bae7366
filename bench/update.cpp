// SPDX-License-Identifier: Apache-2.0
// What Plan::update costs on a GPU:
//
//   update_bench [SUBSTRING]
//
// Each row is a batch whose plan is compared with the host scheduler's, record by record, and then
// timed:
//   chain_us  one of 20 updates in a CUDA graph, each started while the one before it ends
//   apart_us  the same with a node between any two that lets nothing overlap, less that node
//   host_us   what the call costs the host
#include <tilewright/tilewright.h>

#include <cstdio>
#include <cstring>
#include <random>
#include <string>

#include "attention/attention_impl.h"
#include "attention/cuda_plan.h"
#include "attention/plan_impl.h"
#include "place.h"

namespace tilewright::bench {
namespace {

constexpr std::int32_t kPage = 16;
constexpr int kUpdates = 20;

// Rows of the page table of one level, which are query tokens [indptr[i], indptr[i + 1]).
struct LevelRow {
  Ints indptr;  // empty: rows are the requests
  Ints lens;
};

struct Row {
  std::string name;
  Ints q_lens;
  std::vector<LevelRow> levels;
};

Ints lengths(int count, int least, int most) {
  std::minstd_rand random(7);
  Ints lens;
  for (int i = 0; i < count; ++i) {
    lens.push_back(std::uniform_int_distribution<std::int32_t>(least, most)(random));
  }
  return lens;
}

Row decode(int requests) {
  const Ints ones(static_cast<std::size_t>(requests), 1);
  std::string name = "decode_";
  name.append(std::to_string(requests));
  return {name, ones, {{{}, lengths(requests, 512, 2048)}}};
}

// Of decoding requests the last `prefills` have `q_len` query tokens.
Row mixed(int requests, int prefills, std::int32_t q_len) {
  Row row = decode(requests);
  row.name = "mixed_";
  row.name.append(std::to_string(requests)).append("_with_").append(std::to_string(prefills));
  row.name.append("x").append(std::to_string(q_len));
  for (std::size_t i = row.q_lens.size() - static_cast<std::size_t>(prefills);
       i < row.q_lens.size(); ++i) {
    row.q_lens[i] = q_len;
    row.levels[0].lens[i] += q_len;
  }
  return row;
}

// Decoding requests with 256 tokens of their own, over levels of equal groups.
Row shared(int requests, const std::vector<std::pair<int, std::int32_t>>& groups_and_lens) {
  Row row;
  row.name.append("shared_").append(std::to_string(requests));
  row.q_lens.assign(static_cast<std::size_t>(requests), 1);
  for (const auto& [groups, len] : groups_and_lens) {
    row.name.append("_").append(std::to_string(groups)).append("x").append(std::to_string(len));
    LevelRow level;
    for (int i = 0; i <= groups; ++i) level.indptr.push_back(requests / groups * i);
    level.lens.assign(static_cast<std::size_t>(groups), len);
    row.levels.push_back(level);
  }
  row.levels.push_back({{}, lengths(requests, 200, 256)});
  return row;
}

std::vector<Row> rows() {
  std::vector<Row> list;
  for (const int requests : {1, 16, 64, 256, 1024, 4096}) list.push_back(decode(requests));
  list.push_back(mixed(256, 1, 2048));
  list.push_back(mixed(256, 16, 256));
  list.push_back(mixed(64, 64, 512));
  list.push_back(shared(64, {{1, 8192}}));
  list.push_back(shared(64, {{1, 32768}}));
  list.push_back(shared(64, {{1, 2048}, {8, 4096}}));
  list.push_back(shared(1024, {{1, 2048}, {32, 4096}}));
  return list;
}

// A row's batch where `place` is.
class Planned {
 public:
  Planned(Place& place, const Row& row, int workers)
      : place_(place),
        attention_(spec(), place.device()),
        plan_({attention_}, limits(row, workers)) {
    const auto kept = [&](const Ints& values) -> const Ints& {
      ints_.push_back(values);
      return ints_.back();
    };
    Ints indptr = {0};
    for (const std::int32_t length : row.q_lens) indptr.push_back(indptr.back() + length);
    batch_.qo_indptr = place.ints(kept(indptr));
    std::vector<KvLevel> levels;
    for (const LevelRow& level : row.levels) {
      const auto count = static_cast<std::int64_t>(level.lens.size());
      const std::int64_t columns =
          (*std::max_element(level.lens.begin(), level.lens.end()) + kPage - 1) / kPage;
      Ints pages(static_cast<std::size_t>(count * columns));
      for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<std::int32_t>(i);
      const PageTable table = PageTable::padded(place.ints(kept(pages), count), kPage);
      const TensorView lens = place.ints(kept(level.lens));
      if (row.levels.size() == 1) {
        batch_.kv_lens = lens;
        levels.push_back({table, {}, {}, {}, {}});
      } else {
        const TensorView tokens =
            level.indptr.empty() ? TensorView() : place.ints(kept(level.indptr));
        levels.push_back({table, lens, tokens, {}, {}});
      }
    }
    inputs_.emplace_back(attention_, levels);
  }

  void update() { plan_.update(batch_, inputs_, place_.stream()); }
  Plan& plan() { return plan_; }
  const Attention& attention() const { return attention_; }

 private:
  static AttentionSpec spec() {
    AttentionSpec spec;
    spec.num_qo_heads = 32;
    spec.num_kv_heads = 8;
    spec.head_dim = 128;
    spec.variant = variants::causal();
    return spec;
  }
  static Limits limits(const Row& row, int workers) {
    Limits limits;
    limits.requests = static_cast<std::int64_t>(row.q_lens.size());
    for (const std::int32_t length : row.q_lens) {
      limits.q_tokens += length;
      limits.q_len = std::max<std::int64_t>(limits.q_len, length);
    }
    for (const LevelRow& level : row.levels) {
      limits.kv_len += *std::max_element(level.lens.begin(), level.lens.end());
    }
    limits.levels = static_cast<int>(row.levels.size());
    limits.workers = workers;
    return limits;
  }

  Place& place_;
  Attention attention_;
  Plan plan_;
  std::deque<Ints> ints_;  // on the CPU the tensors' memory
  Batch batch_;
  std::vector<PlanInput> inputs_;
};

// Whether the first `count` records of the host and the device are the same.
template <typename T>
bool same(const Place& place, const T* host, const T* device, std::int64_t count) {
  if (host == nullptr || device == nullptr) return host == nullptr && device == nullptr;
  std::vector<T> copy(static_cast<std::size_t>(count));
  place.download(copy, device);
  // None has padding, but a cut.
  static_assert(std::has_unique_object_representations_v<T>);
  return std::memcmp(copy.data(), host, copy.size() * sizeof(T)) == 0;
}
bool same_cuts(const Place& place, const plan::Cut* host, const plan::Cut* device,
               std::int64_t count) {
  std::vector<plan::Cut> copy(static_cast<std::size_t>(count));
  place.download(copy, device);
  return std::equal(copy.begin(), copy.end(), host, [](const plan::Cut& a, const plan::Cut& b) {
    return a.item == b.item && a.block == b.block && a.cost == b.cost;
  });
}

// What differs from the host's plan; empty: nothing.
std::string difference(const Place& place, const plan::View& host, const plan::View& device) {
  std::vector<plan::Header> headers(1);
  place.download(headers, device.schedule.header);
  const plan::Header& a = *host.schedule.header;
  const plan::Header& b = headers[0];
  if (a.num_requests != b.num_requests || a.num_rows != b.num_rows ||
      a.num_a_rows != b.num_a_rows || a.workers != b.workers || a.tail_workers != b.tail_workers ||
      a.num_splits != b.num_splits || a.q_tokens != b.q_tokens ||
      a.num_segments != b.num_segments || a.joins_levels != b.joins_levels ||
      a.a_items != b.a_items || a.tail_items != b.tail_items || a.b_items != b.b_items ||
      a.tail_cost != b.tail_cost || a.b_cost != b.b_cost) {
    return "header";
  }
  if (!same(place, host.requests, device.requests, a.num_requests)) return "requests";
  if (!same(place, host.schedule.rows, device.schedule.rows, a.num_rows)) return "rows";
  if (!same(place, host.segments, device.segments, a.num_segments)) return "segments";
  if (!same_cuts(place, host.schedule.cuts, device.schedule.cuts, a.workers + 1)) return "cuts";
  if (!same(place, host.schedule.splits, device.schedule.splits, a.num_splits)) return "splits";
  if (!same(place, host.token_levels, device.token_levels, a.q_tokens)) return "token_levels";
  return "";
}

bool run_row(const Row& row) {
  Place gpu(Device{DeviceType::cuda, 0});
  Place cpu(Device{});
  Planned planned(gpu, row, 0);
  planned.plan().prepare();
  planned.update();
  gpu.synchronize();
  const plan::View& view = planned.plan().impl().cuda->part(planned.attention()).view;
  // The host's scheduler with the GPU's constants.
  Planned on_host(cpu, row, view.schedule.config.workers);
  cpu::AttentionPlan& host = on_host.plan().impl().parts[0].plan;
  host.schedule.config = view.schedule.config;
  on_host.update();
  const std::string wrong = difference(gpu, host, view);
  int faults = 0;
  for (const std::int32_t word : planned.plan().status()) faults += word != 0 ? 1 : 0;
  const double chain = gpu.device_us(kUpdates, [&](int) { planned.update(); });
  std::vector<std::int32_t> nothing(1);
  void* const word = gpu.upload(nothing.data(), sizeof(nothing[0]));
  const auto fill = [&] { cuda::fill_bytes(word, 0, sizeof(nothing[0]), gpu.stream()); };
  const double fills = gpu.device_us(kUpdates, [&](int) { fill(); });
  const double apart = gpu.device_us(kUpdates, [&](int) {
    fill();
    planned.update();
  });
  const double host_us = gpu.host_us(chain, [&] { planned.update(); });
  const bool right = wrong.empty() && faults == 0;
  std::printf("%-32s %9.2f %9.2f %9.2f  %s%s\n", row.name.c_str(), chain, apart - fills, host_us,
              right ? "as the host's" : "WRONG: ", right ? "" : (wrong + " ").c_str());
  std::fflush(stdout);
  return right;
}

}  // namespace
}  // namespace tilewright::bench

int main(int argc, char** argv) {
  using namespace tilewright::bench;  // NOLINT(google-build-using-namespace)
  const std::string only = argc > 1 ? argv[1] : "";
  try {
    bool right = true;
    std::printf("%-32s %9s %9s %9s\n", "", "chain_us", "apart_us", "host_us");
    for (const Row& row : rows()) {
      if (row.name.find(only) != std::string::npos) right = run_row(row) && right;
    }
    return right ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "update_bench: %s\n", error.what());
    return 2;
  }
}
