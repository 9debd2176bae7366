// SPDX-License-Identifier: Apache-2.0
#include "support/simple_batch.h"

#include <algorithm>
#include <utility>

namespace tilewright::test {

SimpleBatch::SimpleBatch(const Dims& d, DType type, std::vector<Request> given,
                         std::int64_t page_size, std::uint64_t seed, std::optional<DType> kv_type)
    : dims(d),
      dtype(type),
      random(seed + 1),
      requests(std::move(given)),
      table(make_table(TableForm::padded, kv_lengths(requests), page_size, random)),
      cache(CacheForm::separate_nhd, table.num_pages, page_size, d, kv_type.value_or(type),
            kv_type.value_or(type)),
      qo_indptr(int_tensor(query_indptr(requests))),
      kv_lens(int_tensor(kv_lengths(requests))),
      tensors(requests, d, type) {
  for (std::size_t r = 0; r < requests.size(); ++r) {
    requests[r].batch = static_cast<std::int64_t>(r);
  }
  fill_cache(cache, table, requests);
}

std::vector<Request> SimpleBatch::draw(const Dims& d, DType type, const Lengths& lengths,
                                       std::uint64_t seed, std::optional<DType> kv_type) {
  const DType kv = kv_type.value_or(type);
  Random random(seed);
  std::vector<Request> requests;
  for (const auto& [q_len, kv_len] : lengths) {
    requests.push_back(random_request(random, d, q_len, kv_len, type, kv, kv));
  }
  return requests;
}

Limits SimpleBatch::limits() const {
  Limits limits;
  limits.requests = static_cast<std::int64_t>(requests.size());
  limits.q_tokens = tensors.tokens;
  for (const Request& request : requests) {
    limits.q_len = std::max(limits.q_len, request.q_len());
    limits.kv_len = std::max(limits.kv_len, request.kv_len());
  }
  return limits;
}

Batch SimpleBatch::batch() const {
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  batch.kv_lens = kv_lens.view();
  return batch;
}

std::vector<PlanInput> SimpleBatch::inputs(const Attention& attention,
                                           const std::vector<ParamValue>& params) const {
  return {PlanInput(attention, {KvLevel{table.table, {}, {}, {}, {}}}, params)};
}

void SimpleBatch::run(Plan& plan, const Attention& attention, const RunArgs& args) const {
  attention.run(plan, tensors.q.view(), cache.view(), args);
}

std::vector<std::uint8_t> SimpleBatch::bits(Plan& plan, const Attention& attention,
                                            const std::vector<ParamValue>& plan_params,
                                            const std::vector<ParamValue>& run_params) {
  tensors.out.refill();
  tensors.lse.refill();
  plan.update(batch(), inputs(attention, plan_params));
  RunArgs args = tensors.args();
  args.params = run_params;
  run(plan, attention, args);
  std::vector<std::uint8_t> all = tensors.out.snapshot();
  const std::vector<std::uint8_t> logs = tensors.lse.snapshot();
  all.insert(all.end(), logs.begin(), logs.end());
  return all;
}

}  // namespace tilewright::test
