// SPDX-License-Identifier: Apache-2.0
// kernels/arch/types.h for the emulator: the same words, with what the qualifiers mean to a host
// compiler. There is no TW_SHARED: shared memory is shared_memory() alone.
#pragma once

// Inlined always: two tests may compile one source with different settings into one program, and no
// function of one must be taken for the other's.
#define TW_DEVICE [[gnu::always_inline]] inline
#define TW_DEVICE_CALL [[gnu::noinline]] static
#define TW_TABLE [[maybe_unused]] static const
#define TW_KERNEL [[maybe_unused]] static void
#define TW_LAUNCH_BOUNDS(threads, blocks)
#define TW_PARAMETER const

namespace tw {

using i8 = signed char;
using u8 = unsigned char;
using i16 = short;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

// NOLINTBEGIN(readability-identifier-naming)
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
// NOLINTEND(readability-identifier-naming)

// Words of any type's elements, as for nvcc, which takes no notice of types here.
struct alignas(16) Bytes16 {
  u32 word[4];
} __attribute__((may_alias));

struct alignas(8) Bytes8 {
  u32 word[2];
} __attribute__((may_alias));

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
