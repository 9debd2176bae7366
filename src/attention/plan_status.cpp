// SPDX-License-Identifier: Apache-2.0
// What a plan tells of its requests' data: status words, copies of them, debug mode.
#include <algorithm>
#include <array>
#include <string_view>

#include "attention/plan_impl.h"
#include "base/checks.h"
#include "base/environment.h"

namespace tilewright {
namespace {

struct BitText {
  RequestStatus bit;
  std::string_view text;
};
constexpr std::array<BitText, 7> kBits = {{
    {RequestStatus::q_range,
     "q_range (qo_indptr must begin with 0, not decrease, and stay in the plan's limits)"},
    {RequestStatus::kv_len,
     "kv_len (the length must be given, at least 0, and at most the plan's limit and what the page "
     "table holds)"},
    {RequestStatus::page,
     "page (page ids, and the row_ids or indptr that lead to them, must be in the cache and the "
     "table)"},
    {RequestStatus::position, "position (positions must be at most 2^31 - 1)"},
    {RequestStatus::level_rows,
     "level_rows (a level's qo_indptr and q_rows must be well formed, and kv_pos given where a "
     "row's query tokens have different numbers of keys before it)"},
    {RequestStatus::num_requests,
     "num_requests (it must be at least 0, and at most what the plan and qo_indptr have)"},
    {RequestStatus::blocks,
     "blocks (block structures must have rows for all query tokens, and blocks that ascend from 0 "
     "inside the tensors)"},
}};

// The requests that a word is not 0 of; the first few are enough to find the mistake.
std::string list_marked(const std::vector<std::int32_t>& words) {
  constexpr int kMost = 4;
  std::string text;
  int listed = 0;
  int marked = 0;
  for (std::size_t r = 0; r < words.size(); ++r) {
    if (words[r] == 0) continue;
    ++marked;
    if (listed == kMost) continue;
    text += fmt::format("{}request {}: {}", listed > 0 ? "; " : "", r, describe_status(words[r]));
    ++listed;
  }
  if (marked > listed) text += fmt::format("; and {} more", marked - listed);
  return text;
}

}  // namespace

std::string describe_status(std::int32_t word) {
  if (word == 0) return "well";
  std::string text;
  const auto add = [&](std::string_view more) {
    if (!text.empty()) text += ", ";
    text += more;
  };
  auto rest = static_cast<std::uint32_t>(word);
  for (const BitText& known : kBits) {
    const auto bit = static_cast<std::uint32_t>(known.bit);
    if ((rest & bit) != 0) add(known.text);
    rest &= ~bit;
  }
  if (rest != 0) add(fmt::format("{} (no bit of this version)", rest));
  return text;
}

bool debug_of_environment() {
  return environment_asks("TILEWRIGHT_DEBUG");
}

void PlanImpl::check_last_update(Stream stream) {
  if (!debug || cuda == nullptr || !updated || cuda->is_captured(stream)) return;
  const std::vector<std::int32_t> words = cuda->status();
  const std::string marked = list_marked(words);
  if (marked.empty()) return;
  updated = false;
  raise(ErrorCode::invalid_argument,
        "the plan's last update has bad data, and the outputs of these requests are zeros: {}",
        marked);
}

std::vector<std::int32_t> Plan::status() const {
  if (impl_->cuda != nullptr) return impl_->cuda->status();
  return std::vector<std::int32_t>(static_cast<std::size_t>(impl_->num_requests), 0);
}

void Plan::copy_status(const TensorView& words, Stream stream) const {
  impl_->require_updated();
  const int requests = impl_->cuda != nullptr ? impl_->cuda->num_requests() : impl_->num_requests;
  require_rank("words", words, {1});
  require_dtype("words", words, {DType::i32});
  require_device("words", words, Device{});
  require_last_dim_contiguous("words", words);
  require(words.shape[0] >= requests, "words is {}: the plan's batch has {} requests", words,
          requests);
  if (impl_->cuda != nullptr) {
    impl_->cuda->copy_status(words, stream);
  } else {
    std::fill_n(static_cast<std::int32_t*>(words.data), requests, 0);
  }
}

void Plan::set_debug(bool on) {
  impl_->debug = on;
}

bool Plan::debug() const {
  return impl_->debug;
}

}  // namespace tilewright
