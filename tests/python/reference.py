# SPDX-License-Identifier: Apache-2.0
"""Attention in float64 NumPy, one request at a time, and batches to try it on."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# Absolute and relative: inputs are exact, so what is left is float32 arithmetic and the output's rounding.
TOLERANCE = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1.6e-2}


def attention(q, k, v, *, mask=None, sm_scale=None, soft_cap=0.0, bias=None, sinks=None):
    """q [n, heads, dim], k and v [m, kv_heads, dim]; mask(q_pos, kv_pos) -> [n, m]. Returns out, lse (natural log)."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    n, heads, dim = q.shape
    m, kv_heads, _ = k.shape
    group = heads // kv_heads
    logits = np.einsum("nhd,mhd->hnm", q, np.repeat(k, group, 1)) * (dim**-0.5 if sm_scale is None else sm_scale)
    if soft_cap > 0:
        logits = soft_cap * np.tanh(logits / soft_cap)
    q_pos, kv_pos = np.arange(m - n, m)[:, None], np.arange(m)[None, :]
    if bias is not None:
        logits = logits + bias(q_pos, kv_pos)
    if mask is not None:
        logits = np.where(mask(q_pos, kv_pos), logits, -np.inf)
    top = logits.max(-1, initial=-np.inf)
    if sinks is not None:
        top = np.maximum(top, np.asarray(sinks, np.float64)[:, None])
    top = np.where(np.isfinite(top), top, 0)[..., None]
    weights = np.exp(logits - top)
    total = weights.sum(-1)
    if sinks is not None:
        total = total + np.exp(np.asarray(sinks, np.float64)[:, None] - top[..., 0])
    with np.errstate(divide="ignore"):
        lse = np.log(total) + top[..., 0]
    out = np.einsum("hnm,mhd->nhd", weights, np.repeat(v, group, 1))
    out = np.divide(out, total.T[..., None], out=np.zeros_like(out), where=total.T[..., None] > 0)
    return out, lse.T


def causal(q_pos, kv_pos):
    return kv_pos <= q_pos


@dataclass
class Requests:
    """A batch of requests with ragged K and V, and the same in pages (what no table names is NaN)."""

    q_lens: list[int]
    kv_lens: list[int]
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    qo_indptr: np.ndarray
    kv_indptr: np.ndarray

    @classmethod
    def make(cls, q_lens, kv_lens, *, heads=6, kv_heads=2, dim=16, dtype="float32", seed=0):
        random = np.random.default_rng(seed)

        def tensor(tokens, count):
            return random.standard_normal((tokens, count, dim)).astype(DTYPES[dtype])

        total_q, total_kv = sum(q_lens), sum(kv_lens)
        return cls(
            q_lens,
            kv_lens,
            tensor(total_q, heads),
            tensor(total_kv, kv_heads),
            tensor(total_kv, kv_heads),
            np.cumsum([0, *q_lens]).astype(np.int32),
            np.cumsum([0, *kv_lens]).astype(np.int32),
        )

    def request(self, r):
        q = self.q[self.qo_indptr[r] : self.qo_indptr[r + 1]]
        tokens = slice(self.kv_indptr[r], self.kv_indptr[r + 1])
        return q, self.k[tokens], self.v[tokens]

    def expected(self, **arguments):
        parts = [attention(*self.request(r), **arguments) for r in range(len(self.q_lens))]
        return np.concatenate([out for out, _ in parts]), np.concatenate([lse for _, lse in parts])

    def paged(self, page_size, seed=1):
        """(cache [pages, 2, page, heads, dim], indptr, indices, last_page_len), pages in random order."""
        counts = [-(-length // page_size) for length in self.kv_lens]
        indptr = np.cumsum([0, *counts]).astype(np.int32)
        pages = sum(counts) + 3
        indices = np.random.default_rng(seed).permutation(pages)[: sum(counts)].astype(np.int32)
        cache = np.full((pages, 2, page_size, *self.k.shape[1:]), np.nan, self.k.dtype)
        for r, length in enumerate(self.kv_lens):
            _, k, v = self.request(r)
            for i in range(length):
                page = indices[indptr[r] + i // page_size]
                cache[page, 0, i % page_size] = k[i]
                cache[page, 1, i % page_size] = v[i]
        last = np.array([length - (count - 1) * page_size for length, count in zip(self.kv_lens, counts)], np.int32)
        return cache, indptr, indices, last

    def block_table(self, indptr, indices):
        columns = max(np.diff(indptr).max(), 1)
        table = np.full((len(self.kv_lens), columns), -(2**31), np.int32)
        for r in range(len(self.kv_lens)):
            pages = indices[indptr[r] : indptr[r + 1]]
            table[r, : len(pages)] = pages
        return table


def assert_close(actual, expected, dtype="float32"):
    tolerance = TOLERANCE[dtype]
    actual = np.asarray(actual).astype(np.float64)
    assert np.array_equal(np.isfinite(actual), np.isfinite(expected))
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
