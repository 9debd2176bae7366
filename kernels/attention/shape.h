// SPDX-License-Identifier: Apache-2.0
// Sizes of tiles and of their places in shared memory. `Spec` comes with the generated text:
//
//   struct Spec {
//     using Element = bf16;  // of q and of matrix products; f32 in attention/scalar.h alone
//     using Key = bf16, Value = f8e4m3;  // Element, or fp8; beside f32 queries any
//     using Out = bf16;
//     static constexpr i32 kHeadDim = 128, kValueDim = 128, kGroupSize = 4;
//     static constexpr i32 kBlock = 64;  // keys of a block, as in plan::Config::block_tokens
//     static constexpr i32 kDecodeStages = 3, kBlocksPerSm = 2;
//     static constexpr bool kDecodeOnly = false;   // no tile has more than kDecodeRows rows
//     static constexpr bool kListsBlocks = false;  // plans may have block structures
//     static constexpr bool kHopper = false;       // the kernel of attention/hopper.h
//   };
#pragma once

#include "arch/types.h"
#include "attention/memory_size.h"

namespace tw {

struct Shape {
  using Element = Spec::Element;
  static constexpr i32 kRows = kTileRows;
  static constexpr i32 kBlock = Spec::kBlock;
  static constexpr i32 kDecodeRows = tw::kDecodeRows;
  static constexpr i32 kDecodeWarps = tw::kDecodeWarps;

  // With large heads the accumulators of 32 rows do not fit a warp's registers.
  static constexpr i32 kWarps =
      Spec::kHopper ? kHopperWarps : attention_warps(Spec::kHeadDim, Spec::kValueDim);
  static constexpr i32 kThreads = kWarps * kWarpSize;
  static constexpr i32 kRoundKeys = prefill_round_keys(kThreads, kBlock);
  static constexpr i32 kRowTiles = kRows / (16 * kWarps);  // of 16 rows, a warp

  static constexpr i32 kHeadSteps = round_up(Spec::kHeadDim, 16) / 16;   // of 16 elements
  static constexpr i32 kValueTiles = round_up(Spec::kValueDim, 16) / 8;  // of 8 elements

  static constexpr i32 kHeadUnits = 2 * kHeadSteps;  // 16-byte units that hold elements
  // The same of keys and values as they come from the cache.
  static constexpr i32 kKeyUnits = sizeof(Spec::Key) == 1 ? kHeadSteps : kHeadUnits;
  static constexpr i32 kValueUnits = sizeof(Spec::Value) == 1 ? kValueTiles / 2 : kValueTiles;
  static_assert(sizeof(Spec::Key) != 1 || Spec::kHeadDim % 16 == 0);
  static_assert(sizeof(Spec::Value) != 1 || Spec::kValueDim % 16 == 0);

  static constexpr i32 kDecodeStages = Spec::kDecodeStages;
};

}  // namespace tw
