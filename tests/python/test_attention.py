# SPDX-License-Identifier: Apache-2.0
"""Attention in every form of KV, against float64."""

import ml_dtypes
import numpy as np
import pytest
import tilewright as tw
from reference import DTYPES, Requests, assert_close, attention, causal


def make_attention(dtype="float32", heads=6, kv_heads=2, dim=16, **arguments):
    return tw.Attention(num_qo_heads=heads, num_kv_heads=kv_heads, head_dim=dim, dtype=dtype, **arguments)


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


@pytest.mark.parametrize("page_size", [1, 5, 16])
def test_csr_pages(dtype, page_size):
    batch = Requests.make([1, 7, 1, 3], [33, 7, 1, 48], dtype=dtype)
    cache, indptr, indices, last = batch.paged(page_size)
    attn = make_attention(dtype)
    plan = attn.plan(
        qo_indptr=batch.qo_indptr,
        kv_indptr=indptr,
        kv_indices=indices,
        kv_last_page_len=last,
        page_size=page_size,
    )
    out, lse = attn.run(plan, batch.q, cache, return_lse=True)
    expected, expected_lse = batch.expected(mask=causal)
    assert out.dtype == DTYPES[dtype]
    assert lse.dtype == np.float32
    assert_close(out, expected, dtype)
    assert_close(lse, expected_lse, dtype)


def test_padded_table_with_row_ids(dtype):
    batch = Requests.make([1, 1, 2], [20, 3, 17], dtype=dtype)
    cache, indptr, indices, _ = batch.paged(4)
    table = batch.block_table(indptr, indices)
    rows = np.full((8, table.shape[1] + 2), -7, np.int32)
    row_ids = np.array([5, 0, 3], np.int32)
    rows[row_ids, : table.shape[1]] = table
    attn = make_attention(dtype)
    plan = attn.plan(
        qo_indptr=batch.qo_indptr,
        block_table=rows[:, : table.shape[1]],
        kv_lens=batch.kv_lens,
        page_size=4,
        row_ids=row_ids,
    )
    assert_close(attn.run(plan, batch.q, (cache[:, 0], cache[:, 1])), batch.expected(mask=causal)[0], dtype)


def test_ragged(dtype):
    batch = Requests.make([4, 0, 2, 1], [4, 5, 0, 130], dtype=dtype)
    attn = make_attention(dtype, variant=tw.variants.full())
    plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr)
    out, lse = attn.run(plan, batch.q, (batch.k, batch.v), return_lse=True)
    expected, expected_lse = batch.expected()
    assert_close(out, expected, dtype)
    assert_close(lse, expected_lse, dtype)
    assert (np.asarray(out[4:6]).astype(np.float32) == 0).all(), "requests without keys give 0"
    assert (lse[4:6] == -np.inf).all()


def test_contiguous():
    batch = Requests.make([2, 2, 2], [9, 4, 7])
    k = np.full((3, 9, 2, 16), np.nan, np.float32)
    v = k.copy()
    for r in range(3):
        _, k[r, : batch.kv_lens[r]], v[r, : batch.kv_lens[r]] = batch.request(r)
    attn = make_attention()
    plan = tw.Plan([attn], tw.Limits(requests=3, q_tokens=6, q_len=2, kv_len=9)).prepare()
    plan.update(
        tw.Batch(qo_indptr=batch.qo_indptr, kv_lens=batch.kv_lens), tables={attn: tw.PageTable.contiguous(9)}
    )
    assert_close(attn.run(plan, batch.q, (k, v)), batch.expected(mask=causal)[0])


def test_token_slots():
    batch = Requests.make([1, 1], [11, 6])
    cache, indptr, indices, _ = batch.paged(1)
    table = batch.block_table(indptr, indices)
    attn = make_attention()
    plan = tw.Plan([attn], tw.Limits(requests=2, q_tokens=2, q_len=1, kv_len=11)).prepare()
    plan.update(
        tw.Batch(qo_indptr=batch.qo_indptr, kv_lens=batch.kv_lens),
        tables={attn: tw.PageTable.token_slots(table)},
    )
    slots = (cache[:, 0, 0], cache[:, 1, 0])
    assert_close(attn.run(plan, batch.q, slots), batch.expected(mask=causal)[0])


