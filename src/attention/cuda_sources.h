// SPDX-License-Identifier: Apache-2.0
// The attention kernels of a spec for a GPU: whether there are any, their shape and their sources.
#pragma once

#include <tilewright/attention.h>

#include <string>
#include <vector>

#include "jit/kernel_source.h"

namespace tilewright {

// What decides a kernel's shape: "sm_86", "sm_90a". Error (invalid_argument) for other texts.
struct CudaTarget {
  int major = 8;
  int minor = 0;
  bool specific = false;  // "a": instructions that this architecture alone has

  static CudaTarget of_arch(const std::string& arch);
};

// What a kernel is compiled with, and what a launch needs.
struct CudaShape {
  int block_tokens = 64;
  int decode_stages = 3;
  int threads = 128;
  int blocks_per_sm = 1;
  int shared_bytes = 0;
  bool hopper = false;  // the kernel of Hopper's own instructions (kernels/attention/hopper.h)
  bool decode_only = false;
  bool lists_blocks = false;
  bool one_interval = true;  // a tile's blocks are: else the kernel makes lists
  // KV heads of an item, which as many blocks of threads compute at the same time: a power of two.
  int heads_together = 1;
};
// Plans whose tiles have few rows, whatever the batch, have a kernel that needs less of an SM;
// those that may have block structures one that reads them.
enum class KernelUse : std::uint8_t { any_batch, decode_only, listed_blocks };
CudaShape cuda_shape(const AttentionSpec& spec, CudaTarget target, KernelUse use);

// Whether the kernels do what a spec asks for.
Support cuda_supports(const AttentionSpec& spec, CudaTarget target);

// Entries: kAttentionEntry and kJoinEntry.
inline constexpr std::size_t kAttentionEntry = 0;
inline constexpr std::size_t kJoinEntry = 1;
jit::KernelSource attention_source(const AttentionSpec& spec, CudaTarget target, KernelUse use);
jit::KernelSource attention_source(const AttentionSpec& spec, const CudaShape& shape);

// The kernel that makes plans of `parts` attentions with these masks (see mask_of).
// `lists_blocks`: they may have block structures.
jit::KernelSource plan_source(const std::vector<Variant>& masks, std::size_t parts,
                              bool lists_blocks = false);

}  // namespace tilewright
