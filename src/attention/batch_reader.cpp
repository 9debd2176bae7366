// SPDX-License-Identifier: Apache-2.0
#include "attention/batch_reader.h"

#include <algorithm>

#include "attention/batch_checks.h"
#include "attention/level_reader.h"

namespace tilewright {

BatchReader::BatchReader(const Batch& batch, const Limits& limits, Device device)
    : batch_(batch), limits_(limits), device_(device) {
  require_integers("batch.qo_indptr", batch.qo_indptr, -1, device);
  require(batch.qo_indptr.shape[0] >= 1,
          "batch.qo_indptr is {}: it must have one entry more than there are requests",
          batch.qo_indptr);
  std::int64_t requests = batch.qo_indptr.shape[0] - 1;
  if (batch.num_requests.defined()) {
    require_integers("batch.num_requests", batch.num_requests, 1, device);
    const std::int64_t live = element(batch.num_requests, 0);
    require(live >= 0 && live <= requests,
            "batch.num_requests is {}: it must be in [0, {}], the requests of qo_indptr", live,
            requests);
    requests = live;
  }
  require_limit(requests, "requests", limits.requests, "the number of requests");
  num_requests_ = static_cast<int>(requests);
  require_indptr("batch.qo_indptr", batch.qo_indptr, requests, true);
  require_limit(q_begin(requests), "q_tokens", limits.q_tokens, "the number of query tokens");
  for (std::int64_t r = 0; r < requests; ++r) {
    require_limit(q_begin(r + 1) - q_begin(r), "q_len", limits.q_len,
                  "the query length of request {}", r);
  }
  if (batch.kv_lens.defined()) {
    require_rank("batch.kv_lens", batch.kv_lens, {1});
    require(batch.kv_lens.shape[0] >= requests, "batch.kv_lens is {}: it must have {} entries",
            batch.kv_lens, requests);
    require_integers("batch.kv_lens", batch.kv_lens, -1, device);
  }
  const KvInterleave& shard = batch.interleave;
  require_interleave(shard);
  require(shard.world == 1 || batch.q_pos.defined() || batch.q_pos_offset.defined(),
          "batch.interleave has world {}: q_pos or q_pos_offset must be given", shard.world);
  require(!batch.q_pos.defined() || !batch.q_pos_offset.defined(),
          "batch.q_pos and batch.q_pos_offset are both given: at most one");
  if (batch.q_pos.defined()) {
    require_integers("batch.q_pos", batch.q_pos, -1, device);
    require(batch.q_pos.shape[0] >= q_begin(requests),
            "batch.q_pos is {}: it must have {} entries, one a query token", batch.q_pos,
            q_begin(requests));
  }
  if (batch.q_pos_offset.defined()) {
    require_integers("batch.q_pos_offset", batch.q_pos_offset, -1, device);
    require(batch.q_pos_offset.shape[0] >= requests,
            "batch.q_pos_offset is {}: it must have {} entries", batch.q_pos_offset, requests);
    for (std::int64_t r = 0; r < requests; ++r) {
      const std::int64_t last = element(batch.q_pos_offset, r) + q_begin(r + 1) - q_begin(r) - 1;
      require(last <= kMaxPosition32,
              "batch.q_pos_offset[{}] is {}: the request's last query token would be at {}, beyond "
              "2^31 - 1",
              r, element(batch.q_pos_offset, r), last);
    }
  }
}

std::int64_t BatchReader::q_begin(std::int64_t request) const {
  return element(batch_.qo_indptr, request);
}

void BatchReader::read_requests(cpu::AttentionPlan& plan) const {
  for (int r = 0; r < num_requests_; ++r) {
    plan.requests[r] = {static_cast<std::int32_t>(q_begin(r)),
                        static_cast<std::int32_t>(q_begin(r + 1) - q_begin(r)), 0, 0};
  }
}

void BatchReader::read_lengths(cpu::AttentionPlan& plan) const {
  if (plan.token_levels == nullptr) {
    const plan::Header& header = *plan.schedule.header;
    for (int i = 0; i < header.num_rows; ++i) {
      const plan::Row& row = plan.schedule.rows[i];
      plan.requests[row.index].kv_len = row.kv_len;
    }
    return;
  }
  for (int r = 0; r < num_requests_; ++r) {
    plan::Request& request = plan.requests[r];
    for (std::int32_t i = 0; i < request.q_len; ++i) {
      request.kv_len = std::max(request.kv_len, plan.token_keys[request.q_begin + i]);
    }
  }
}

void BatchReader::read_positions(cpu::AttentionPlan& plan) const {
  const KvInterleave& shard = batch_.interleave;
  plan.interleave = {shard.size, shard.world, shard.rank};
  plan.q_pos =
      batch_.q_pos.defined() ? static_cast<const std::int32_t*>(batch_.q_pos.data) : nullptr;
  plan.q_pos_stride = batch_.q_pos.defined() ? batch_.q_pos.strides[0] : 1;
  for (int r = 0; r < num_requests_; ++r) {
    plan::Request& request = plan.requests[r];
    request.q_pos = batch_.q_pos_offset.defined()
                        ? static_cast<std::int32_t>(element(batch_.q_pos_offset, r))
                        : request.kv_len - request.q_len;
  }
}

void BatchReader::read(const PlanInput& input, const TokenMemory& tokens,
                       cpu::AttentionPlan& plan) const {
  const auto levels = static_cast<int>(input.levels.size());
  require(levels >= 1, "levels is empty: an attention's KV has at least one");
  require_limit(levels, "levels", limits_.levels, "the number of levels");
  require(levels == 1 || batch_.interleave.world == 1,
          "batch.interleave has world {}: with {} levels it must be 1", batch_.interleave.world,
          levels);
  plan.num_levels = levels;
  plan::Header& header = *plan.schedule.header;
  header = {};
  header.num_requests = num_requests_;
  header.q_tokens = static_cast<std::int32_t>(q_begin(num_requests_));
  read_requests(plan);
  const bool rows_are_requests =
      levels == 1 && !input.levels[0].qo_indptr.defined() && !input.levels[0].q_rows.defined();
  plan.token_levels = rows_are_requests ? nullptr : tokens.levels;
  plan.token_keys = rows_are_requests ? nullptr : tokens.keys;
  if (!rows_are_requests) {
    std::fill_n(plan.token_levels, header.q_tokens, std::uint8_t{0});
    std::fill_n(plan.token_keys, header.q_tokens, 0);
  }
  for (int level = 0; level < levels; ++level) {
    LevelReader(batch_, limits_, device_, plan, input.levels[static_cast<std::size_t>(level)],
                level)
        .read();
  }
  read_lengths(plan);
  read_positions(plan);
}

}  // namespace tilewright
