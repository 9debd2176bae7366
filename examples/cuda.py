# SPDX-License-Identifier: Apache-2.0
"""Attention on a GPU with torch: one CUDA graph of an update and two layers serves batches of other lengths."""

import sys

import tilewright as tw

try:
    import torch

    device = tw.cuda_devices()[0]
    assert torch.cuda.is_available(), "torch sees no GPU"
except (ImportError, AssertionError, tw.Error) as error:
    print("nothing to do here:", str(error).partition(". ")[0])
    sys.exit()

PAGES, PAGE = 256, 16
attention = tw.Attention(num_qo_heads=32, num_kv_heads=8, head_dim=128, dtype="bfloat16", device="cuda")
plan = tw.Plan([attention], tw.Limits(requests=4, q_tokens=64, q_len=64, kv_len=1024)).prepare()

# What every step fills in: it may have fewer requests and tokens than this.
qo_indptr, kv_lens = (torch.zeros(n, dtype=torch.int32, device="cuda") for n in (5, 4))
block_table = torch.arange(PAGES, dtype=torch.int32, device="cuda").view(4, 64)
q = torch.randn(64, 32, 128, device="cuda", dtype=torch.bfloat16)
caches = [torch.randn(PAGES, 2, PAGE, 8, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
outs = [torch.empty_like(q) for _ in caches]

graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    plan.update(tw.Batch(qo_indptr=qo_indptr, kv_lens=kv_lens), tables={attention: tw.PageTable.padded(block_table, PAGE)})
    for cache, out in zip(caches, outs):
        attention.run(plan, q, cache, out=out)

for starts, lens in [([0, 1, 2, 3, 4], [900, 5, 77, 1]), ([0, 60, 61, 61, 61], [300, 41, 0, 0])]:
    qo_indptr.copy_(torch.tensor(starts))
    kv_lens.copy_(torch.tensor(lens))
    graph.replay()
    print(f"{device.name}: lengths {lens}, mean of |out| {outs[1][: starts[-1]].abs().mean():.4f}, status {plan.status()}")
