// SPDX-License-Identifier: Apache-2.0
// The ladder: a fixed set of attention work, timed on a GPU. ladder.py makes the rows, runs this
// and puts other libraries beside it.
//
//   ladder FILE [--rows SUBSTRING] [--device cpu]
//
// FILE has a row a line (ladder_row.h), "-" is the standard input. Prints a JSON object a row:
// us: a run on the device, in a CUDA graph of many, over copies of KV that the L2 cache cannot
//     hold; tflops, gbs: what that is; flat_us: the same without levels, where requests share a
//     prefix
// update_us: Plan::update on the device, in a graph of many; update_host_us, run_host_us: what the
//     calls cost the host, median of up to 1000 that nothing waits for
// prepare_s: compiling and loading
// err: the largest relative error of sampled rows; same: whether a second run gave the same bits
// status: requests that the plan found fault with
// --device cpu runs and checks, and times runs alone.
#include <tilewright/tilewright.h>

#include <cstdio>
#include <fstream>
#include <iostream>

#include "ladder_check.h"
#include "ladder_row.h"
#include "place.h"

namespace tilewright::bench {
namespace {

// Three times the L2 cache of the largest GPU this is for, so that a call's KV is never in it.
constexpr std::size_t kColdBytes = std::size_t{180} << 20;

Attention attention_of(const LadderRow& row, Device device) {
  AttentionSpec spec;
  spec.num_qo_heads = row.qo_heads;
  spec.num_kv_heads = row.kv_heads;
  spec.head_dim = row.head_dim;
  spec.variant = row.causal ? variants::causal() : variants::full();
  return Attention(spec, device);
}

Limits limits_of(const LadderRow& row, int levels) {
  Limits limits;
  limits.requests = row.requests();
  limits.q_tokens = row.q_tokens();
  limits.q_len = row.longest_q();
  limits.kv_len = row.longest_kv();
  limits.levels = levels;
  return limits;
}

// The plan of a row, with its prefix as a level or in the requests' own tables.
class PlannedRow {
 public:
  PlannedRow(Place& place, const LadderRow& row, const LadderPages& pages, int levels)
      : place_(place),
        attention_(attention_of(row, place.device())),
        plan_({attention_}, limits_of(row, levels)),
        levels_(levels) {
    Ints indptr = {0};
    for (const std::int32_t length : row.q_lens) indptr.push_back(indptr.back() + length);
    // On the CPU these are the tensors' memory.
    ints_ = {indptr, row.kv_lens, {0, indptr.back()}, {row.prefix}, row.kv_lens};
    for (std::int32_t& length : ints_[4]) length -= row.prefix;
    batch_.qo_indptr = place.ints(ints_[0]);
    const auto padded = [&](const Ints& table, std::int64_t rows) {
      return PageTable::padded(place.ints(table, rows), row.page_size);
    };
    if (levels == 1) {
      batch_.kv_lens = place.ints(ints_[1]);
      inputs_.emplace_back(attention_, padded(pages.flat, row.requests()));
    } else {
      const KvLevel outer{
          padded(pages.prefix, 1), place.ints(ints_[3]), place.ints(ints_[2]), {}, {}};
      const KvLevel own{padded(pages.own, row.requests()), place.ints(ints_[4]), {}, {}, {}};
      inputs_.emplace_back(attention_, std::vector<KvLevel>{outer, own});
    }
    const auto begin = Clock::now();
    plan_.prepare();
    prepare_s_ = microseconds(begin) * 1e-6;
  }

  void update() { plan_.update(batch_, inputs_, place_.stream()); }
  void run(const TensorView& q, const TensorView& kv, const TensorView& out) {
    const KvCache cache = KvCache::combined(kv);
    RunArgs args;
    args.out = out;
    args.stream = place_.stream();
    if (levels_ == 1) {
      attention_.run(plan_, q, cache, args);
    } else {
      attention_.run(plan_, q, {cache, cache}, args);
    }
  }
  int faults() const {
    const std::vector<std::int32_t> words = plan_.status();
    return static_cast<int>(words.size()) -
           static_cast<int>(std::count(words.begin(), words.end(), 0));
  }
  double prepare_s() const { return prepare_s_; }

 private:
  Place& place_;
  Attention attention_;
  Plan plan_;
  int levels_;
  std::vector<Ints> ints_;
  Batch batch_;
  std::vector<PlanInput> inputs_;
  double prepare_s_ = 0;
};

// The tensors of a row, KV as often as it takes to find none of it in the L2 cache.
struct RowTensors {
  Halves q_host, kv_host, out_host;
  TensorView q, out;
  std::vector<TensorView> kv;
  int calls = 1;

