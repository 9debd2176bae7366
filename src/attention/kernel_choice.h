// SPDX-License-Identifier: Apache-2.0
// Which kernels there are for a spec on an architecture, in what shape, and which of them a plan
// takes: pure functions, the only place that decides it.
#pragma once

#include <tilewright/kernel_choice.h>

#include <cstdint>
#include <string>
#include <vector>

namespace tilewright {

// What decides a kernel's shape: "sm_86", "sm_90a". Error (invalid_argument) for other texts.
struct CudaTarget {
  int major = 8;
  int minor = 0;
  bool specific = false;  // "a": instructions that this architecture alone has

  static CudaTarget of_arch(const std::string& arch);
};

// Plans whose tiles have few rows, whatever the batch, have a kernel that needs less of an SM;
// those that may have block structures one that reads them.
enum class KernelUse : std::uint8_t { any_batch, decode_only, listed_blocks };

// The kernels of a plan: where its rows are simply the requests, and where they may be any.
struct PlanUses {
  KernelUse requests = KernelUse::any_batch;
  KernelUse rows = KernelUse::any_batch;
};
PlanUses plan_uses(const AttentionSpec& spec, const Limits& limits);

// kernels/attention: decode.h alone, hopper.h, attention.h, scalar.h.
enum class KernelKind : std::uint8_t { decode, hopper, portable, scalar };

// What a kernel is compiled with, and what a launch needs.
struct CudaShape {
  KernelKind kind = KernelKind::portable;
  int block_tokens = 64;
  int decode_stages = 3;
  int threads = 128;
  int blocks_per_sm = 1;
  int shared_bytes = 0;
  bool lists_blocks = false;
  bool one_interval = true;  // a tile's blocks are: else the kernel makes lists
  // KV heads of an item, which as many blocks of threads compute at the same time: a power of two.
  int heads_together = 1;
};
CudaShape cuda_shape(const AttentionSpec& spec, CudaTarget target, KernelUse use);

// Reasons why a plan does not take the kernel of decode alone, and why the kernel of a use is not
// that of Hopper's own instructions. None: it does, it is.
std::vector<std::string> decode_obstacles(const AttentionSpec& spec, const Limits& limits);
std::vector<std::string> hopper_obstacles(const AttentionSpec& spec, CudaTarget target,
                                          KernelUse use);

// As kernels call it: "f16", "f8e4m3".
const char* element_name(DType dtype);

// The text that lists, messages and the cache show a kernel as.
std::string kernel_name(const AttentionSpec& spec, const CudaShape& shape);

// Whether the kernels do what a spec asks for.
Support cuda_supports(const AttentionSpec& spec, CudaTarget target);

// Whole tokens of a page, or of a page's part, that Hopper's kernel copies at a time; 0: rows are
// copied one by one. `page_size`: of a table of pages, 0 where there is none.
int box_tokens(std::int64_t page_size);

}  // namespace tilewright
