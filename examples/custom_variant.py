# SPDX-License-Identifier: Apache-2.0
"""A new attention variant, on paged requests, checked against NumPy.

Weights fall with a power of the distance that each head has learned (KERPLE's logarithmic kernel, arXiv 2205.09921),
every query sees the keys near it, and of the far ones every 16th.
"""

import numpy as np
import tilewright as tw

HEADS, KV_HEADS, DIM, PAGE, NEAR = 8, 2, 64, 16, 48

variant = tw.variant(
    logits=lambda s, c: s - c.power * tw.log(1.0 + c.rate * abs(c.q_pos - c.kv_pos)),
    mask=lambda c: (c.kv_pos <= c.q_pos) & ((c.q_pos - c.kv_pos < NEAR) | (c.kv_pos % 16 == 0)),
    params={"power": tw.per_head("float32"), "rate": tw.per_head("float32")},
)
attention = tw.Attention(num_qo_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, dtype="float32", variant=variant)

# Two requests of 200 and 75 tokens, whose last 33 and 1 are queries; pages in any order.
random = np.random.default_rng(0)
kv_lens, q_lens = [200, 75], [33, 1]
cache = random.standard_normal((32, 2, PAGE, KV_HEADS, DIM)).astype(np.float32)
block_table = random.permutation(32).reshape(2, 16)
q = random.standard_normal((sum(q_lens), HEADS, DIM)).astype(np.float32)
params = {"power": np.linspace(0.5, 2, HEADS, dtype=np.float32), "rate": np.linspace(0.1, 1, HEADS, dtype=np.float32)}

plan = attention.plan(qo_indptr=np.cumsum([0, *q_lens]), block_table=block_table, kv_lens=kv_lens, page_size=PAGE)
out = attention.run(plan, q, cache, params=params)


def reference(q, k, v):
    """The same in plain NumPy and float64: q [n, heads, dim], k and v [m, KV heads, dim]."""
    q, k, v = q.astype(np.float64), *(np.repeat(x.astype(np.float64), HEADS // KV_HEADS, 1) for x in (k, v))
    q_pos, kv_pos = np.arange(len(k) - len(q), len(k))[:, None], np.arange(len(k))
    logits = np.einsum("nhd,mhd->hnm", q, k) / np.sqrt(DIM)
    power, rate = (params[name].astype(np.float64)[:, None, None] for name in ("power", "rate"))
    logits -= power * np.log(1 + rate * abs(q_pos - kv_pos))
    seen = (kv_pos <= q_pos) & ((q_pos - kv_pos < NEAR) | (kv_pos % 16 == 0))
    weights = np.where(seen, np.exp(logits), 0)
    return np.einsum("hnm,mhd->nhd", weights / weights.sum(-1, keepdims=True), v)


error, first = 0.0, 0
for request, (q_len, kv_len) in enumerate(zip(q_lens, kv_lens)):
    k, v = (cache[block_table[request], i].reshape(-1, KV_HEADS, DIM)[:kv_len] for i in (0, 1))
    error = max(error, abs(out[first : first + q_len] - reference(q[first : first + q_len], k, v)).max())
    first += q_len
stats = plan.stats(attention)
print(f"largest error {error:.1e}; {stats.blocks} KV blocks computed, {stats.skipped_blocks} proven empty")
assert error < 1e-5
