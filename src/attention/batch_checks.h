// SPDX-License-Identifier: Apache-2.0
// Checks of integer tensors that describe a batch. Their messages name the field, as in
// "levels[0].indptr[3] is 7".
#pragma once

#include <tilewright/plan.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <string_view>
#include <utility>

#include "base/checks.h"

namespace tilewright {

// "levels[0].indices": a name that becomes text only when a message needs it, and never allocates.
struct FieldName {
  struct Text {
    std::array<char, 40> characters{};
    std::size_t size = 0;
    operator std::string_view() const {  // NOLINT(google-explicit-constructor)
      return {characters.data(), size};
    }
  };

  int level;
  const char* field;

  // Without fmt: every update makes some of them, and few are read.
  Text text() const {
    Text text;
    const auto add = [&](std::string_view part) {
      const std::size_t size = std::min(part.size(), text.characters.size() - text.size);
      std::copy_n(part.data(), size, text.characters.data() + text.size);
      text.size += size;
    };
    if (level < 0) {
      add("batch.");
    } else {
      std::array<char, 12> digits;
      const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), level).ptr;
      add("levels[");
      add({digits.data(), static_cast<std::size_t>(end - digits.data())});
      add("].");
    }
    add(field);
    return text;
  }
};

}  // namespace tilewright

template <>
struct fmt::formatter<tilewright::FieldName> : fmt::formatter<std::string_view> {
  auto format(const tilewright::FieldName& name, fmt::format_context& context) const {
    return fmt::formatter<std::string_view>::format(name.text(), context);
  }
};

namespace tilewright {

// Positions are 32-bit numbers.
inline constexpr std::int64_t kMaxPosition32 = std::numeric_limits<std::int32_t>::max();

inline std::int64_t element(const TensorView& tensor, std::int64_t i) {
  return static_cast<const std::int32_t*>(tensor.data)[i * tensor.strides[0]];
}

// A rank-1 i32 tensor of `count` elements (-1: any).
inline void require_integers(std::string_view name, const TensorView& tensor, std::int64_t count,
                             Device device) {
  require_rank(name, tensor, {1});
  require_dtype(name, tensor, {DType::i32});
  require_device(name, tensor, device);
  require_shape(name, tensor, {count});
}

// `what` and its arguments name the value.
template <typename... Args>
void require_limit(std::int64_t value, std::string_view limit, std::int64_t most,
                   fmt::format_string<Args...> what, Args&&... args) {
  if (value <= most) return;
  raise(ErrorCode::limit_exceeded, "{} is {}: the plan's limit ({}) is {}",
        fmt::format(what, std::forward<Args>(args)...), value, limit, most);
}

// [indptr[i], indptr[i + 1]) for all i < count.
inline void require_indptr(std::string_view name, const TensorView& indptr, std::int64_t count,
                           bool from_zero) {
  const std::int64_t first = element(indptr, 0);
  require(from_zero ? first == 0 : first >= 0, "{}[0] is {}: it must be {}", name, first,
          from_zero ? "0" : "at least 0");
  for (std::int64_t i = 0; i < count; ++i) {
    require(element(indptr, i) <= element(indptr, i + 1),
            "{}[{}] is {} and {}[{}] is {}: it must not decrease", name, i, element(indptr, i),
            name, i + 1, element(indptr, i + 1));
  }
}

inline void require_interleave(const KvInterleave& shard) {
  require(shard.size >= 1 && shard.size <= kMaxPosition32 && shard.world >= 1 &&
              shard.world <= kMaxPosition32 && shard.rank >= 0 && shard.rank < shard.world,
          "batch.interleave has size {}, world {}, rank {}: size and world must be in [1, 2^31), "
          "rank in [0, world)",
          shard.size, shard.world, shard.rank);
}

}  // namespace tilewright
