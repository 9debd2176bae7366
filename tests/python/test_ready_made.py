# SPDX-License-Identifier: Apache-2.0
"""The ready-made variants and the helpers that make their tables."""

import numpy as np
import pytest
import tilewright as tw
from reference import Requests, assert_close, attention
from tilewright import variants

SPEC = dict(num_qo_heads=6, num_kv_heads=2, head_dim=16, dtype="float32")


@pytest.fixture
def batch():
    return Requests.make([9, 1, 40], [9, 30, 70])


@pytest.fixture
def random():
    return np.random.default_rng(3)


def run(variant, batch, plan_params=None, **arguments):
    attn = tw.Attention(**SPEC, variant=variant)
    plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr, params=plan_params)
    return attn.run(plan, batch.q, (batch.k, batch.v), **arguments)


def check(variant, batch, masks, plan_params=None, **arguments):
    """masks: for each request a matrix [q_len, kv_len] of booleans."""
    parts = [attention(*batch.request(r), mask=lambda q, k, r=r: masks[r])[0] for r in range(len(masks))]
    assert_close(run(variant, batch, plan_params, **arguments), np.concatenate(parts))


def by_formula(batch, formula):
    masks = []
    for q_len, kv_len in zip(batch.q_lens, batch.kv_lens):
        q, k = np.arange(kv_len - q_len, kv_len)[:, None], np.arange(kv_len)[None, :]
        masks.append(np.broadcast_to(formula(q, k), (q_len, kv_len)))
    return masks


