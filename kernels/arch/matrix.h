// SPDX-License-Identifier: Apache-2.0
// Matrix instructions of a warp, Ampere and later: D = A B + D on 16 x 8 x 16 fragments, and the
// loads that bring fragments from shared memory. Layouts are those of the PTX manual,
// "mma.m16n8k16": lane l holds, with g = l / 4 and t = l % 4,
//   A (16 x 16): a[0] = (g, 2t..2t+1), a[1] = (g + 8, 2t..), a[2] = (g, 2t + 8..), a[3] = (g + 8,
//   2t + 8..) B (16 x 8):  b[0] = rows 2t..2t+1 of column g, b[1] = rows 2t + 8.. of column g D (16
//   x 8):  d[0..1] = (g, 2t..2t+1), d[2..3] = (g + 8, 2t..2t+1)
#pragma once

#include "arch/memory.h"
#include "arch/types.h"

namespace tw {

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8, 16
// bytes. Matrix i lands in r[i] of all lanes as a B (or half of an A) fragment.
TW_DEVICE void load_matrix_x4(u32 (&r)[4], SharedPlace place) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(place.address)
               : "memory");
}
TW_DEVICE void load_matrix_x4(u32 (&r)[4], const void* row) {
  load_matrix_x4(r, SharedPlace{shared_address(row)});
}
TW_DEVICE void load_matrix_x2(u32 (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
// The same, each matrix transposed.
TW_DEVICE void load_matrix_x4_transposed(u32 (&r)[4], SharedPlace place) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(place.address)
               : "memory");
}
TW_DEVICE void load_matrix_x4_transposed(u32 (&r)[4], const void* row) {
  load_matrix_x4_transposed(r, SharedPlace{shared_address(row)});
}
// The other way, Hopper and later: r[i] of all lanes becomes matrix i.
TW_DEVICE void store_matrix_x4(SharedPlace place, const u32 (&r)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(place.address),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory");
}

template <typename T>
TW_DEVICE void multiply_16x8x16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);

template <>
TW_DEVICE void multiply_16x8x16<bf16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
TW_DEVICE void multiply_16x8x16<f16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace tw
