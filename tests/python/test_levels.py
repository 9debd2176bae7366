# SPDX-License-Identifier: Apache-2.0
"""KV in levels, in every form of table, against one flat KV in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import tilewright as tw
from reference import assert_close

HEADS, KV_HEADS, DIM = 6, 2, 16
SPEC = dict(num_qo_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, dtype="float32")


@dataclass
class Row:
    """Keys of one row of a level, and the query tokens that see them."""

    tokens: range | list[int]
    k: np.ndarray
    v: np.ndarray
    first: int | None = None  # position of the first key; None: behind the levels before


@dataclass
class Tree:
    """Requests of q_lens[r] query tokens, whose keys are rows of levels, outermost first."""

    q_lens: list[int]
    levels: list[list[Row]]
    q: np.ndarray = field(init=False)

    def __post_init__(self):
        random = np.random.default_rng(11)
        self.q = random.standard_normal((sum(self.q_lens), HEADS, DIM)).astype(np.float32)

    @property
    def qo_indptr(self):
        return np.cumsum([0, *self.q_lens]).astype(np.int32)

    def keys(self, token):
        """k, v and positions of all that a token may see."""
        parts, length = [], 0
        for level in self.levels:
            for row in level:
                if token in row.tokens:
                    first = length if row.first is None else row.first
                    parts.append((row.k, row.v, first + np.arange(len(row.k))))
                    length += len(row.k)
        return tuple(np.concatenate(x) for x in zip(*parts)) if parts else None

    def expected(self, *, mask=lambda q, k: k <= q, q_pos=None, bias=None, sinks=None, soft_cap=0.0):
        """out and lse in float64, one token at a time."""
        out = np.zeros((len(self.q), HEADS, DIM))
        lse = np.full((len(self.q), HEADS), -np.inf)
        for token in range(len(self.q)):
            request = int(np.searchsorted(self.qo_indptr, token, "right")) - 1
            keys = self.keys(token)
            if keys is None:
                continue
            k, v, kv_pos = keys
            here = len(k) - self.qo_indptr[request + 1] + token if q_pos is None else q_pos[token]
            q, k, v = (x.astype(np.float64) for x in (self.q[token], k, v))
            logits = np.einsum("hd,mhd->hm", q, np.repeat(k, HEADS // KV_HEADS, 1)) / np.sqrt(DIM)
            if soft_cap > 0:
                logits = soft_cap * np.tanh(logits / soft_cap)
            if bias is not None:
                logits = logits + bias(here, kv_pos)
            logits = np.where(mask(here, kv_pos), logits, -np.inf)
            if sinks is not None:
                logits = np.concatenate([logits, sinks[:, None]], 1)
                v = np.concatenate([v, np.zeros_like(v[:1])])
            if np.isneginf(logits).all():
                continue
            weights = np.exp(logits)
            lse[token] = np.log(weights.sum(-1))
            out[token] = np.einsum("hm,mhd->hd", weights, np.repeat(v, HEADS // KV_HEADS, 1))
            out[token] /= weights.sum(-1)[:, None]
        return out, lse


def row(tokens, length, seed, first=None):
    random = np.random.default_rng(seed)
    k, v = random.standard_normal((2, length, KV_HEADS, DIM)).astype(np.float32)
    return Row(tokens, k, v, first)


def store(level, form, page_size=4):
    """A level's keys in a form of table: (table, kv_lens or None, kv). What no length covers is NaN or no page."""
    lens = np.array([len(r.k) for r in level], np.int32)
    if form == "ragged":
        kv = tuple(np.concatenate([getattr(r, name) for r in level]) for name in ("k", "v"))
        return tw.PageTable.ragged(np.cumsum([0, *lens]).astype(np.int32)), None, kv
    if form == "contiguous":
        kv = np.full((2, len(level), max(lens.max(), 1), KV_HEADS, DIM), np.nan, np.float32)
        for i, r in enumerate(level):
            kv[0, i, : lens[i]], kv[1, i, : lens[i]] = r.k, r.v
        return tw.PageTable.contiguous(kv.shape[2]), lens, (kv[0], kv[1])
    if form == "slots":
        page_size = 1
    counts = -(-lens // page_size)
    pages = np.random.default_rng(5).permutation(counts.sum() + 3).astype(np.int32)
    cache = np.full((len(pages), 2, page_size, KV_HEADS, DIM), np.nan, np.float32)
    indptr = np.cumsum([0, *counts]).astype(np.int32)
    table = np.full((len(level), counts.max(initial=1)), -(2**31), np.int32)
    for i, r in enumerate(level):
        own = pages[indptr[i] : indptr[i + 1]]
        table[i, : counts[i]] = own
        for t in range(lens[i]):
            cache[own[t // page_size], :, t % page_size] = r.k[t], r.v[t]
    if form == "csr":
        last = (lens - (counts - 1) * page_size).astype(np.int32)
        last[lens == 0] = 1
        return tw.PageTable.csr(indptr, pages[: counts.sum()], page_size, last), None, cache
    if form == "csr with lengths":
        return tw.PageTable.csr(indptr, pages[: counts.sum()], page_size), lens, cache
    if form == "slots":
        return tw.PageTable.token_slots(table), lens, (cache[:, 0, 0], cache[:, 1, 0])
    if form == "padded rows":
        row_ids = np.arange(len(level), dtype=np.int32)[::-1].copy()
        return tw.PageTable.padded(table[::-1].copy(), page_size, row_ids), lens, cache
    return tw.PageTable.padded(table, page_size), lens, cache


FORMS = ["ragged", "contiguous", "slots", "csr", "csr with lengths", "padded", "padded rows"]


def level_of(rows, form, *, by_request=False):
    """A tw.Level and its kv."""
    table, lens, kv = store(rows, form)
    arguments = {"kv_lens": lens}
    if any(isinstance(r.tokens, list) for r in rows):
        arguments["q_rows"] = np.array([t for r in rows for t in r.tokens], np.int32)
        arguments["qo_indptr"] = np.cumsum([0, *(len(r.tokens) for r in rows)]).astype(np.int32)
    elif not by_request:
        arguments["qo_indptr"] = np.array([r.tokens.start for r in rows] + [rows[-1].tokens.stop], np.int32)
    if any(r.first is not None for r in rows):
        arguments["kv_pos"] = np.array([r.first for r in rows], np.int32)
    return tw.Level(table, **arguments), kv


def run(tree, forms, variant=None, *, q_pos=None, plan_arguments=None, **arguments):
    attn = tw.Attention(**SPEC, variant=variant or tw.variants.causal())
    last = len(tree.levels) - 1
    levels = [level_of(rows, form, by_request=i == last) for i, (rows, form) in enumerate(zip(tree.levels, forms))]
    plan = attn.plan(
        qo_indptr=tree.qo_indptr, levels=[level for level, _ in levels], q_pos=q_pos, **(plan_arguments or {})
    )
    return attn.run(plan, tree.q, [kv for _, kv in levels], return_lse=True, **arguments)


def check(tree, forms, **arguments):
    expected, expected_lse = tree.expected()
    out, lse = run(tree, forms, **arguments)
    assert_close(out, expected)
    assert_close(lse, expected_lse)


def shared_prefix():
    own = [row(range(2), 5, 2), row(range(2, 3), 1, 3), row(range(3, 6), 9, 4)]
    return Tree([2, 1, 3], [[row(range(6), 13, 1)], own])


def nested():
    """A prefix of all four requests, one of each pair, and what is a request's own (of the last: nothing but its query)."""
    pairs = [row(range(3), 7, 2), row(range(3, 6), 10, 3)]
    own = [row(range(1), 1, 4), row(range(1, 3), 6, 5), row(range(3, 5), 2, 6), row(range(5, 6), 1, 7)]
    return Tree([1, 2, 2, 1], [[row(range(6), 21, 1)], pairs, own])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("prefix_form", FORMS)
def test_shared_prefix(prefix_form, form):
    check(shared_prefix(), [prefix_form, form])


@pytest.mark.parametrize(
    "forms", [["padded", "ragged", "csr"], ["ragged", "slots", "contiguous"], ["csr", "padded rows", "ragged"]]
)
def test_nested(forms):
    check(nested(), forms)


def test_a_step_beside_the_cache():
    """The cache in pages, and this step's K and V, not written yet, as a ragged level."""
    q_lens, cached = [4, 1, 7], [9, 33, 0]
    indptr = np.cumsum([0, *q_lens])
    tokens = [range(a, b) for a, b in zip(indptr, indptr[1:])]
    old = [row(t, length, 10 + i) for i, (t, length) in enumerate(zip(tokens, cached))]
    new = [row(t, len(t), 20 + i) for i, t in enumerate(tokens)]
    check(Tree(q_lens, [old, new]), ["padded", "ragged"])


def test_some_requests_share_nothing():
    """Requests before and behind those of the prefix."""
    own = [row(range(2), 4, 2), row(range(2, 4), 3, 3), row(range(4, 5), 8, 4), row(range(5, 7), 2, 5)]
    check(Tree([2, 2, 1, 2], [[row(range(2, 5), 11, 1)], own]), ["csr", "ragged"])


def test_a_row_without_keys():
    own = [row(range(2), 2, 2), row(range(2, 3), 1, 3)]
    check(Tree([2, 1], [[row(range(3), 0, 1)], own]), ["padded", "ragged"])


@pytest.mark.parametrize("form", ["padded", "ragged", "contiguous"])
def test_rows_of_any_tokens(form):
    """Requests 0 and 3 share a prefix, 1 and 2 another: rows list their query tokens, in any order."""
    prefixes = [row([5, 0], 9, 1), row([2, 1, 4, 3], 9, 2)]
    own = [row(range(1), 2, 3), row(range(1, 3), 4, 4), row(range(3, 5), 2, 5), row(range(5, 6), 6, 6)]
    tree = Tree([1, 2, 2, 1], [prefixes, own])
    check(tree, [form, "ragged"])
    windowed, _ = run(tree, [form, "padded"], tw.variants.causal(window_left=6))
    assert_close(windowed, tree.expected(mask=lambda q, k: (k <= q) & (k >= q - 6))[0])


def test_rows_cut_a_request():
    """Each query token of a request has keys of its own between the shared ones and those of this step."""
    gathered = [row(range(t, t + 1), 3 + t, 10 + t, first=12) for t in range(5)]
    levels = [[row(range(5), 12, 1)], gathered, [row(range(3), 3, 2, first=20), row(range(3, 5), 2, 3, first=20)]]
    tree = Tree([3, 2], levels)
    q_pos = np.array([20, 21, 22, 20, 21], np.int32)
    out, lse = run(tree, ["padded", "ragged", "ragged"], q_pos=q_pos)
    expected, expected_lse = tree.expected(q_pos=q_pos)
    assert_close(out, expected)
    assert_close(lse, expected_lse)


def test_variants_see_true_positions():
    tree = nested()
    forms = ["padded", "csr", "ragged"]
    for window in (0, 5, 12, 30):
        out, lse = run(tree, forms, tw.variants.causal(window_left=window))
        expected, expected_lse = tree.expected(mask=lambda q, k, window=window: (k <= q) & (k >= q - window))
        assert_close(out, expected)
        assert_close(lse, expected_lse)
    slopes = np.linspace(0.05, 0.4, HEADS).astype(np.float32)
    out, _ = run(tree, forms, tw.variants.alibi(), params={"slope": slopes})
    assert_close(out, tree.expected(bias=lambda q, k: slopes[:, None] * (k - q))[0])
    chunked = tw.variant(mask=lambda c: (c.kv_pos <= c.q_pos) & (c.kv_pos // 8 == c.q_pos // 8))
    assert_close(run(tree, forms, chunked)[0], tree.expected(mask=lambda q, k: (k <= q) & (k // 8 == q // 8))[0])


def test_sinks_count_once():
    tree = nested()
    sinks = np.linspace(-2, 3, HEADS).astype(np.float32)
    out, lse = run(tree, ["padded", "csr", "ragged"], sinks=sinks)
    expected, expected_lse = tree.expected(sinks=sinks.astype(np.float64))
    assert_close(out, expected)
    assert_close(lse, expected_lse)


def test_soft_cap():
    tree = shared_prefix()
    out, _ = run(tree, ["csr", "ragged"], tw.variants.causal(logits_soft_cap=2.0))
    assert_close(out, tree.expected(soft_cap=2.0)[0])


def test_positions_of_rows_and_queries():
    """Keys of a level that lie elsewhere than behind the level before, and queries that are not the last tokens."""
    own = [row(range(2), 6, 2, first=3), row(range(2, 4), 5, 3, first=50)]
    tree = Tree([2, 2], [[row(range(4), 8, 1, first=100)], own])
    q_pos = np.array([4, 103, 52, 200], np.int32)
    out, lse = run(tree, ["padded", "ragged"], q_pos=q_pos)
    expected, expected_lse = tree.expected(q_pos=q_pos)
    assert_close(out, expected)
    assert_close(lse, expected_lse)


def test_prefix_is_read_once():
    """Sixteen requests over a prefix of 512 tokens, 16 own ones each: the bytes of 768 tokens, not of 16 * 528."""
    requests, prefix, own = 16, 512, 16
    rows = [row(range(r, r + 1), own, 2 + r) for r in range(requests)]
    tree = Tree([1] * requests, [[row(range(requests), prefix, 1)], rows])
    attn = tw.Attention(**SPEC)
    shared = attn.plan(
        qo_indptr=tree.qo_indptr,
        levels=[
            tw.Level(tw.PageTable.ragged([0, prefix]), qo_indptr=[0, requests]),
            tw.PageTable.ragged(np.arange(0, (requests + 1) * own, own, np.int32)),
        ],
    )
    flat = attn.plan(qo_indptr=tree.qo_indptr, kv_indptr=np.arange(0, (requests + 1) * (prefix + own), prefix + own))
    assert 4 * shared.stats(attn).kv_bytes < flat.stats(attn).kv_bytes
    assert shared.stats(attn).folded_rows == 0


def test_a_prefix_not_worth_sharing_is_folded():
    attn = tw.Attention(**SPEC)
    levels = [tw.Level(tw.PageTable.ragged([0, 2]), qo_indptr=[0, 2]), tw.PageTable.ragged([0, 300, 600])]
    assert attn.plan(qo_indptr=[0, 1, 2], levels=levels).stats(attn).folded_rows == 1


def test_update_with_levels():
    """One plan, batches of one to three levels."""
    attn = tw.Attention(**SPEC)
    limits = tw.Limits(requests=4, q_tokens=8, q_len=4, kv_len=64, levels=3)
    plan = tw.Plan([attn], limits).prepare()
    for tree, forms in [
        (nested(), ["padded", "csr", "ragged"]),
        (shared_prefix(), ["ragged", "padded"]),
        (Tree([3], [[row(range(3), 12, 1)]]), ["slots"]),
        (nested(), ["slots", "ragged", "contiguous"]),
    ]:
        levels = [
            level_of(rows, form, by_request=i + 1 == len(tree.levels))
            for i, (rows, form) in enumerate(zip(tree.levels, forms))
        ]
        plan.update(tw.Batch(qo_indptr=tree.qo_indptr), tables={attn: [level for level, _ in levels]})
        out, lse = attn.run(plan, tree.q, [kv for _, kv in levels], return_lse=True)
        expected, expected_lse = tree.expected()
        assert_close(out, expected)
        assert_close(lse, expected_lse)


class TestErrors:
    def plan(self, levels, **arguments):
        return tw.Attention(**SPEC).plan(qo_indptr=[0, 2, 3], levels=levels, **arguments)

    def test_plan(self):
        table = tw.PageTable.ragged([0, 4, 9])
        with pytest.raises(tw.InvalidArgument, match="levels is empty"):
            self.plan([])
        with pytest.raises(TypeError, match=r"levels\[0\] is of type ndarray: it must be a Level or a PageTable"):
            self.plan([np.zeros(3)])
        with pytest.raises(tw.InvalidArgument, match=r"levels\[0\].qo_indptr"):
            self.plan([tw.Level(tw.PageTable.ragged([0, 4]), qo_indptr=[0, 4]), table])
        pages = tw.PageTable.padded(np.zeros((1, 2), np.int32), 4)
        with pytest.raises(tw.InvalidArgument, match=r"levels\[0\].kv_lens is missing"):
            self.plan([tw.Level(pages, qo_indptr=[0, 3]), table])
        with pytest.raises(tw.InvalidArgument, match=r"levels\[1\].kv_pos is missing: row 0 covers .* 4 and 5 keys"):
            self.plan([table, tw.Level(tw.PageTable.ragged([0, 4]), qo_indptr=[0, 3])])
        with pytest.raises(tw.InvalidArgument, match=r"levels\[0\].kv_lens\[0\] is 9: levels\[0\] has pages for 8"):
            self.plan([tw.Level(pages, qo_indptr=[0, 3], kv_lens=[9]), table])
        twice = tw.Level(tw.PageTable.ragged([0, 4]), qo_indptr=[0, 3], q_rows=[0, 1, 1])
        with pytest.raises(tw.InvalidArgument, match=r"levels\[0\].q_rows has query token 1 twice"):
            self.plan([twice, table])
        outside = tw.Level(tw.PageTable.ragged([0, 4]), qo_indptr=[0, 3], q_rows=[0, 1, 3])
        with pytest.raises(tw.InvalidArgument, match=r"levels\[0\].q_rows\[2\] is 3: it must be in \[0, 3\)"):
            self.plan([outside, table])
        with pytest.raises(tw.InvalidArgument, match="page_size is given: a KV of levels takes none"):
            self.plan([table], page_size=4)

    def test_limits(self):
        attn = tw.Attention(**SPEC)
        plan = tw.Plan([attn], tw.Limits(requests=2, q_tokens=3, q_len=2, kv_len=12, levels=1))
        table = tw.PageTable.ragged([0, 4, 9])
        prefix = tw.Level(tw.PageTable.ragged([0, 4]), qo_indptr=[0, 3])
        with pytest.raises(tw.Error, match="levels") as raised:
            plan.update(tw.Batch(qo_indptr=[0, 2, 3]), tables={attn: [prefix, table]})
        assert raised.value.code == "limit_exceeded"

    def test_run(self):
        attn = tw.Attention(**SPEC)
        prefix = tw.Level(tw.PageTable.ragged([0, 4]), qo_indptr=[0, 3])
        plan = attn.plan(qo_indptr=[0, 2, 3], levels=[prefix, tw.PageTable.ragged([0, 4, 9])])
        kv = (np.zeros((9, KV_HEADS, DIM), np.float32),) * 2
        with pytest.raises(tw.InvalidArgument, match="kv has 1 levels: the plan's batch has 2"):
            attn.run(plan, np.zeros((3, HEADS, DIM), np.float32), kv)
        with pytest.raises(tw.InvalidArgument, match="kv has 3 levels"):
            attn.run(plan, np.zeros((3, HEADS, DIM), np.float32), [kv, kv, kv])
