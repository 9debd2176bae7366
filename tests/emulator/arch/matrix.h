// SPDX-License-Identifier: Apache-2.0
// kernels/arch/matrix.h for the emulator. Layouts are described there.
#pragma once

#include "arch/memory.h"
#include "arch/numeric.h"
#include "arch/types.h"
#include "runtime/machine.h"

namespace tw {

namespace emulator {

struct LoadMatrix {
  const u16* row;
  u32* registers;
};

// What lane 8 i + j points to is row j of matrix i, 8 elements. Lane l gets elements 2 (l % 4) and
// the next one of row l / 4; transposed, of column l / 4.
template <u32 count, bool transposed>
void load_matrix(Warp& warp, u32 phase) {
  const LoadMatrix* lanes[kWarpSize];
  for (i32 lane = 0; lane < kWarpSize; ++lane) {
    lanes[lane] = static_cast<const LoadMatrix*>(warp.operand[phase][lane].pointer);
  }
  for (u32 matrix = 0; matrix < count; ++matrix) {
    const LoadMatrix* const* rows = lanes + 8 * matrix;
    for (u32 lane = 0; lane < kWarpSize; ++lane) {
      const u32 g = lane / 4;
      const u32 t = lane % 4;
      const u32 low = transposed ? rows[2 * t]->row[g] : rows[g]->row[2 * t];
      const u32 high = transposed ? rows[2 * t + 1]->row[g] : rows[g]->row[2 * t + 1];
      lanes[lane]->registers[matrix] = low | high << 16;
    }
  }
}

template <u32 count, bool transposed>
TW_DEVICE void meet_to_load_matrix(u32 (&r)[count], const void* row, Site site) {
  // Lanes beyond the rows may hold any address.
  if (self->lane < static_cast<i32>(8 * count)) check_shared(row, 16, 16, "ldmatrix");
  LoadMatrix operand = {static_cast<const u16*>(row), r};
  meet_with(Point::load_matrix, site, &operand, load_matrix<count, transposed>);
}

struct StoreMatrix {
  u16* row;
  const u32* registers;
};

template <u32 count>
void store_matrix(Warp& warp, u32 phase) {
  for (u32 matrix = 0; matrix < count; ++matrix) {
    for (u32 lane = 0; lane < kWarpSize; ++lane) {
      const auto& from = *static_cast<const StoreMatrix*>(warp.operand[phase][lane].pointer);
      const auto& to =
          *static_cast<const StoreMatrix*>(warp.operand[phase][8 * matrix + lane / 4].pointer);
      to.row[lane % 4 * 2] = static_cast<u16>(from.registers[matrix]);
      to.row[lane % 4 * 2 + 1] = static_cast<u16>(from.registers[matrix] >> 16);
    }
  }
}

struct Multiply {
  float* d;
  const u32* a;
  u32 b[2];
};

// Compilers turn plain loops over 8 columns into shuffles.
using Four [[gnu::vector_size(16), gnu::may_alias]] = float;

template <typename T>
void multiply(Warp& warp, u32 phase) {
  alignas(16) float a[16][16];
  alignas(16) float b[16][8];
  alignas(16) float d[16][8];
  for (u32 lane = 0; lane < kWarpSize; ++lane) {
    const auto& from = *static_cast<const Multiply*>(warp.operand[phase][lane].pointer);
    const u32 g = lane / 4;
    const u32 t = lane % 4;
    for (u32 i = 0; i < 4; ++i) {
      const u32 row = g + 8 * (i % 2);
      const u32 column = 2 * t + 8 * (i / 2);
      a[row][column] = low_of<T>(from.a[i]);
      a[row][column + 1] = high_of<T>(from.a[i]);
      d[row][2 * t + i / 2] = from.d[(i % 2) * 2 + i / 2];
    }
    for (u32 i = 0; i < 2; ++i) {
      b[2 * t + 8 * i][g] = low_of<T>(from.b[i]);
      b[2 * t + 8 * i + 1][g] = high_of<T>(from.b[i]);
    }
  }
  for (u32 row = 0; row < 16; ++row) {
    Four left = *reinterpret_cast<const Four*>(d[row]);
    Four right = *reinterpret_cast<const Four*>(d[row] + 4);
    for (u32 k = 0; k < 16; ++k) {
      left += a[row][k] * *reinterpret_cast<const Four*>(b[k]);
      right += a[row][k] * *reinterpret_cast<const Four*>(b[k] + 4);
    }
    *reinterpret_cast<Four*>(d[row]) = left;
    *reinterpret_cast<Four*>(d[row] + 4) = right;
  }
  for (u32 lane = 0; lane < kWarpSize; ++lane) {
    const auto& to = *static_cast<const Multiply*>(warp.operand[phase][lane].pointer);
    for (u32 i = 0; i < 4; ++i) to.d[i] = d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
  }
}

}  // namespace emulator

TW_DEVICE void load_matrix_x4(u32 (&r)[4], const void* row,
                              emulator::Site s = emulator::Site::here()) {
  emulator::meet_to_load_matrix<4, false>(r, row, s);
}
TW_DEVICE void load_matrix_x2(u32 (&r)[2], const void* row,
                              emulator::Site s = emulator::Site::here()) {
  emulator::meet_to_load_matrix<2, false>(r, row, s);
}
TW_DEVICE void load_matrix_x4_transposed(u32 (&r)[4], const void* row,
                                         emulator::Site s = emulator::Site::here()) {
  emulator::meet_to_load_matrix<4, true>(r, row, s);
}

TW_DEVICE void load_matrix_x4(u32 (&r)[4], SharedPlace place,
                              emulator::Site s = emulator::Site::here()) {
  emulator::meet_to_load_matrix<4, false>(r, place.pointer, s);
}
TW_DEVICE void load_matrix_x4_transposed(u32 (&r)[4], SharedPlace place,
                                         emulator::Site s = emulator::Site::here()) {
  emulator::meet_to_load_matrix<4, true>(r, place.pointer, s);
}
TW_DEVICE void store_matrix_x4(SharedPlace place, const u32 (&r)[4],
                               emulator::Site s = emulator::Site::here()) {
  emulator::check_shared(place.pointer, 16, 16, "stmatrix");
  emulator::StoreMatrix operand = {const_cast<u16*>(reinterpret_cast<const u16*>(place.pointer)),
                                   r};
  emulator::meet_with(emulator::Point::store_matrix, s, &operand, emulator::store_matrix<4>);
}

template <typename T>
TW_DEVICE void multiply_16x8x16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1,
                                emulator::Site site = emulator::Site::here()) {
  static_assert(sizeof(T) == 2, "bf16 or f16");
  emulator::Multiply operand = {d, a, {b0, b1}};
  emulator::meet_with(emulator::Point::multiply, site, &operand, emulator::multiply<T>);
}

}  // namespace tw
