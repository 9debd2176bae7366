# SPDX-License-Identifier: Apache-2.0
"""A first program: four requests decode a token each over a paged KV cache."""

import numpy as np
import tilewright as tw

HEADS, KV_HEADS, DIM, PAGE = 8, 2, 64, 16
random = np.random.default_rng(0)

# A cache of 64 pages, K and V of 16 tokens each, and four requests of these lengths.
cache = np.zeros((64, 2, PAGE, KV_HEADS, DIM), np.float32)
kv_lens = np.array([5, 16, 100, 41], np.int32)
block_table = np.arange(64, dtype=np.int32).reshape(4, 16)  # request r has the pages of row r

# Keys and values go into the cache by slot: page * PAGE + place in the page.
for request, length in enumerate(kv_lens):
    tokens = np.arange(length)
    k, v = random.standard_normal((2, length, KV_HEADS, DIM)).astype(np.float32)
    tw.write_kv_cache(k, v, cache, block_table[request, tokens // PAGE] * PAGE + tokens % PAGE)

# What is computed; then, once a step, who computes which part of it; then one run a layer.
attention = tw.Attention(num_qo_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, dtype="float32")
plan = attention.plan(qo_indptr=np.arange(5), block_table=block_table, kv_lens=kv_lens, page_size=PAGE)
q = random.standard_normal((4, HEADS, DIM)).astype(np.float32)
out, lse = attention.run(plan, q, cache, return_lse=True)

print("out", out.shape, out.dtype, "lse", lse.shape, f"on {tw.num_threads()} threads, {tw.cpu_features()}")
