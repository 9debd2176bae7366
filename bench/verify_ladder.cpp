// SPDX-License-Identifier: Apache-2.0
// What speculative verification of chains costs on a GPU, from rows that are in no cache:
//
//   verify_ladder [SUBSTRING] [--vocabulary N] [--drafts N] [--once]
//
// A line has, for 1, 16 and 64 requests, the microseconds of a call in a CUDA graph of several and
// how many times as long as moving the bytes of all rows once that is: as a copy that reads half of
// them and writes as many. All results are compared with the CPU's first; with --once that is all
// (for profilers).
#include <tilewright/tilewright.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "base/numeric.h"
#include "place.h"

namespace tilewright::bench {
namespace {

constexpr std::int64_t kRequests[] = {1, 16, 64};
constexpr std::size_t kColdBytes = std::size_t{400} << 20;
// Requests with rows of their own; the others repeat these.
constexpr std::int64_t kOwn = 4;

struct Case {
  const char* name;
  VerifyInput input = VerifyInput::logits;
  bool with_draft = true;
  float noise = 0.5F;  // of draft logits; the more, the fewer tokens are accepted
  std::int32_t top_k = 0;
  float top_p = 1;
  DType dtype = DType::f32;
};

constexpr Case kCases[] = {
    {"logits"},
    {"logits_rejected", VerifyInput::logits, true, 3},
    {"logits_bf16", VerifyInput::logits, true, 0.5F, 0, 1, DType::bf16},
    {"logits_top_p0.9", VerifyInput::logits, true, 0.5F, 0, 0.9F},
    {"logits_top_k50_top_p0.95", VerifyInput::logits, true, 0.5F, 50, 0.95F},
    {"logits_without_draft", VerifyInput::logits, false},
    {"probabilities", VerifyInput::probabilities},
    {"probabilities_rejected", VerifyInput::probabilities, true, 3},
};

void to_probabilities(float* row, std::int64_t vocabulary) {
  double sum = 0;
  for (std::int64_t i = 0; i < vocabulary; ++i) sum += std::exp(double{row[i]});
  for (std::int64_t i = 0; i < vocabulary; ++i)
    row[i] = static_cast<float>(std::exp(double{row[i]}) / sum);
}

// Rows of one kind in host memory, as the GPU gets them.
struct Rows {
  std::vector<char> bytes;
  DType dtype;
  std::int64_t count;  // of a request
  std::int64_t vocabulary;

  Rows(const Case& c, const std::vector<float>& values, std::int64_t requests, std::int64_t rows,
       std::int64_t row_length)
      : dtype(c.dtype), count(rows), vocabulary(row_length) {
    const std::int64_t each = rows * row_length;
    bytes.resize(static_cast<std::size_t>(requests * each * dtype_bytes(dtype)));
    for (std::int64_t r = 0; r < requests; ++r) {
      for (std::int64_t i = 0; i < each; ++i) {
        store_element(bytes.data(), dtype, r * each + i,
                      values[static_cast<std::size_t>(r % kOwn * each + i)]);
      }
    }
  }

