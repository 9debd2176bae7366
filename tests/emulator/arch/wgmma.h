// SPDX-License-Identifier: Apache-2.0
// kernels/arch/wgmma.h for the emulator. Each warp of a group computes its own 16 rows; nothing is
// read or written before a wait, so that what is used too early, or overwritten, shows.
#pragma once

#include "arch/memory.h"
#include "arch/numeric.h"
#include "arch/thread.h"
#include "arch/types.h"
#include "runtime/machine.h"

namespace tw {

struct SharedMatrix {
  const char* start;
  i32 block_bytes;

  TW_DEVICE SharedMatrix at(i32 bytes) const { return {start + bytes, block_bytes}; }
};
TW_DEVICE SharedMatrix shared_matrix(const void* start, i32 block_bytes) {
  return {static_cast<const char*>(start), block_bytes};
}

TW_DEVICE SharedMatrix uniform(SharedMatrix matrix, emulator::Site site = emulator::Site::here()) {
  uniform(0, site);
  return matrix;
}

namespace emulator {

// Of 64-element-wide blocks of columns, rows of 128 bytes, swizzled by their addresses.
inline u16 element_at(const SharedMatrix& m, i32 row, i32 column) {
  const char* const at = m.start + i64{column / 64} * m.block_bytes + (row * 128 + column % 64 * 2);
  const auto* const element = reinterpret_cast<const u16*>(swizzled(at));
  check_shared(element, 2, 2, "wgmma");
  check_fenced(element);
  return *element;
}

// One instruction of one warp, at the time that it takes place.
template <typename T, i32 n>
void multiply_rows(const Product& product) {
  static float a[16][16];
  static float b[16][n];
  const SharedMatrix left{product.a, 0};
  const SharedMatrix right{product.b, product.b_block_bytes};
  const i32 first = product.warp % 4 * 16;
  for (i32 lane = 0; product.a == nullptr && lane < kWarpSize; ++lane) {
    for (i32 i = 0; i < 4; ++i) {
      float* const to = &a[lane / 4 + 8 * (i % 2)][lane % 4 * 2 + 8 * (i / 2)];
      to[0] = low_of<T>(product.registers[lane][i]);
      to[1] = high_of<T>(product.registers[lane][i]);
    }
  }
  for (i32 k = 0; k < 16; ++k) {
    for (i32 r = 0; product.a != nullptr && r < 16; ++r) {
      a[r][k] = low_of<T>(element_at(left, first + r, k));
    }
    for (i32 j = 0; j < n; ++j) {
      b[k][j] = low_of<T>(product.a != nullptr ? element_at(right, j, k) : element_at(right, k, j));
    }
  }
  for (i32 lane = 0; lane < kWarpSize; ++lane) {
    float* const d = product.d[lane];
    for (i32 i = 0; i < n / 2; ++i) {
      const i32 row = lane / 4 + i / 2 % 2 * 8;
      const i32 column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      float sum = product.adds ? d[i] : 0.0F;
      for (i32 k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      d[i] = sum;
    }
  }
}

template <typename T, i32 n>
void issue_product(float* d, const u32* registers, const char* a, SharedMatrix b, bool adds,
                   Site site) {
  struct Issued {
    Product product;
    float* d;
    const u32* registers;
  } operand{{multiply_rows<T, n>, {}, {}, a, b.start, b.block_bytes, adds, 0, 0}, d, registers};
  meet_with(Point::warp_group, site, &operand, [](Warp& warp, u32 phase) {
    Product product = static_cast<const Issued*>(warp.operand[phase][0].pointer)->product;
    product.warp = static_cast<i32>(&warp - warp.block->warps.data());
    product.group = warp.product_groups;
    for (i32 lane = 0; lane < kWarpSize; ++lane) {
      const auto& own = *static_cast<const Issued*>(warp.operand[phase][lane].pointer);
      product.d[lane] = own.d;
      product.registers[lane] = own.registers;
    }
    warp.products.push_back(product);
  });
}

}  // namespace emulator

TW_DEVICE void wgmma_fence(emulator::Site s = emulator::Site::here()) {
  emulator::meet(emulator::Point::warp_group, s);
}
TW_DEVICE void wgmma_commit(emulator::Site s = emulator::Site::here()) {
  emulator::meet(emulator::Point::warp_group, s,
                 [](emulator::Warp& warp, u32) { ++warp.product_groups; });
}
template <i32 groups>
TW_DEVICE void wgmma_wait(emulator::Site s = emulator::Site::here()) {
  emulator::meet(emulator::Point::warp_group, s,
                 [](emulator::Warp& warp, u32) { emulator::finish_products(warp, groups); });
}
template <i32 count>
TW_DEVICE void hold_registers(float (&)[count]) {}
template <i32 count>
TW_DEVICE void take_registers() {}
template <i32 count>
TW_DEVICE void give_registers() {}

template <typename T, i32 n>
struct WarpGroupMultiply {
  TW_DEVICE static void shared(float (&d)[n / 2], SharedMatrix a, SharedMatrix b, bool add,
                               emulator::Site s = emulator::Site::here()) {
    emulator::issue_product<T, n>(d, nullptr, a.start, b, add, s);
  }
  TW_DEVICE static void registers(float (&d)[n / 2], const u32 (&a)[4], SharedMatrix b,
                                  emulator::Site s = emulator::Site::here()) {
    emulator::issue_product<T, n>(d, a, nullptr, b, true, s);
  }
};

}  // namespace tw