@pytest.mark.parametrize("form", ["NHD", "HND", "HND pair", "kv first", "interleaved"])
def test_layouts(form):
    batch = Requests.make([1, 5], [19, 12])
    cache, indptr, indices, last = batch.paged(8)
    heads_first = np.ascontiguousarray(cache.swapaxes(2, 3))
    kv, layout = {
        "NHD": (cache, None),
        "HND": (heads_first, "HND"),
        "HND pair": ((heads_first[:, 0], heads_first[:, 1]), "HND"),
        "kv first": (tw.KvCache.combined(np.ascontiguousarray(cache.swapaxes(0, 1)), kv_dim=0), None),
        "interleaved": (tw.KvCache.interleaved(np.concatenate([cache[:, 0], cache[:, 1]], -1), 16), None),
    }[form]
    attn = make_attention()
    plan = attn.plan(
        qo_indptr=batch.qo_indptr, kv_indptr=indptr, kv_indices=indices, kv_last_page_len=last, page_size=8
    )
    assert_close(attn.run(plan, batch.q, kv, layout=layout), batch.expected(mask=causal)[0])


def test_levels_share_a_prefix():
    """Three requests with the same first 12 tokens: the prefix is a row of its own, stored once."""
    random = np.random.default_rng(3)
    prefix_k, prefix_v = random.standard_normal((2, 12, 2, 16)).astype(np.float32)
    batch = Requests.make([2, 1, 3], [5, 1, 9])
    attn = make_attention()
    levels = [
        tw.Level(tw.PageTable.ragged([0, 12]), qo_indptr=[0, 6]),
        tw.PageTable.ragged(batch.kv_indptr),
    ]
    plan = attn.plan(qo_indptr=batch.qo_indptr, levels=levels)
    out, lse = attn.run(plan, batch.q, [(prefix_k, prefix_v), (batch.k, batch.v)], return_lse=True)
    parts = []
    for r in range(3):
        q, k, v = batch.request(r)
        parts.append(attention(q, np.concatenate([prefix_k, k]), np.concatenate([prefix_v, v]), mask=causal))
    assert_close(out, np.concatenate([part[0] for part in parts]))
    assert_close(lse, np.concatenate([part[1] for part in parts]))


@pytest.mark.parametrize("causal_mask", [True, False])
@pytest.mark.parametrize("window_left", [-1, 4])
@pytest.mark.parametrize("soft_cap", [0.0, 3.0])
def test_single_attention(causal_mask, window_left, soft_cap):
    q, k, v = Requests.make([9], [21]).request(0)

    def mask(q_pos, kv_pos):
        seen = (kv_pos <= q_pos) | (not causal_mask)
        return seen & ((kv_pos >= q_pos - window_left) | (window_left < 0))

    out, lse = tw.single_attention(
        q, k, v, causal=causal_mask, window_left=window_left, logits_soft_cap=soft_cap, sm_scale=0.5, return_lse=True
    )
    expected, expected_lse = attention(q, k, v, mask=mask, sm_scale=0.5, soft_cap=soft_cap)
    assert_close(out, expected)
    assert_close(lse, expected_lse)


def test_single_attention_of_a_transposed_view():
    q, k, v = Requests.make([3], [10]).request(0)
    k = np.ascontiguousarray(k.swapaxes(0, 1)).swapaxes(0, 1)
    assert_close(tw.single_attention(q, k, v), attention(q, k, v, mask=causal)[0])


def test_other_value_dim():
    random = np.random.default_rng(0)
    q, k = random.standard_normal((2, 5, 4, 24)).astype(np.float32)
    v = random.standard_normal((5, 4, 8)).astype(np.float32)
    out = tw.single_attention(q, k, v)
    assert out.shape == (5, 4, 8)
    assert_close(out, attention(q, k, v, mask=causal)[0])


