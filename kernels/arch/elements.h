// SPDX-License-Identifier: Apache-2.0
// Runs of neighbouring elements of any floating-point type as f32, and back. A run of more than one
// element is loaded and stored by words of up to 16 bytes, to which it must be aligned.
#pragma once

#include "arch/fp8.h"
#include "arch/memory.h"
#include "arch/numeric.h"
#include "arch/types.h"

namespace tw {

// Elements of a run where rows are aligned; kernels take single elements else.
inline constexpr i32 kRun = 8;

// Words of a run, 8, 16 or 32 bytes.
template <i32 words>
TW_DEVICE void load_words(const void* from, u32 (&to)[words]) {
  if constexpr (words == 2) {
    const Bytes8 part = *static_cast<const Bytes8*>(from);
    to[0] = part.word[0];
    to[1] = part.word[1];
  } else {
    static_assert(words % 4 == 0);
#pragma unroll
    for (i32 i = 0; i < words; i += 4) {
      const Bytes16 part = load_16(static_cast<const char*>(from) + i * 4);
#pragma unroll
      for (i32 j = 0; j < 4; ++j) to[i + j] = part.word[j];
    }
  }
}
template <typename T>
inline constexpr bool kIsFp8 = kIsSame<T, f8e4m3> || kIsSame<T, f8e5m2>;

// To global memory: the compiler makes four stores of an assignment where it cannot tell that the
// words are one.
template <i32 words>
TW_DEVICE void store_words(void* to, const u32 (&from)[words]) {
  if constexpr (words == 2) {
    *static_cast<Bytes8*>(to) = Bytes8{{from[0], from[1]}};
  } else {
    static_assert(words % 4 == 0);
#pragma unroll
    for (i32 i = 0; i < words; i += 4) {
      store_global_16(static_cast<char*>(to) + i * 4,
                      Bytes16{{from[i], from[i + 1], from[i + 2], from[i + 3]}});
    }
  }
}

// A run in registers as it lies in memory: what is read before it is needed.
template <typename T, i32 count>
struct Run {
  u32 words[count * sizeof(T) / 4];
};
template <typename T>
struct Run<T, 1> {
  T element;
};

template <i32 count, typename T>
TW_DEVICE Run<T, count> read_run(const T* from) {
  Run<T, count> run;
  if constexpr (count == 1) {
    run.element = *from;
  } else {
    load_words(from, run.words);
  }
  return run;
}
template <typename T, i32 count>
TW_DEVICE void write_run(const Run<T, count>& run, T* to) {
  if constexpr (count == 1) {
    *to = run.element;
  } else {
    store_words(to, run.words);
  }
}

template <typename T, i32 count>
TW_DEVICE void unpack_run(const Run<T, count>& run, float (&to)[count]) {
  if constexpr (count == 1) {
    to[0] = to_float(run.element);
  } else {
#pragma unroll
    for (i32 i = 0; i < count; ++i) {
      if constexpr (sizeof(T) == 4) {
        to[i] = float_of(run.words[i]);
      } else if constexpr (sizeof(T) == 2) {
        to[i] = to_float(T{static_cast<u16>(run.words[i / 2] >> (i % 2 * 16))});
      } else {
        to[i] = to_float(T{static_cast<u8>(run.words[i / 4] >> (i % 4 * 8))});
      }
    }
  }
}
template <typename T, i32 count>
TW_DEVICE Run<T, count> pack_run(const float (&from)[count]) {
  Run<T, count> run;
  if constexpr (count == 1) {
    run.element = from_float<T>(from[0]);
  } else {
    constexpr i32 kEach = 4 / sizeof(T);  // elements of a word
#pragma unroll
    for (i32 i = 0; i < count / kEach; ++i) {
      if constexpr (sizeof(T) == 4) {
        run.words[i] = bits_of(from[i]);
      } else if constexpr (sizeof(T) == 2) {
        run.words[i] = pack<T>(from[2 * i], from[2 * i + 1]);
      } else {
        run.words[i] = 0;
#pragma unroll
        for (i32 j = 0; j < kEach; ++j) {
          run.words[i] |= static_cast<u32>(from_float<T>(from[kEach * i + j]).bits) << (8 * j);
        }
      }
    }
  }
  return run;
}

template <typename T, i32 count>
TW_DEVICE void load_run(const T* from, float (&to)[count]) {
  unpack_run(read_run<count>(from), to);
}
template <typename T, i32 count>
TW_DEVICE void store_run(const float (&from)[count], T* to) {
  write_run(pack_run<T>(from), to);
}

// The value that is left when it is stored as a T.
template <typename T>
TW_DEVICE float rounded_to(float value) {
  return to_float(from_float<T>(value));
}

// Integers of an i32 or i64 tensor.
TW_DEVICE i64 load_index(const void* data, bool is_64, i64 at) {
  return is_64 ? static_cast<const i64*>(data)[at] : static_cast<const i32*>(data)[at];
}

}  // namespace tw