  RowTensors(Place& place, const LadderRow& row, const LadderPages& pages) {
    const auto size = [](std::initializer_list<std::int64_t> shape) {
      return static_cast<std::size_t>(
          std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
    };
    q_host = random_halves(size({row.q_tokens(), row.qo_heads, row.head_dim}), 3);
    kv_host = random_halves(size({pages.count, 2, row.page_size, row.kv_heads, row.head_dim}), 7);
    out_host = Halves(q_host.size(), 0xFFFF);  // NaN
    const auto bf16 = [&](void* data, std::initializer_list<std::int64_t> shape) {
      return TensorView(data, DType::bf16, shape, place.device());
    };
    const auto uploaded = [&](const Halves& values) {
      return place.upload(values.data(), values.size() * sizeof(values[0]));
    };
    q = bf16(uploaded(q_host), {row.q_tokens(), row.qo_heads, row.head_dim});
    out = bf16(uploaded(out_host), {row.q_tokens(), row.qo_heads, row.head_dim});
    const std::size_t bytes = kv_host.size() * sizeof(kv_host[0]);
    const auto copies = static_cast<int>((kColdBytes + bytes - 1) / bytes);
    calls = place.is_gpu() ? std::max(10, copies) : 1;
    void* data = uploaded(kv_host);
    for (int i = 0; i < (place.is_gpu() ? copies : 1); ++i) {
      kv.push_back(bf16(i == 0 ? data : place.duplicate(data, bytes),
                        {pages.count, 2, row.page_size, row.kv_heads, row.head_dim}));
    }
    place.synchronize();
  }
};

struct Checked {
  double error = 0;
  bool same = true;
};

// Runs twice: over what the first run left behind, the second must give the same bits.
Checked checked(Place& place, PlannedRow& planned, const LadderRow& row, const LadderPages& pages,
                RowTensors& tensors) {
  Halves first;
  Checked result;
  for (int time = 0; time < 2; ++time) {
    planned.update();
    planned.run(tensors.q, tensors.kv[0], tensors.out);
    place.download(tensors.out_host, tensors.out.data);
    if (time == 0) first = tensors.out_host;
  }
  result.same = first == tensors.out_host;
  result.error = ladder_error(row, pages, tensors.q_host, tensors.kv_host, tensors.out_host);
  return result;
}

double timed_run(const Place& place, PlannedRow& planned, RowTensors& tensors) {
  return place.device_us(tensors.calls, [&](int i) {
    planned.run(tensors.q, tensors.kv[static_cast<std::size_t>(i) % tensors.kv.size()],
                tensors.out);
  });
}

// What the weights' rounding to bf16 and that of outputs leave far behind.
constexpr double kMostError = 1e-2;

// Whether the row is right.
bool run_row(const LadderRow& row, Device device) {
  Place place(device);
  const LadderPages pages(row);
  RowTensors tensors(place, row, pages);
  const int levels = row.prefix > 0 ? 2 : 1;
  PlannedRow planned(place, row, pages, levels);
  Checked check = checked(place, planned, row, pages, tensors);
  const int faults = planned.faults();
  const double us = timed_run(place, planned, tensors);
  const double update_us = place.device_us(20, [&](int) { planned.update(); });
  const double run_host_us =
      place.host_us(us, [&] { planned.run(tensors.q, tensors.kv[0], tensors.out); });
  const double update_host_us = place.host_us(update_us, [&] { planned.update(); });
  std::string flat;
  if (levels > 1) {
    PlannedRow flat_row(place, row, pages, 1);
    const Checked flat_check = checked(place, flat_row, row, pages, tensors);
    check.error = std::max(check.error, flat_check.error);
    check.same = check.same && flat_check.same;
    flat = "\"flat_us\": " + std::to_string(timed_run(place, flat_row, tensors)) + ", ";
  }
  const bool right = check.error < kMostError && check.same && faults == 0;
  std::printf(
      "{\"name\": \"%s\", \"kind\": \"%s\", \"us\": %.2f, %s\"tflops\": %.1f, \"gbs\": %.0f, "
      "\"update_us\": %.2f, \"run_host_us\": %.2f, \"update_host_us\": %.2f, \"prepare_s\": %.2f, "
      "\"err\": %.1e, \"same\": %s, \"status\": %d, \"ok\": %s}\n",
      row.name.c_str(), row.kind.c_str(), us, flat.c_str(), row.flops() / us * 1e-6,
      row.bytes() / us * 1e-3, update_us, run_host_us, update_host_us, planned.prepare_s(),
      std::isfinite(check.error) ? check.error : 9e9, check.same ? "true" : "false", faults,
      right ? "true" : "false");
  std::fflush(stdout);
  return right;
}

std::string without_quotes(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c == '"' || c == '\\' || c < ' '; }, ' ');
  return text;
}

int run_ladder(std::istream& in, const std::string& only, Device device) {
  bool right = true;
  for (std::string line; std::getline(in, line);) {
    if (line.empty()) continue;
    const LadderRow row = read_ladder_row(line);
    if (row.name.find(only) == std::string::npos) continue;
    try {
      right = run_row(row, device) && right;
    } catch (const Error& error) {
      std::printf("{\"name\": \"%s\", \"error\": \"%s\"}\n", row.name.c_str(),
                  without_quotes(error.what()).c_str());
      std::fflush(stdout);
      right = false;
    }
  }
  return right ? 0 : 1;
}

}  // namespace
}  // namespace tilewright::bench

int main(int argc, char** argv) {
  std::string file;
  std::string only;
  tilewright::Device device{tilewright::DeviceType::cuda, 0};
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    const bool has_value = i + 1 < argc;
    if (option == "--rows" && has_value) {
      only = argv[++i];
    } else if (option == "--device" && has_value && std::string(argv[i + 1]) == "cpu") {
      device = {};
      ++i;
    } else if (file.empty() && option.substr(0, 2) != "--") {
      file = option;
    } else {
      file.clear();
      break;
    }
  }
  if (file.empty()) {
    std::fprintf(stderr, "usage: ladder FILE|- [--rows SUBSTRING] [--device cpu]\n");
    return 2;
  }
  try {
    std::ifstream from_file(file);
    return tilewright::bench::run_ladder(file == "-" ? std::cin : from_file, only, device);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ladder: %s\n", error.what());
    return 2;
  }
}
