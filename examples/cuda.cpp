// SPDX-License-Identifier: Apache-2.0
// A decode step on a GPU. Tensors are the caller's; here the CUDA run time allocates them, which is
// opened by name so that this also builds and ends well where there is none.
#include <dlfcn.h>
#include <tilewright/tilewright.h>

#include <cstdint>
#include <cstdio>
#include <vector>

namespace tw = tilewright;

int main() try {
  const tw::CudaDevice gpu = tw::cuda_info().devices.at(0);
  void* runtime = dlopen("libcudart.so.13", RTLD_NOW);
  if (runtime == nullptr) runtime = dlopen("libcudart.so.12", RTLD_NOW);
  if (runtime == nullptr) return std::puts("nothing to do here: no libcudart.so"), 0;
  const auto allocate =
      reinterpret_cast<int (*)(void**, std::size_t)>(dlsym(runtime, "cudaMalloc"));
  const auto copy =
      reinterpret_cast<int (*)(void*, const void*, std::size_t, int)>(dlsym(runtime, "cudaMemcpy"));
  const tw::Device device{tw::DeviceType::cuda, gpu.index};
  const auto upload = [&](const auto& values) {
    void* data = nullptr;
    allocate(&data, values.size() * sizeof(values[0]));
    copy(data, values.data(), values.size() * sizeof(values[0]), 4);  // by the addresses
    return data;
  };

  tw::AttentionSpec spec;  // bf16, causal
  spec.num_qo_heads = 32, spec.num_kv_heads = 8, spec.head_dim = 128;
  const tw::Attention attention(spec, device);
  tw::Plan plan({attention},
                tw::Limits{4, 4, 1, 256});  // requests, tokens, tokens of one, KV tokens
  plan.prepare();                           // compiles and loads: nothing below does

  tw::Batch batch;  // on the GPU: lengths are read by a kernel
  batch.qo_indptr = {upload(std::vector<std::int32_t>{0, 1, 2, 3, 4}), tw::DType::i32, {5}, device};
  batch.kv_lens = {upload(std::vector<std::int32_t>{5, 16, 100, 41}), tw::DType::i32, {4}, device};
  std::vector<std::int32_t> pages(4 * 16);
  for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<std::int32_t>(i);
  const auto table = tw::PageTable::padded({upload(pages), tw::DType::i32, {4, 16}, device}, 16);
  plan.update(batch, {{attention, table}});

  std::vector<std::uint16_t> halves(64 * 2 * 16 * 8 * 128, 0x3F80);  // 1
  const auto cache =
      tw::KvCache::combined({upload(halves), tw::DType::bf16, {64, 2, 16, 8, 128}, device});
  const tw::TensorView q(upload(halves), tw::DType::bf16, {4, 32, 128}, device);
  tw::RunArgs args;
  args.out = {upload(halves), tw::DType::bf16, {4, 32, 128}, device};
  attention.run(plan, q, cache, args);  // once a layer
  copy(halves.data(), args.out.data, 4 * 32 * 128 * 2, 4);
  std::printf("%s: out %s 1\n", gpu.name.c_str(), halves[0] == 0x3F80 ? "is" : "is not");
} catch (const tw::Error& error) {
  std::printf("nothing to do here: %.60s...\n", error.what());
}