def test_scales_sinks_and_given_outputs():
    batch = Requests.make([1, 4], [9, 4])
    sinks = np.linspace(-1, 2, 6).astype(np.float32)
    attn = make_attention()
    plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr)
    out = np.empty((5, 6, 16), np.float32)
    lse = np.empty((6, 5), np.float32).T  # any strides
    result = attn.run(
        plan,
        batch.q,
        (batch.k, batch.v),
        out=out,
        lse=lse,
        q_scale=0.5,
        k_scale=np.array([2.0], np.float32),
        v_scale=np.float32(3.0),
        sinks=sinks,
    )
    assert result is out
    expected, expected_lse = batch.expected(mask=causal, sinks=sinks)
    assert_close(out, 3 * expected)
    assert_close(lse, expected_lse)


def test_narrow_kv():
    batch = Requests.make([1, 2], [9, 14], dtype="bfloat16")
    narrow = ml_dtypes.float8_e4m3fn
    attn_arguments = dict(num_qo_heads=6, num_kv_heads=2, head_dim=16, q_dtype="bf16", kv_dtype=narrow)
    support = tw.supports("cpu", **attn_arguments)
    if not support:
        pytest.skip(support.reason)
    batch.k, batch.v = batch.k.astype(narrow), batch.v.astype(narrow)
    attn = tw.Attention(**attn_arguments)
    assert (attn.q_dtype, attn.kv_dtype, attn.out_dtype) == ("bfloat16", "float8_e4m3fn", "bfloat16")
    plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr)
    out = attn.run(plan, batch.q, (batch.k, batch.v), k_scale=0.5)
    assert_close(out, batch.expected(mask=causal, sm_scale=0.5 / 4)[0], "bfloat16")


def test_run_parameters_by_layer():
    """The soft cap, and a variant's own parameter, may differ from run to run under one plan."""
    batch = Requests.make([3], [8])
    attn = make_attention(variant=tw.variants.causal(logits_soft_cap=1.0))
    plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr)
    kv = (batch.k, batch.v)
    assert_close(attn.run(plan, batch.q, kv), batch.expected(mask=causal, soft_cap=1.0)[0])
    out = attn.run(plan, batch.q, kv, logits_soft_cap=2.5)
    assert_close(out, batch.expected(mask=causal, soft_cap=2.5)[0])

    alibi = make_attention(variant=tw.variants.alibi())
    slopes = np.linspace(0.1, 0.6, 6).astype(np.float32)
    plan = alibi.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr)
    expected, _ = batch.expected(mask=causal, bias=lambda q, k: slopes[:, None, None] * (k - q))
    assert_close(alibi.run(plan, batch.q, kv, params={"slope": slopes}), expected)


@pytest.mark.parametrize("padding", ["keep", "zero"])
def test_padding_rows(padding):
    batch = Requests.make([2], [5])
    q = np.concatenate([batch.q, np.full((3, 6, 16), np.nan, np.float32)])
    attn = make_attention()
    plan = tw.Plan([attn], tw.Limits(requests=1, q_tokens=8, q_len=2, kv_len=5)).prepare()
    plan.update(tw.Batch(qo_indptr=batch.qo_indptr), tables={attn: tw.PageTable.ragged(batch.kv_indptr)})
    out, lse = np.full(q.shape, 7, np.float32), np.full(q.shape[:2], 7, np.float32)
    attn.run(plan, q, (batch.k, batch.v), out=out, lse=lse, padding=padding)
    assert_close(out[:2], batch.expected(mask=causal)[0])
    assert (out[2:] == (7 if padding == "keep" else 0)).all()
    assert (lse[2:] == (7 if padding == "keep" else -np.inf)).all()
    assert (attn.run(plan, q, (batch.k, batch.v))[2:] == 0).all(), "a new output has nothing to keep"


def test_same_bits_whatever_the_threads():
    batch = Requests.make([1, 40, 1, 2], [300, 40, 77, 130])
    attn = make_attention()
    plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr)
    before = tw.num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            tw.set_num_threads(threads)
            assert tw.num_threads() == threads
            results.append(attn.run(plan, batch.q, (batch.k, batch.v)))
    finally:
        tw.set_num_threads(before)
    assert all(np.array_equal(results[0], other) for other in results[1:])
