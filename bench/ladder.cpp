// SPDX-License-Identifier: Apache-2.0
// The ladder: a fixed set of attention work, timed on a GPU. ladder.py makes the rows, runs this
// and puts other libraries beside it.
//
//   ladder FILE [--rows SUBSTRING] [--device cpu]
//
// FILE has a row a line (ladder_row.h), "-" is the standard input. Prints a JSON object a row:
// us: a run on the device, in a CUDA graph of many, over copies of KV that the L2 cache cannot
//     hold; tflops, gbs: what that is; flat_us: the same without levels, where requests share a
//     prefix; mixed_us, mixed_update_us: the same under limits that leave room for prefill
// timed_s: when us was measured, from and to, seconds of the steady clock
// update_us: Plan::update on the device, in a graph of many; update_host_us, run_host_us: what the
//     calls cost the host, median of up to 1000 that nothing waits for
// prepare_s: compiling and loading
// err: the largest relative error of sampled rows; same: whether a second run gave the same bits
// status: requests that the plan found fault with
// --device cpu runs and checks, and times runs alone.
#include <tilewright/tilewright.h>

#include <array>
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
constexpr std::uint16_t kNotANumber = 0xFFFF;  // in bf16

Attention attention_of(const LadderRow& row, Device device) {
  AttentionSpec spec;
  spec.num_qo_heads = row.qo_heads;
  spec.num_kv_heads = row.kv_heads;
  spec.head_dim = row.head_dim;
  spec.kv_dtype = row.kv_dtype;
  spec.variant =
      row.causal ? variants::causal(row.window > 0 ? row.window - 1 : -1) : variants::full();
  return Attention(spec, device);
}

// Those of the row itself, which nothing larger fits.
Limits limits_of(const LadderRow& row, int levels) {
  Limits limits;
  limits.requests = row.requests();
  limits.q_tokens = row.q_tokens();
  limits.q_len = row.longest_q();
  limits.kv_len = row.longest_kv();
  limits.levels = levels;
  return limits;
}

// As a server's one graph for all its batches has them: decode and some prefill.
Limits mixed_limits_of(const LadderRow& row) {
  Limits limits = limits_of(row, 1);
  limits.requests += 1;
  limits.q_tokens += row.prefill_limit;
  limits.q_len = std::max<std::int64_t>(limits.q_len, row.prefill_limit);
  return limits;
}

// The tensors of a row, KV as often as it takes to find none of it in the L2 cache.
struct RowTensors {
  Halves q_host, out_host;
  LadderKv kv_host;
  std::vector<float> sinks_host;
  TensorView q, out, sinks;
  std::vector<TensorView> kv;
  int calls = 1;

  RowTensors(Place& place, const LadderRow& row, const LadderPages& pages)
      : q_host(ladder_values(
            row, static_cast<std::size_t>(row.q_tokens() * row.qo_heads * row.head_dim), 3)),
        out_host(q_host.size(), kNotANumber),
        kv_host(row, pages.count),
        sinks_host(ladder_sinks(row)) {
    const auto uploaded = [&](const Halves& values) {
      return TensorView(place.upload(values.data(), values.size() * sizeof(values[0])), DType::bf16,
                        {row.q_tokens(), row.qo_heads, row.head_dim}, place.device());
    };
    q = uploaded(q_host);
    out = uploaded(out_host);
    if (row.sinks) {
      void* data = place.upload(sinks_host.data(), sinks_host.size() * sizeof(sinks_host[0]));
      sinks = TensorView(data, DType::f32, {row.qo_heads}, place.device());
    }
    const auto copies = static_cast<int>(std::ceil(kColdBytes / row.kv_bytes()));
    calls = place.is_gpu() ? std::max(10, copies) : 1;
    void* data = place.upload(kv_host.data(), kv_host.bytes());
    for (int i = 0; i < (place.is_gpu() ? copies : 1); ++i) {
      kv.emplace_back(i == 0 ? data : place.duplicate(data, kv_host.bytes()), row.kv_dtype,
                      std::initializer_list<std::int64_t>{pages.count, 2, row.page_size,
                                                          row.kv_heads, row.head_dim},
                      place.device());
    }
    place.synchronize();
  }
};

