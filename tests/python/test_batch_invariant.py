# SPDX-License-Identifier: Apache-2.0
"""determinism="batch_invariant": a request's bits depend on nothing but itself."""

import numpy as np
import pytest
import tilewright as tw
from reference import Requests, assert_close, causal

HEADS, KV_HEADS, DIM, PAGE = 6, 2, 16, 4


def attention(dtype, variant=None):
    return tw.Attention(
        num_qo_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, dtype=dtype, variant=variant or tw.variants.causal()
    )


def run(attn, cache, table, kv_lens, q_lens, q):
    plan = attn.plan(
        qo_indptr=np.cumsum([0, *q_lens]),
        block_table=table,
        kv_lens=kv_lens,
        page_size=PAGE,
        determinism="batch_invariant",
    )
    return attn.run(plan, q, cache, return_lse=True)


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b))


@pytest.fixture(params=["float32", "bfloat16"])
def paged(request):
    """A batch of requests in pages, its outputs, and how to run a part of it."""
    attn = attention(request.param)
    batch = Requests.make([1, 40, 1, 7, 16], [300, 75, 2, 130, 16], dtype=request.param)
    cache, indptr, indices, _ = batch.paged(PAGE)
    table = batch.block_table(indptr, indices)
    whole = run(attn, cache, table, batch.kv_lens, batch.q_lens, batch.q)
    assert_close(whole[0], batch.expected(mask=causal)[0], request.param)
    return attn, batch, cache, table, whole


def rows(batch, r):
    return slice(batch.qo_indptr[r], batch.qo_indptr[r + 1])


def test_neighbours(paged):
    attn, batch, cache, table, whole = paged
    random = np.random.default_rng(1)
    for _ in range(20):
        chosen = random.permutation(5)[: random.integers(1, 6)]
        q = np.concatenate([batch.q[rows(batch, r)] for r in chosen])
        kv_lens, q_lens = ([lens[r] for r in chosen] for lens in (batch.kv_lens, batch.q_lens))
        out = run(attn, cache, table[chosen], kv_lens, q_lens, q)
        expected = [np.concatenate([x[rows(batch, r)] for r in chosen]) for x in whole]
        assert same(out, expected)


def test_chunks_of_a_prefill(paged):
    attn, batch, cache, table, whole = paged
    random = np.random.default_rng(2)
    for r in (1, 3, 4):
        first, last = batch.qo_indptr[r], batch.qo_indptr[r + 1]
        while first < last:
            tokens = min(int(random.integers(1, 20)), last - first)
            behind = last - first - tokens
            q = batch.q[first : first + tokens]
            out = run(attn, cache, table[r : r + 1], [batch.kv_lens[r] - behind], [tokens], q)
            assert same(out, [x[first : first + tokens] for x in whole])
            first += tokens


def test_threads(paged):
    attn, batch, cache, table, whole = paged
    before = tw.num_threads()
    try:
        for threads in (1, 3, 4):
            tw.set_num_threads(threads)
            assert same(run(attn, cache, table, batch.kv_lens, batch.q_lens, batch.q), whole)
    finally:
        tw.set_num_threads(before)


def test_shared_prefix(paged):
    """The same keys as levels: a prefix that two requests share, beside one that has them to itself."""
    attn, batch, cache, table, _ = paged
    q = batch.q[:2]
    own = [table[0, 10:15], table[3, 10:15]]
    pages = np.stack([np.concatenate([table[0, :10], pages]) for pages in own])
    flat = run(attn, cache, pages, [58, 57], [1, 1], q)
    levels = [
        tw.Level(tw.PageTable.padded(np.ascontiguousarray(table[:1, :10]), PAGE), qo_indptr=[0, 2], kv_lens=[40]),
        tw.Level(tw.PageTable.padded(np.stack(own), PAGE), kv_lens=[18, 17]),
    ]
    plan = attn.plan(qo_indptr=[0, 1, 2], levels=levels, determinism="batch_invariant")
    assert same(attn.run(plan, q, [cache, cache], return_lse=True), flat)


def test_limits():
    limits = tw.Limits(requests=1, q_tokens=1, q_len=1, kv_len=8, determinism="batch_invariant")
    assert limits.determinism == "batch_invariant"
    attn = attention("float32")
    assert tw.Plan([attn], limits).limits.determinism == "batch_invariant"
