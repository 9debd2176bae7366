// SPDX-License-Identifier: Apache-2.0
// Words of all device code: fixed-width integers, function qualifiers, vectors of bytes. Device
// code includes only kernels/ and the scheduler's headers: nothing of the toolkit, whose headers
// alone cost seconds a compile.
#pragma once

#define TW_DEVICE __device__ __forceinline__
// Called, not inlined: large, and used in several places.
#define TW_DEVICE_CALL static __device__ __noinline__
#define TW_SHARED __shared__
// A table of constants, read like global memory.
#define TW_TABLE static __device__ const
// A kernel: found by its plain name in the compiled module.
#define TW_KERNEL extern "C" __global__ void
#define TW_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
// Kernel parameters are read where the driver put them; without this, taking their address copies
// them to the stack.
#define TW_PARAMETER const __grid_constant__

namespace tw {

using i8 = signed char;
using u8 = unsigned char;
using i16 = short;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

static_assert(sizeof(i32) == 4 && sizeof(i64) == 8 && sizeof(void*) == 8);

// 16-bit floats are bits; numeric.h converts them.
struct bf16 {
  u16 bits;
};
struct f16 {
  u16 bits;
};
struct f8e4m3 {
  u8 bits;
};
struct f8e5m2 {
  u8 bits;
};

// 16 bytes, loaded and stored by one instruction.
struct alignas(16) Bytes16 {
  u32 word[4];
};

struct alignas(8) Bytes8 {
  u32 word[2];
};

// A tensor of which bulk copies take boxes (arch/bulk.h): what the driver makes of its description.
struct alignas(64) BoxMap {
  u64 word[16];
};

// NVRTC has no __is_same.
template <typename A, typename B>
inline constexpr bool kIsSame = false;
template <typename A>
inline constexpr bool kIsSame<A, A> = true;

inline constexpr u32 kAllLanes = 0xFFFFFFFFU;
inline constexpr i32 kWarpSize = 32;

}  // namespace tw
