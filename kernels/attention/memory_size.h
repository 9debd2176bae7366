// SPDX-License-Identifier: Apache-2.0
// How much shared memory an attention kernel takes: for the host, which must say so before the
// kernel is compiled. The kernel checks that its own count (sizeof) is not more.
#pragma once

namespace tw {

constexpr int attention_warps(int head_dim, int value_dim) {
  return head_dim > 128 || value_dim > 128 ? 8 : 4;
}

// See shape.h, prefill.h, decode.h and tile.h for what is counted.
constexpr int attention_shared_bytes(int head_dim, int value_dim, int block, int decode_stages,
                                     bool one_span, bool decode_only) {
  const int head_pitch = (2 * ((head_dim + 15) / 16) + 1) * 16;
  const int value_pitch = (2 * ((value_dim + 15) / 16) + 1) * 16;
  const auto larger = [](int a, int b) { return a > b ? a : b; };
  const int rows = 128;
  const int targets = 24;  // RowTarget
  const int prefill = larger(rows * head_pitch + 2 * block * (head_pitch + value_pitch),
                             rows * (4 * (value_dim + 8) + 8 + targets)) +
                      2 * block * 16 + 4 * block * 4;
  const int ring = decode_stages * 16 * (head_pitch + value_pitch);
  const int decode_warps = 4;
  const int decode = 3 * decode_warps * 16 * 4 + 16 * targets +
                     decode_warps * (2 * 16 * 16 + 4 * 16 * 4) +
                     larger(decode_warps * ring, decode_warps * 16 * 4 * value_dim);
  const int tile = rows * 16 + 8 * 32 + (one_span ? 16 : 1024) + 64;
  const int pieces = 2 * 48 + 72;
  return (decode_only ? decode : larger(prefill, decode)) + tile + pieces + 64;
}

}  // namespace tw