FORMULAS = {
    "full": (variants.full(), lambda q, k: k >= 0),
    "sliding_window": (variants.sliding_window(5, 3), lambda q, k: (k >= q - 5) & (k <= q + 3)),
    "attention_sink": (variants.attention_sink(2, 6), lambda q, k: (k <= q) & ((k < 2) | (k >= q - 6))),
    "chunked_local": (variants.chunked_local(12), lambda q, k: (k <= q) & (k // 12 == q // 12)),
    "block_causal": (variants.block_causal(12), lambda q, k: k // 12 <= q // 12),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas(name, batch):
    variant, formula = FORMULAS[name]
    check(variant, batch, by_formula(batch, formula))


def test_by_request(batch):
    masks = by_formula(batch, lambda q, k: k <= q)
    prefix = np.array([3, 30, 50], np.int32)
    prefix_masks = [mask | (np.arange(mask.shape[1]) < n) for mask, n in zip(masks, prefix)]
    check(variants.prefix_lm(), batch, prefix_masks, {"prefix_len": prefix})
    flags = np.array([False, True, True])
    flag_masks = [mask | (not flag) for mask, flag in zip(masks, flags)]
    check(variants.causal_by_request(), batch, flag_masks, {"causal": flags})


def last_of_each(batch, tables):
    return np.concatenate([table[len(table) - n :] for table, n in zip(tables, batch.q_lens)]).astype(np.int32)


@pytest.mark.parametrize("causal", [True, False])
def test_documents(batch, random, causal):
    documents = [np.cumsum(random.random(n) < 0.1) for n in batch.kv_lens]
    bounds = [variants.document_bounds(document) for document in documents]
    params = {"document_begin": last_of_each(batch, [begin for begin, _ in bounds])}
    if not causal:
        params["document_end"] = last_of_each(batch, [end for _, end in bounds])
    masks = [
        (d[None, :] == d[-q:, None]) & ((c <= 0) if causal else True)
        for d, q, c in zip(documents, batch.q_lens, by_formula(batch, lambda q, k: k - q))
    ]
    check(variants.document(causal), batch, masks, params)


def test_spans(batch, random):
    spans = [np.cumsum(random.random(n) < 0.15) * (random.random(n) < 0.9) for n in batch.kv_lens]
    ends = [variants.span_ends(span) for span in spans]
    causal = by_formula(batch, lambda q, k: k <= q)
    masks = []
    for span, q_len, mask in zip(spans, batch.q_lens, causal):
        same = np.zeros_like(mask)
        for i, q in enumerate(range(len(span) - q_len, len(span))):
            end = q
            while span[q] and end < len(span) and span[end] == span[q]:
                end += 1
            same[i, q:end] = True
        masks.append(mask | same)
    check(variants.bidirectional_spans(), batch, masks, {"span_end": last_of_each(batch, ends)})


def test_trees(batch, random):
    parents, matrices, next_token, next_sibling = [], [], [], []
    for count in batch.q_lens:
        of = [-1, *(int(random.integers(0, node)) for node in range(1, count))]
        matrix = np.eye(count, dtype=bool)
        children, siblings = [-1] * count, [-1] * count
        for node in range(1, count):
            matrix[node] |= matrix[of[node]]
            siblings[node], children[of[node]] = children[of[node]], node
        parents += of
        matrices.append(matrix)
        next_token += children
        next_sibling += siblings
    mask = variants.tree_mask(batch.qo_indptr, parents=parents)
    assert mask.dtype == np.int32 and mask.shape == (50, 2)
    links = variants.tree_mask(batch.qo_indptr, next_token=next_token, next_sibling=np.array(next_sibling))
    np.testing.assert_array_equal(mask, links)
    np.testing.assert_array_equal(mask, variants.tree_mask(batch.qo_indptr, matrices=matrices))
    masks = [
        np.concatenate([np.ones((q, kv - q), bool), matrix], 1)
        for q, kv, matrix in zip(batch.q_lens, batch.kv_lens, matrices)
    ]
    check(variants.tree(), batch, masks, {"tree_mask": mask})


def test_tree_errors():
    with pytest.raises(ValueError, match="one of parents, next_token with next_sibling, or matrices"):
        variants.tree_mask([0, 1])
    with pytest.raises(ValueError, match="one of parents"):
        variants.tree_mask([0, 1], next_token=[-1])
    with pytest.raises(tw.InvalidArgument, match="parents has 1 entries: qo_indptr asks for 2"):
        variants.tree_mask([0, 2], parents=[-1])
    with pytest.raises(tw.InvalidArgument, match="a cycle through node 0"):
        variants.tree_mask([0, 2], parents=[1, 0])


def test_custom_masks(batch, random):
    masks = [random.random((q, kv)) < 0.5 for q, kv in zip(batch.q_lens, batch.kv_lens)]
    dense = np.zeros((sum(batch.q_lens), max(batch.kv_lens)), bool)
    for first, mask in zip(batch.qo_indptr, masks):
        dense[first : first + len(mask), : mask.shape[1]] = mask
    check(variants.dense_mask(), batch, masks, {"mask": dense})
    packed = [np.packbits(mask.reshape(-1), bitorder="little") for mask in masks]
    indptr = np.cumsum([0, *(len(part) for part in packed)]).astype(np.int32)
    params = {"packed_mask": np.concatenate(packed), "packed_mask_indptr": indptr}
    check(variants.packed_mask(), batch, masks, params)


def test_torch_masks(batch, random):
    torch = pytest.importorskip("torch")
    masks = [random.random((q, kv)) < 0.5 for q, kv in zip(batch.q_lens, batch.kv_lens)]
    dense = torch.zeros((sum(batch.q_lens), max(batch.kv_lens)), dtype=torch.bool)
    for first, mask in zip(batch.qo_indptr, masks):
        dense[first : first + len(mask), : mask.shape[1]] = torch.from_numpy(mask)
    check(variants.dense_mask(), batch, masks, {"mask": dense})


def test_block_sparse(batch, random):
    blocks = random.random((3, 5, 9)) < 0.6
    masks = [
        np.repeat(np.repeat(of, 8, 0), 8, 1)[:q, :kv] for of, q, kv in zip(blocks, batch.q_lens, batch.kv_lens)
    ]
    check(variants.block_sparse(8, 8), batch, masks, {"block_mask": blocks})


def test_additive_bias(batch, random):
    bias = random.standard_normal((6, 50, 70)).astype(np.float32)
    bias[random.random(bias.shape) < 0.2] = -np.inf
    parts = []
    for r, first in enumerate(batch.qo_indptr[:-1]):
        of = bias[:, first : first + batch.q_lens[r], : batch.kv_lens[r]]
        parts.append(attention(*batch.request(r), bias=lambda q, k, of=of: of)[0])
    assert_close(run(variants.additive_bias(per_head=True), batch, params={"bias": bias}), np.concatenate(parts))


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5(batch, random, bidirectional):
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5")
    torch = pytest.importorskip("torch")
    weight = random.standard_normal((32, 6)).astype(np.float32)

    def bias(q, k):
        bucket = modeling.T5Attention._relative_position_bucket(torch.from_numpy(k - q), bidirectional=bidirectional)
        return weight[bucket.numpy()].transpose(2, 0, 1)

    mask = None if bidirectional else (lambda q, k: k <= q)
    long = Requests.make([300, 2], [300, 290])
    out = run(variants.t5_relative_bias(bidirectional), long, params={"relative_bias": weight.T})
    assert_close(out, long.expected(bias=bias, mask=mask)[0])


def test_alibi(batch):
    slopes = variants.alibi_slopes(6)
    np.testing.assert_allclose(slopes, [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])
    expected, _ = batch.expected(mask=lambda q, k: k <= q, bias=lambda q, k: slopes[:, None, None] * (k - q))
    assert_close(run(variants.alibi(), batch, params={"slope": slopes}), expected)


def test_sigmoid(batch):
    variant = variants.sigmoid(-1.5)
    support = tw.supports("cpu", **SPEC, variant=variant)
    if not support:
        pytest.skip(support.reason)
    parts = []
    for r in range(3):
        q, k, v = (x.astype(np.float64) for x in batch.request(r))
        logits = np.einsum("nhd,mhd->hnm", q, np.repeat(k, 3, 1)) / 4
        weights = np.where(by_formula(batch, lambda q, k: k <= q)[r], 1 / (1 + np.exp(1.5 - logits)), 0)
        parts.append(np.einsum("hnm,mhd->nhd", weights, np.repeat(v, 3, 1)))
    assert_close(run(variant, batch), np.concatenate(parts))


def test_they_combine(batch, random):
    documents = [np.cumsum(random.random(n) < 0.1) for n in batch.kv_lens]
    begins = last_of_each(batch, [variants.document_bounds(document)[0] for document in documents])
    variant = tw.Variant(mask=variants.document().mask & variants.causal(4).mask)
    masks = [
        (d[None, :] == d[-q:, None]) & (c <= 0) & (c >= -4)
        for d, q, c in zip(documents, batch.q_lens, by_formula(batch, lambda q, k: k - q))
    ]
    check(variant, batch, masks, {"document_begin": begins})


class TestBlockStructure:
    def test_it_skips_what_the_mask_does_not_need(self, random):
        batch = Requests.make([300, 1], [300, 900])
        blocks = random.random((2, 5, 15)) < 0.4
        masks = [
            np.repeat(np.repeat(of, 64, 0), 64, 1)[:q, :kv] for of, q, kv in zip(blocks, batch.q_lens, batch.kv_lens)
        ]
        variant = variants.block_sparse(64, 64)
        described = tw.Batch(qo_indptr=batch.qo_indptr, kv_lens=np.diff(batch.kv_indptr))
        structure = tw.block_structure(variant, described, {"block_mask": blocks})
        assert (structure.q_block, structure.kv_block, structure.num_kv_heads) == (64, 64, 1)
        np.testing.assert_array_equal(structure.request_rows, [0, 5, 6])
        for row, of in enumerate([*blocks[0, :, :5], blocks[1, 0]]):
            listed = structure.indices[structure.indptr[row] : structure.indptr[row + 1]]
            np.testing.assert_array_equal(listed, np.flatnonzero(of))
        assert structure.full.all()
        expected = np.concatenate(
            [attention(*batch.request(r), mask=lambda q, k, r=r: masks[r])[0] for r in range(2)]
        )
        attn = tw.Attention(**SPEC, variant=variant)
        skipped = []
        own = tw.BlockStructure(
            q_block=64,
            kv_block=64,
            request_rows=structure.request_rows,
            indptr=list(structure.indptr),
            indices=structure.indices,
            full=structure.full.astype(bool),
        )
        for given in (None, structure, own):
            plan = attn.plan(
                qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr, params={"block_mask": blocks}, blocks=given
            )
            assert_close(attn.run(plan, batch.q, (batch.k, batch.v)), expected)
            skipped.append(plan.stats(attn).skipped_blocks)
        assert skipped[0] == 0
        assert skipped[1] == skipped[2] > 0

    def test_errors(self, batch):
        attn = tw.Attention(**SPEC, variant=variants.causal())
        described = tw.Batch(qo_indptr=batch.qo_indptr, kv_lens=np.diff(batch.kv_indptr))
        structure = tw.block_structure(attn.variant, described, q_block=16)
        assert "16 x 64" in repr(structure)
        plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr)
        table = tw.PageTable.ragged(batch.kv_indptr)
        with pytest.raises(TypeError, match="blocks has a value that is"):
            plan.update(described, tables={attn: table}, blocks={attn: 3})
        with pytest.raises(ValueError, match="blocks has an attention that tables does not have"):
            other = tw.Attention(**SPEC, variant=variants.causal())
            plan.update(described, tables={attn: table}, blocks={other: structure})
        with pytest.raises(ValueError, match="the variant has no mask"):
            tw.block_structure(variants.full(), described)


class TestExplain:
    def test_map(self):
        seen = variants.causal(window_left=10).explain(32, 48, q_tile=8, kv_block=8)
        assert seen.tiles.shape == seen.exact.shape == (4, 6)
        assert seen.empty + seen.mixed + seen.full == 24
        assert seen.mask_class == "closed form"
        assert seen.pairs == 32 * 11
        assert seen.saved == seen.empty / 24
        assert str(seen) == seen.text()
        assert "tiles of 8 x 8" in str(seen)
        assert seen._repr_svg_() == seen.svg()
        assert seen.svg().startswith("<svg ")

    def test_parameters(self):
        seen = variants.prefix_lm().explain(16, 16, {"prefix_len": np.array([5], np.int32)}, q_tile=4, kv_block=4)
        np.testing.assert_array_equal(seen.tiles, [[2, 1, 0, 0], [2, 1, 0, 0], [2, 2, 1, 0], [2, 2, 2, 1]])
        shifted = variants.causal().explain(4, 16, q_tile=4, kv_block=4, q_pos_offset=3)
        np.testing.assert_array_equal(shifted.tiles, [[2, 1, 0, 0]])

    def test_errors(self):
        with pytest.raises(ValueError, match="prefix_len"):
            variants.prefix_lm().explain(4, 4)
        with pytest.raises(ValueError, match="q_pos_offset is -1"):
            variants.causal().explain(4, 4, q_pos_offset=-1)
