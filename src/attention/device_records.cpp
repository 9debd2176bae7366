// SPDX-License-Identifier: Apache-2.0
#include "attention/device_records.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

namespace tilewright {

std::byte* DeviceRecords::memory(std::size_t bytes) {
  memory_.push_back(std::make_unique<std::byte[]>(bytes));
  return memory_.back().get();
}

template <typename T>
void DeviceRecords::fetch(T*& array, std::int64_t count) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (array == nullptr) return;
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
  std::byte* const copy = memory(bytes);
  if (bytes > 0) copier_.copy(copy, array, bytes);
  array = reinterpret_cast<T*>(copy);
}

const void* DeviceRecords::fetch_tensor(const void* data, std::int64_t element_bytes, int rank,
                                        const std::int64_t* shape, const std::int64_t* strides) {
  std::int64_t first = 0;
  std::int64_t last = 0;
  for (int dim = 0; dim < rank; ++dim) {
    if (shape[dim] == 0) return memory(0);
    const std::int64_t reach = (shape[dim] - 1) * strides[dim];
    (reach < 0 ? first : last) += reach;
  }
  const auto bytes = static_cast<std::size_t>((last - first + 1) * element_bytes);
  std::byte* const copy = memory(bytes);
  copier_.copy(copy, static_cast<const std::byte*>(data) + first * element_bytes, bytes);
  return copy - first * element_bytes;
}

DeviceRecords::DeviceRecords(const DevicePlan::Part& part, Copier copier)
    : copier_(std::move(copier)) {
  static_cast<plan::View&>(plan_) = part.view;
  plan_.bindings = part.bindings;
  plan::Schedule& schedule = plan_.schedule;
  fetch(schedule.header, 1);
  copier_.wait();
  const plan::Header& header = *schedule.header;
  fetch(plan_.requests, header.num_requests);
  fetch(schedule.rows, header.num_rows);
  fetch(plan_.segments, header.num_segments);
  fetch(schedule.cuts, header.workers + 1);
  fetch(schedule.splits, header.num_splits);
  fetch(plan_.token_levels, header.q_tokens);
  fetch(plan_.token_keys, header.q_tokens);
  fetch(plan_.token_requests, header.q_tokens);
  copier_.wait();
  // What masks and lists of query tokens are asked for; pages are not.
  std::array<std::int64_t, plan::kMaxLevels> entries{};
  for (std::int32_t i = 0; i < header.num_rows; ++i) {
    const plan::Row& row = schedule.rows[i];
    std::int64_t& most = entries[static_cast<std::size_t>(row.level)];
    most = std::max<std::int64_t>(most, std::int64_t{row.q_begin} + row.q_len);
  }
  for (int level = 0; level < plan_.num_levels; ++level) {
    fetch(plan_.levels[level].q_rows, entries[static_cast<std::size_t>(level)]);
  }
  if (plan_.q_pos != nullptr) {
    const std::int64_t tokens = header.q_tokens;
    plan_.q_pos = static_cast<const std::int32_t*>(
        fetch_tensor(plan_.q_pos, sizeof(std::int32_t), 1, &tokens, &plan_.q_pos_stride));
  }
  if (plan_.blocks.defined()) {
    fetch(plan_.blocks.request_rows, header.num_requests + 1);
    fetch(plan_.blocks.indptr, std::int64_t{plan_.blocks.num_lists} + 1);
    fetch(plan_.blocks.indices, plan_.blocks.num_entries);
    fetch(plan_.blocks.full, plan_.blocks.num_entries);
  }
  for (BoundParam& param : plan_.bindings.params) {
    if (!param.bound || param.data == nullptr) continue;
    param.data = fetch_tensor(param.data, dtype_bytes(param.dtype), param.rank, param.shape.data(),
                              param.strides.data());
  }
  copier_.wait();
}

}  // namespace tilewright
