// SPDX-License-Identifier: Apache-2.0
#include <tilewright/block_structure.h>
#include <tilewright/c_plan.h>

#include "c_api/handles.h"

using namespace tilewright;
using namespace tilewright::c_api;

tw_status tw_block_structure_make(const tw_variant* variant, const tw_batch* batch,
                                  const tw_param* params, size_t num_params, int64_t q_block,
                                  int64_t kv_block, int32_t num_qo_heads, int32_t num_kv_heads,
                                  tw_block_structure* blocks, tw_block_memory** memory) {
  return guarded([&] {
    required("memory", memory);
    const BlockStructure made =
        block_structure(required("variant", variant).variant, read_batch("batch", batch),
                        read_params("params", params, num_params), q_block == 0 ? 64 : q_block,
                        kv_block == 0 ? 64 : kv_block, num_qo_heads, num_kv_heads);
    auto owner = std::make_unique<tw_block_memory>(tw_block_memory{made.memory});
    tw_block_structure result{};
    result.q_block = made.q_block;
    result.kv_block = made.kv_block;
    result.num_kv_heads = made.num_kv_heads;
    result.request_rows = c_tensor(made.request_rows);
    result.indptr = c_tensor(made.indptr);
    result.indices = c_tensor(made.indices);
    result.full = c_tensor(made.full);
    result.memory = owner.get();
    write_struct("blocks", blocks, result);
    *memory = owner.release();
  });
}

void tw_block_memory_destroy(tw_block_memory* memory) {
  give_back(memory);
}
