// SPDX-License-Identifier: Apache-2.0
#include <tilewright/c_kernel_choice.h>
#include <tilewright/kernel_choice.h>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

namespace {

AttentionSpec read_spec(const tw_attention_spec* spec) {
  return read_attention_spec("spec", read_struct("spec", spec));
}

// What a C struct of a choice points to.
struct HeldChoice {
  KernelChoice choice;
  std::vector<const char*> not_decode;
  std::vector<const char*> not_hopper;

  void hold(KernelChoice given) {
    choice = std::move(given);
    const auto point = [](const std::vector<std::string>& texts, std::vector<const char*>& to) {
      to.clear();
      for (const std::string& text : texts) to.push_back(text.c_str());
    };
    point(choice.not_decode, not_decode);
    point(choice.not_hopper, not_hopper);
  }

  tw_kernel_choice as_c() const {
    tw_kernel_choice result{};
    result.kernel = choice.kernel.c_str();
    result.name = choice.name.c_str();
    result.arch = choice.arch.c_str();
    result.not_decode = not_decode.data();
    result.num_not_decode = not_decode.size();
    result.not_hopper = not_hopper.data();
    result.num_not_hopper = not_hopper.size();
    result.lists_blocks = choice.lists_blocks ? 1 : 0;
    result.tile_rows = choice.tile_rows;
    result.block_tokens = choice.block_tokens;
    result.key_stages = choice.key_stages;
    result.value_stages = choice.value_stages;
    result.decode_stages = choice.decode_stages;
    result.threads = choice.threads;
    result.blocks_per_sm = choice.blocks_per_sm;
    result.shared_bytes = choice.shared_bytes;
    result.heads_together = choice.heads_together;
    return result;
  }
};

const std::vector<GpuModel>& models() {
  static const std::vector<GpuModel> list = gpu_models();
  return list;
}

GpuModel read_model(const tw_gpu_model* gpu) {
  const Path path("gpu");
  const tw_gpu_model given = read_struct(path, gpu);
  check_reserved({path, "reserved"}, given.reserved);
  GpuModel model;
  if (given.name != nullptr) model.name = given.name;
  model.arch = &required({path, "arch"}, given.arch);
  model.num_sms = given.num_sms;
  model.l2_bytes = given.l2_bytes;
  model.bytes_per_second = given.bytes_per_second;
  model.operations_per_second = given.operations_per_second;
  return model;
}

std::vector<RequestLengths> read_lengths(const tw_request_lengths* batch, std::size_t count) {
  check_count("count", count);
  const StructList<const tw_request_lengths> list("batch", batch, count);
  std::vector<RequestLengths> result;
  for (std::size_t i = 0; i < count; ++i) {
    const tw_request_lengths given = list.read(i);
    result.push_back(
        {given.requests == 0 ? 1 : given.requests, given.q_len, given.kv_len, given.shared_len});
  }
  return result;
}

}  // namespace

tw_status tw_choose_kernels(const tw_attention_spec* spec, const tw_limits* limits,
                            const char* arch, tw_kernel_choice* requests, tw_kernel_choice* rows) {
  return guarded([&] {
    KernelChoices choices =
        choose_kernels(read_spec(spec), read_limits("limits", limits), &required("arch", arch));
    // Before one of them is written.
    const auto check = [](const char* name, const tw_kernel_choice* choice) {
      if (choice != nullptr) check_size(name, choice->size, sizeof(*choice), sizeof(*choice));
    };
    check("requests", requests);
    check("rows", rows);
    thread_local HeldChoice of_requests, of_rows;
    of_requests.hold(std::move(choices.requests));
    of_rows.hold(std::move(choices.rows));
    if (requests != nullptr) write_struct("requests", requests, of_requests.as_c());
    if (rows != nullptr) write_struct("rows", rows, of_rows.as_c());
  });
}

tw_status tw_gpu_model_names(const char* const** names, size_t* count) {
  return guarded([&] {
    required("names", names);
    required("count", count);
    static const std::vector<const char*> pointers = [] {
      std::vector<const char*> list;
      for (const GpuModel& model : models()) list.push_back(model.name.c_str());
      return list;
    }();
    *names = pointers.data();
    *count = pointers.size();
  });
}

tw_status tw_get_gpu_model(const char* name, tw_gpu_model* model) {
  return guarded([&] {
    const std::string wanted = gpu_model(&required("name", name)).name;  // an Error for others
    for (const GpuModel& known : models()) {
      if (known.name != wanted) continue;
      tw_gpu_model result{};
      result.name = known.name.c_str();
      result.arch = known.arch.c_str();
      result.l2_bytes = known.l2_bytes;
      result.bytes_per_second = known.bytes_per_second;
      result.operations_per_second = known.operations_per_second;
      result.num_sms = known.num_sms;
      write_struct("model", model, result);
    }
  });
}

tw_status tw_limits_of(const tw_request_lengths* batch, size_t count, tw_limits* limits) {
  return guarded(
      [&] { write_struct("limits", limits, c_limits(limits_of(read_lengths(batch, count)))); });
}

tw_status tw_explain_batch(const tw_attention_spec* spec, const tw_limits* limits,
                           const tw_request_lengths* batch, size_t count, const tw_gpu_model* gpu,
                           const tw_param* params, size_t num_params, int64_t page_size,
                           tw_batch_work* work) {
  return guarded([&] {
    const BatchWork explained =
        explain_batch(read_spec(spec), read_limits("limits", limits), read_lengths(batch, count),
                      read_model(gpu), read_params("params", params, num_params), page_size);
    tw_batch_work result{};
    result.requests = explained.requests;
    result.q_tokens = explained.q_tokens;
    result.kv_tokens = explained.kv_tokens;
    result.tiles = explained.stats.tiles;
    result.blocks = explained.stats.blocks;
    result.full_blocks = explained.stats.full_blocks;
    result.skipped_blocks = explained.stats.skipped_blocks;
    result.split_tiles = explained.stats.split_tiles;
    result.kv_bytes_by_tiles = explained.stats.kv_bytes;
    result.a_items = explained.a_items;
    result.b_items = explained.b_items;
    result.a_share = explained.a_share;
    result.b_share = explained.b_share;
    result.balance = explained.balance;
    result.kv_bytes = explained.kv_bytes;
    result.qo_bytes = explained.qo_bytes;
    result.pairs = explained.pairs;
    result.operations = explained.operations;
    result.memory_us = explained.memory_us;
    result.compute_us = explained.compute_us;
    result.workers = explained.workers;
    result.b_workers = explained.b_workers;
    result.box_tokens = explained.box_tokens;
    result.folded_rows = explained.stats.folded_rows;
    write_struct("work", work, result);
  });
}