// The plan of a row, with its prefix as a level or in the requests' own tables.
class PlannedRow {
 public:
  PlannedRow(Place& place, const LadderRow& row, const LadderPages& pages, const Limits& limits)
      : place_(place),
        attention_(attention_of(row, place.device())),
        plan_({attention_}, limits),
        levels_(limits.levels) {
    Ints indptr = {0};
    for (const std::int32_t length : row.q_lens) indptr.push_back(indptr.back() + length);
    // On the CPU these are the tensors' memory.
    ints_ = {indptr, row.kv_lens, {0, indptr.back()}, {row.prefix}, row.kv_lens};
    for (std::int32_t& length : ints_[4]) length -= row.prefix;
    batch_.qo_indptr = place.ints(ints_[0]);
    const auto padded = [&](const Ints& table, std::int64_t rows) {
      return PageTable::padded(place.ints(table, rows), row.page_size);
    };
    if (levels_ == 1) {
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
  // With the tensors' copy of KV of this number.
  void run(const RowTensors& tensors, std::size_t copy = 0) {
    const KvCache cache = KvCache::combined(tensors.kv[copy]);
    RunArgs args;
    args.out = tensors.out;
    args.sinks = tensors.sinks;
    args.stream = place_.stream();
    if (levels_ == 1) {
      attention_.run(plan_, tensors.q, cache, args);
    } else {
      attention_.run(plan_, tensors.q, {cache, cache}, args);
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

struct Checked {
  double error = 0;
  bool same = true;
  int faults = 0;  // requests

  // What the weights' rounding to bf16 and that of outputs leave far behind.
  static constexpr double kMostError = 1e-2;
  bool right() const { return error < kMostError && same && faults == 0; }
};

// Runs twice: over what the first run left behind, the second must give the same bits. What plans
// before this one left behind is gone.
Checked checked(Place& place, PlannedRow& planned, const LadderRow& row, const LadderPages& pages,
                RowTensors& tensors) {
  std::fill(tensors.out_host.begin(), tensors.out_host.end(), kNotANumber);
  place.overwrite(tensors.out.data, tensors.out_host);
  Halves first;
  Checked result;
  for (int time = 0; time < 2; ++time) {
    planned.update();
    planned.run(tensors);
    place.download(tensors.out_host, tensors.out.data);
    if (time == 0) first = tensors.out_host;
  }
  result.same = first == tensors.out_host;
  result.error = ladder_error({row, pages, tensors.q_host, tensors.kv_host, tensors.sinks_host},
                              tensors.out_host);
  result.faults = planned.faults();
  return result;
}

double timed_run(const Place& place, PlannedRow& planned, const RowTensors& tensors) {
  return place.device_us(tensors.calls, [&](int i) {
    planned.run(tensors, static_cast<std::size_t>(i) % tensors.kv.size());
  });
}

double timed_update(const Place& place, PlannedRow& planned) {
  return place.device_us(20, [&](int) { planned.update(); });
}

// The figures of a row, one after the other as they become known.
class RowReport {
 public:
  explicit RowReport(const LadderRow& row) : text_("{\"name\": \"" + row.name + "\"") {
    text_ += ", \"kind\": \"" + row.kind + "\"";
  }
  void add(const char* name, const char* format, double value) {
    std::array<char, 64> number{};
    std::snprintf(number.data(), number.size(), format, value);
    text_ += std::string(", \"") + name + "\": " + number.data();
  }
  void add(const char* name, double from, double to) {
    std::array<char, 64> range{};
    std::snprintf(range.data(), range.size(), "[%.4f, %.4f]", from, to);
    text_ += std::string(", \"") + name + "\": " + range.data();
  }
  void add(const char* name, bool value) {
    text_ += std::string(", \"") + name + "\": " + (value ? "true" : "false");
  }
  void print() const {
    std::printf("%s}\n", text_.c_str());
    std::fflush(stdout);
  }

 private:
  std::string text_;
};

double seconds_now() {
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

// Whether the row is right.
bool run_row(const LadderRow& row, Device device) {
  Place place(device);
  const LadderPages pages(row);
  RowTensors tensors(place, row, pages);
  RowReport report(row);
  PlannedRow planned(place, row, pages, limits_of(row, row.prefix > 0 ? 2 : 1));
  Checked check = checked(place, planned, row, pages, tensors);
  const double begin = seconds_now();
  const double us = timed_run(place, planned, tensors);
  const double end = seconds_now();
  report.add("us", "%.2f", us);
  report.add("tflops", "%.1f", row.flops() / us * 1e-6);
  report.add("gbs", "%.0f", row.bytes() / us * 1e-3);
  const double update_us = timed_update(place, planned);
  report.add("update_us", "%.2f", update_us);
  report.add("run_host_us", "%.2f", place.host_us(us, [&] { planned.run(tensors); }));
  report.add("update_host_us", "%.2f", place.host_us(update_us, [&] { planned.update(); }));
  report.add("prepare_s", "%.2f", planned.prepare_s());
  const auto add_plan = [&](const std::string& name, const Limits& limits) {
    PlannedRow other(place, row, pages, limits);
    const Checked also = checked(place, other, row, pages, tensors);
    check.error = std::max(check.error, also.error);
    check.same = check.same && also.same;
    check.faults += also.faults;
    report.add((name + "_us").c_str(), "%.2f", timed_run(place, other, tensors));
    report.add((name + "_update_us").c_str(), "%.2f", timed_update(place, other));
  };
  if (row.prefix > 0) add_plan("flat", limits_of(row, 1));
  if (row.prefill_limit > 0) add_plan("mixed", mixed_limits_of(row));
  report.add("err", "%.1e", std::isfinite(check.error) ? check.error : 9e9);
  report.add("same", check.same);
  report.add("status", "%.0f", check.faults);
  report.add("ok", check.right());
  report.add("timed_s", begin, end);
  report.print();
  return check.right();
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
