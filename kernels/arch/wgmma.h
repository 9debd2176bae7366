// SPDX-License-Identifier: Apache-2.0
// Matrix instructions of a warp group, Hopper (sm_90a) alone: four warps, the first of which has a
// number that 4 divides, multiply 64 rows of A by a tile of B in shared memory. They run
// asynchronously: what they read and write must be left alone until a wait.
//
// D (64 x n, f32) lies as mma.m16n8k16 accumulators do: warp w of the group has rows 16 w to
// 16 w + 15, and with g = lane / 4 and t = lane % 4, d[4 j + 2 h + e] is element (g + 8 h,
// 8 j + 2 t + e) of those. A from registers is as mma.m16n8k16 takes it.
#pragma once

#include "arch/memory.h"
#include "arch/thread.h"
#include "arch/types.h"

namespace tw {

// A matrix of 16-bit elements in shared memory, in rows of 128 bytes whose 16-byte units are
// swizzled: unit u of row r lies at u ^ (r % 8). What is wider than 64 elements is several such
// blocks of columns. Starts at a multiple of 1024 bytes, plus what `at` adds.
struct SharedMatrix {
  u32 start;  // and the bytes from one block of columns to the next: words of 16 bytes

  TW_DEVICE SharedMatrix at(i32 bytes) const { return {start + static_cast<u32>(bytes >> 4)}; }
};
// What instructions are given: 1024 bytes from eight rows to the next eight, swizzled in rows of
// 128 bytes.
#define TW_DESCRIPTOR(matrix) ((1024ULL >> 4 | 1ULL << 30) << 32 | (matrix).start)
// `block_bytes`: from one block of columns to the next; counts where rows are summed over.
TW_DEVICE SharedMatrix shared_matrix(const void* start, i32 block_bytes) {
  return {(shared_address(start) & 0x3FFFF) >> 4 | static_cast<u32>(block_bytes >> 4) << 16};
}

// One that is the same in all lanes, and known to be: instructions take it from uniform registers.
TW_DEVICE SharedMatrix uniform(SharedMatrix matrix) {
  return {static_cast<u32>(uniform(static_cast<i32>(matrix.start)))};
}

// Before the first instruction that uses registers which others wrote.
TW_DEVICE void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Instructions since the last commit become one group.
TW_DEVICE void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most `groups` of the latest groups are still under way.
template <i32 groups>
TW_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory");
}
// Keeps the compiler from moving uses of accumulators across this place.
template <i32 count>
TW_DEVICE void hold_registers(float (&d)[count]) {
#pragma unroll
  for (i32 i = 0; i < count; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// How many registers a thread has from here on; by all warps of a group, once, at the begin of its
// branch. Needs a kernel with launch bounds of one block an SM.
template <i32 count>
TW_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}
template <i32 count>
TW_DEVICE void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

// D = A B, or D += A B where `add`; over 16 elements. `a` is 64 rows, `b` n rows of shared memory
// (keys): both are summed over along their rows.
template <typename T, i32 n>
struct WarpGroupMultiply {
  static_assert(n < 0, "no such instruction is written down here");
};

// Inline assembly takes no loops: operands 0 to n / 2 - 1, by name and as registers.
#define TW_NAMES_0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define TW_NAMES_1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define TW_NAMES_2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define TW_NAMES_3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define TW_NAMES_4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define TW_NAMES_5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define TW_NAMES_6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define TW_NAMES_7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define TW_NAMES_8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define TW_NAMES_9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define TW_NAMES_10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define TW_NAMES_11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define TW_NAMES_12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define TW_NAMES_13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define TW_NAMES_14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define TW_NAMES_15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define TW_REGISTERS_0 \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define TW_REGISTERS_1                                                                     \
  "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), \
      "+f"(d[15])
#define TW_REGISTERS_2                                                                       \
  "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), \
      "+f"(d[23])
#define TW_REGISTERS_3                                                                       \
  "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), \
      "+f"(d[31])
#define TW_REGISTERS_4                                                                       \
  "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), \
      "+f"(d[39])
#define TW_REGISTERS_5                                                                       \
  "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), \
      "+f"(d[47])
#define TW_REGISTERS_6                                                                       \
  "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), \
      "+f"(d[55])
#define TW_REGISTERS_7                                                                       \
  "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), \
      "+f"(d[63])
#define TW_REGISTERS_8                                                                       \
  "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), \
      "+f"(d[71])
#define TW_REGISTERS_9                                                                       \
  "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), \
      "+f"(d[79])
#define TW_REGISTERS_10                                                                      \
  "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), \
      "+f"(d[87])
#define TW_REGISTERS_11                                                                      \
  "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), \
      "+f"(d[95])
#define TW_REGISTERS_12                                                                         \
  "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), \
      "+f"(d[103])
#define TW_REGISTERS_13                                                               \
  "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]), \
      "+f"(d[110]), "+f"(d[111])
#define TW_REGISTERS_14                                                               \
  "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), \
      "+f"(d[118]), "+f"(d[119])
#define TW_REGISTERS_15                                                               \
  "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), \
      "+f"(d[126]), "+f"(d[127])
#define TW_NAMES_N32 TW_NAMES_0 ", " TW_NAMES_1
#define TW_REGISTERS_N32 TW_REGISTERS_0, TW_REGISTERS_1
#define TW_NAMES_N64 TW_NAMES_0 ", " TW_NAMES_1 ", " TW_NAMES_2 ", " TW_NAMES_3
#define TW_REGISTERS_N64 TW_REGISTERS_0, TW_REGISTERS_1, TW_REGISTERS_2, TW_REGISTERS_3
#define TW_NAMES_N80 TW_NAMES_0 ", " TW_NAMES_1 ", " TW_NAMES_2 ", " TW_NAMES_3 ", " TW_NAMES_4
#define TW_REGISTERS_N80 \
  TW_REGISTERS_0, TW_REGISTERS_1, TW_REGISTERS_2, TW_REGISTERS_3, TW_REGISTERS_4
#define TW_NAMES_N96 \
  TW_NAMES_0 ", " TW_NAMES_1 ", " TW_NAMES_2 ", " TW_NAMES_3 ", " TW_NAMES_4 ", " TW_NAMES_5
#define TW_REGISTERS_N96 \
  TW_REGISTERS_0, TW_REGISTERS_1, TW_REGISTERS_2, TW_REGISTERS_3, TW_REGISTERS_4, TW_REGISTERS_5
#define TW_NAMES_N128                                                                        \
  TW_NAMES_0 ", " TW_NAMES_1 ", " TW_NAMES_2 ", " TW_NAMES_3 ", " TW_NAMES_4 ", " TW_NAMES_5 \
             ", " TW_NAMES_6 ", " TW_NAMES_7
#define TW_REGISTERS_N128                                                                         \
  TW_REGISTERS_0, TW_REGISTERS_1, TW_REGISTERS_2, TW_REGISTERS_3, TW_REGISTERS_4, TW_REGISTERS_5, \
      TW_REGISTERS_6, TW_REGISTERS_7
#define TW_NAMES_N160                                                                        \
  TW_NAMES_0 ", " TW_NAMES_1 ", " TW_NAMES_2 ", " TW_NAMES_3 ", " TW_NAMES_4 ", " TW_NAMES_5 \
             ", " TW_NAMES_6 ", " TW_NAMES_7 ", " TW_NAMES_8 ", " TW_NAMES_9
#define TW_REGISTERS_N160                                                                         \
  TW_REGISTERS_0, TW_REGISTERS_1, TW_REGISTERS_2, TW_REGISTERS_3, TW_REGISTERS_4, TW_REGISTERS_5, \
      TW_REGISTERS_6, TW_REGISTERS_7, TW_REGISTERS_8, TW_REGISTERS_9
#define TW_NAMES_N192                                                                         \
  TW_NAMES_0 ", " TW_NAMES_1 ", " TW_NAMES_2 ", " TW_NAMES_3 ", " TW_NAMES_4 ", " TW_NAMES_5  \
             ", " TW_NAMES_6 ", " TW_NAMES_7 ", " TW_NAMES_8 ", " TW_NAMES_9 ", " TW_NAMES_10 \
             ", " TW_NAMES_11
#define TW_REGISTERS_N192                                                                         \
  TW_REGISTERS_0, TW_REGISTERS_1, TW_REGISTERS_2, TW_REGISTERS_3, TW_REGISTERS_4, TW_REGISTERS_5, \
      TW_REGISTERS_6, TW_REGISTERS_7, TW_REGISTERS_8, TW_REGISTERS_9, TW_REGISTERS_10,            \
      TW_REGISTERS_11
#define TW_NAMES_N256                                                                         \
  TW_NAMES_0 ", " TW_NAMES_1 ", " TW_NAMES_2 ", " TW_NAMES_3 ", " TW_NAMES_4 ", " TW_NAMES_5  \
             ", " TW_NAMES_6 ", " TW_NAMES_7 ", " TW_NAMES_8 ", " TW_NAMES_9 ", " TW_NAMES_10 \
             ", " TW_NAMES_11 ", " TW_NAMES_12 ", " TW_NAMES_13 ", " TW_NAMES_14 ", " TW_NAMES_15
#define TW_REGISTERS_N256                                                                         \
  TW_REGISTERS_0, TW_REGISTERS_1, TW_REGISTERS_2, TW_REGISTERS_3, TW_REGISTERS_4, TW_REGISTERS_5, \
      TW_REGISTERS_6, TW_REGISTERS_7, TW_REGISTERS_8, TW_REGISTERS_9, TW_REGISTERS_10,            \
      TW_REGISTERS_11, TW_REGISTERS_12, TW_REGISTERS_13, TW_REGISTERS_14, TW_REGISTERS_15

#define TW_WGMMA(T, type, n, P0, P1, P2, P3, P4, P5)                                             \
  template <>                                                                                    \
  struct WarpGroupMultiply<T, n> {                                                               \
    /* Both from shared memory, summed along their rows. */                                      \
    TW_DEVICE static void shared(float (&d)[n / 2], SharedMatrix a, SharedMatrix b, bool add) {  \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P2                                        \
                   ", 0;\n"                                                                      \
                   "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type               \
                   " {" TW_NAMES_N##n "}, " P0 ", " P1 ", p, 1, 1, 0, 0;\n}"                     \
                   : TW_REGISTERS_N##n                                                           \
                   : "l"(TW_DESCRIPTOR(a)), "l"(TW_DESCRIPTOR(b)), "r"(static_cast<u32>(add)));  \
    }                                                                                            \
    /* A from registers; 16 rows of B are summed over. */                                        \
    TW_DEVICE static void registers(float (&d)[n / 2], const u32 (&a)[4], SharedMatrix b) {      \
      asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " P5                                        \
                   ", 0;\n"                                                                      \
                   "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type               \
                   " {" TW_NAMES_N##n "}, {" P0 ", " P1 ", " P2 ", " P3 "}, " P4                 \
                                      ", p, 1, 1, 1;\n}"                                         \
                   : TW_REGISTERS_N##n                                                           \
                   : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(TW_DESCRIPTOR(b)), "r"(1)); \
    }                                                                                            \
  };
TW_WGMMA(bf16, "bf16", 32, "%16", "%17", "%18", "%19", "%20", "%21")
TW_WGMMA(f16, "f16", 32, "%16", "%17", "%18", "%19", "%20", "%21")
TW_WGMMA(bf16, "bf16", 64, "%32", "%33", "%34", "%35", "%36", "%37")
TW_WGMMA(f16, "f16", 64, "%32", "%33", "%34", "%35", "%36", "%37")
TW_WGMMA(bf16, "bf16", 80, "%40", "%41", "%42", "%43", "%44", "%45")
TW_WGMMA(f16, "f16", 80, "%40", "%41", "%42", "%43", "%44", "%45")
TW_WGMMA(bf16, "bf16", 96, "%48", "%49", "%50", "%51", "%52", "%53")
TW_WGMMA(f16, "f16", 96, "%48", "%49", "%50", "%51", "%52", "%53")
TW_WGMMA(bf16, "bf16", 128, "%64", "%65", "%66", "%67", "%68", "%69")
TW_WGMMA(f16, "f16", 128, "%64", "%65", "%66", "%67", "%68", "%69")
TW_WGMMA(bf16, "bf16", 160, "%80", "%81", "%82", "%83", "%84", "%85")
TW_WGMMA(f16, "f16", 160, "%80", "%81", "%82", "%83", "%84", "%85")
TW_WGMMA(bf16, "bf16", 192, "%96", "%97", "%98", "%99", "%100", "%101")
TW_WGMMA(f16, "f16", 192, "%96", "%97", "%98", "%99", "%100", "%101")
TW_WGMMA(bf16, "bf16", 256, "%128", "%129", "%130", "%131", "%132", "%133")
TW_WGMMA(f16, "f16", 256, "%128", "%129", "%130", "%131", "%132", "%133")
#undef TW_WGMMA
#undef TW_DESCRIPTOR
#undef TW_NAMES_N32
#undef TW_REGISTERS_N32
#undef TW_NAMES_N64
#undef TW_REGISTERS_N64
#undef TW_NAMES_N80
#undef TW_REGISTERS_N80
#undef TW_NAMES_N96
#undef TW_REGISTERS_N96
#undef TW_NAMES_N128
#undef TW_REGISTERS_N128
#undef TW_NAMES_N160
#undef TW_REGISTERS_N160
#undef TW_NAMES_N192
#undef TW_REGISTERS_N192
#undef TW_NAMES_N256
#undef TW_REGISTERS_N256
#undef TW_NAMES_0
#undef TW_REGISTERS_0
#undef TW_NAMES_1
#undef TW_REGISTERS_1
#undef TW_NAMES_2
#undef TW_REGISTERS_2
#undef TW_NAMES_3
#undef TW_REGISTERS_3
#undef TW_NAMES_4
#undef TW_REGISTERS_4
#undef TW_NAMES_5
#undef TW_REGISTERS_5
#undef TW_NAMES_6
#undef TW_REGISTERS_6
#undef TW_NAMES_7
#undef TW_REGISTERS_7
#undef TW_NAMES_8
#undef TW_REGISTERS_8
#undef TW_NAMES_9
#undef TW_REGISTERS_9
#undef TW_NAMES_10
#undef TW_REGISTERS_10
#undef TW_NAMES_11
#undef TW_REGISTERS_11
#undef TW_NAMES_12
#undef TW_REGISTERS_12
#undef TW_NAMES_13
#undef TW_REGISTERS_13
#undef TW_NAMES_14
#undef TW_REGISTERS_14
#undef TW_NAMES_15
#undef TW_REGISTERS_15

}  // namespace tw