  TensorView view(void* data, std::int64_t requests, Device device) const {
    return {data, dtype, {requests, count, vocabulary}, device};
  }
};

void run(const Case& c, std::int64_t drafts, std::int64_t vocabulary, bool once) {
  std::printf("%-26s", c.name);
  std::minstd_rand random(3);
  std::normal_distribution<float> normal;
  std::vector<float> target(static_cast<std::size_t>(kOwn * (drafts + 1) * vocabulary));
  std::vector<float> draft(static_cast<std::size_t>(kOwn * drafts * vocabulary));
  for (float& x : target) x = 2 * normal(random);
  for (std::int64_t row = 0; row < kOwn * drafts; ++row) {
    const std::int64_t of_target = row / drafts * (drafts + 1) + row % drafts;
    for (std::int64_t i = 0; i < vocabulary; ++i) {
      draft[static_cast<std::size_t>(row * vocabulary + i)] =
          target[static_cast<std::size_t>(of_target * vocabulary + i)] + c.noise * normal(random);
    }
  }
  // Drawn from the draft's distribution.
  Ints own_tokens(static_cast<std::size_t>(kOwn * drafts));
  SamplingArgs drawing;
  drawing.top_k = c.top_k;
  drawing.top_p = c.top_p;
  drawing.seeds = 77;
  std::vector<std::int64_t> steps(own_tokens.size());
  for (std::size_t i = 0; i < steps.size(); ++i) steps[i] = static_cast<std::int64_t>(i);
  drawing.steps = TensorView(steps.data(), DType::i64, {kOwn * drafts});
  sample(TensorView(draft.data(), DType::f32, {kOwn * drafts, vocabulary}), drawing,
         TensorView(own_tokens.data(), DType::i32, {kOwn * drafts}));
  if (c.input == VerifyInput::probabilities) {
    for (std::size_t at = 0; at < target.size(); at += static_cast<std::size_t>(vocabulary))
      to_probabilities(&target[at], vocabulary);
    for (std::size_t at = 0; at < draft.size(); at += static_cast<std::size_t>(vocabulary))
      to_probabilities(&draft[at], vocabulary);
  }
  double accepted = 0;
  for (const std::int64_t requests : kRequests) {
    Place place({DeviceType::cuda, 0});
    Rows targets(c, target, requests, drafts + 1, vocabulary);
    Rows draft_rows(c, draft, requests, drafts, vocabulary);
    const std::size_t bytes =
        targets.bytes.size() + (c.with_draft ? draft_rows.bytes.size() : std::size_t{0});
    const auto copies = static_cast<int>(std::clamp<std::size_t>(kColdBytes / bytes, 2, 100));
    std::vector<TensorView> on_gpu;
    std::vector<TensorView> drafts_on_gpu;
    for (int i = 0; i < copies; ++i) {
      const auto next = [&](const Rows& rows, const std::vector<TensorView>& list) {
        void* const data = list.empty() ? place.upload(rows.bytes.data(), rows.bytes.size())
                                        : place.duplicate(list[0].data, rows.bytes.size());
        return rows.view(data, requests, place.device());
      };
      on_gpu.push_back(next(targets, on_gpu));
      drafts_on_gpu.push_back(next(draft_rows, drafts_on_gpu));
    }
    Ints tokens;
    std::vector<std::int64_t> seeds;
    for (std::int64_t r = 0; r < requests; ++r) {
      seeds.push_back(r);
      for (std::int64_t i = 0; i < drafts; ++i)
        tokens.push_back(own_tokens[static_cast<std::size_t>(r % kOwn * drafts + i)]);
    }
    Ints out(static_cast<std::size_t>(requests * (drafts + 1)), -2);
    Ints emitted(static_cast<std::size_t>(requests), -2);
    Ints expected = out;
    Ints expected_emitted = emitted;
    VerifyArgs args;
    args.input = c.input;
    args.sampling.top_k = c.top_k;
    args.sampling.top_p = c.top_p;
    args.sampling.seeds = TensorView(seeds.data(), DType::i64, {requests});
    const auto draft_of = [&](const TensorView& rows) {
      return c.with_draft ? rows : TensorView{};
    };
    const auto on_host = [&](Ints& values, std::int64_t columns) {
      return TensorView(values.data(), DType::i32, {requests, columns});
    };
    args.draft = draft_of(draft_rows.view(draft_rows.bytes.data(), requests, {}));
    verify_chain(targets.view(targets.bytes.data(), requests, {}), on_host(tokens, drafts), {},
                 args, on_host(expected, drafts + 1),
                 TensorView(expected_emitted.data(), DType::i32, {requests}));
    for (const std::int32_t count : expected_emitted)
      accepted += count / static_cast<double>(requests) / std::size(kRequests);

    const std::int64_t words = verify_workspace_size(requests, drafts + 1);
    const std::vector<std::int64_t> workspace(static_cast<std::size_t>(words));
    args.workspace = TensorView(place.upload(workspace.data(), workspace.size() * 8), DType::i64,
                                {words}, place.device());
    args.sampling.seeds = TensorView(place.upload(seeds.data(), seeds.size() * 8), DType::i64,
                                     {requests}, place.device());
    args.sampling.stream = place.stream();
    const TensorView gpu_tokens = place.ints(tokens, requests);
    const TensorView gpu_out = place.ints(out, requests);
    const TensorView gpu_emitted = place.ints(emitted);
    const auto verify = [&](int i) {
      args.draft = draft_of(drafts_on_gpu[static_cast<std::size_t>(i)]);
      verify_chain(on_gpu[static_cast<std::size_t>(i)], gpu_tokens, {}, args, gpu_out, gpu_emitted);
    };
    verify(0);
    place.download(out, gpu_out.data);
    place.download(emitted, gpu_emitted.data);
    const bool same = out == expected && emitted == expected_emitted;
    double us = 0;
    double moved_us = 1;
    if (!once) {
      us = place.device_us(copies, verify);
      void* const to = place.duplicate(on_gpu[0].data, bytes / 2);
      moved_us = place.device_us(copies, [&](int i) {
        cuda::copy_on_device(to, on_gpu[static_cast<std::size_t>(i)].data, bytes / 2,
                             place.stream());
      });
    }
    std::printf(" %8.1f (%4.2f)%s", us, us / moved_us, same ? "" : " WRONG");
    std::fflush(stdout);
  }
  std::printf("  %.1f accepted\n", accepted);
}

}  // namespace
}  // namespace tilewright::bench

int main(int argc, char** argv) try {
  std::int64_t vocabulary = 128256;
  std::int64_t drafts = 8;
  std::string part;
  bool once = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--vocabulary") == 0 && i + 1 < argc) {
      vocabulary = std::atoll(argv[++i]);
    } else if (std::strcmp(argv[i], "--drafts") == 0 && i + 1 < argc) {
      drafts = std::atoll(argv[++i]);
    } else if (std::strcmp(argv[i], "--once") == 0) {
      once = true;
    } else {
      part = argv[i];
    }
  }
  std::printf("%-26s", "us (of moving), requests:");
  for (const std::int64_t requests : tilewright::bench::kRequests)
    std::printf(" %8lld       ", static_cast<long long>(requests));
  std::printf("\n");
  for (const auto& c : tilewright::bench::kCases) {
    if (std::string(c.name).find(part) != std::string::npos)
      tilewright::bench::run(c, drafts, vocabulary, once);
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
