# SPDX-License-Identifier: Apache-2.0
"""Block structures, of tw.block_structure and of the user, under plans that are updated."""

import gc

import numpy as np
import pytest
import tilewright as tw
from reference import Requests, assert_close, causal

SPEC = dict(num_qo_heads=6, num_kv_heads=2, head_dim=16, dtype="float32")
E = tw.expr
# Stripes of 64 keys that no closed form tells: every third one, and those before the query.
STRIPES = tw.Variant(mask=(E.kv_pos <= E.q_pos) & ((E.kv_pos >> 6) % 3 == 0))
Q_LENS, KV_LENS = [150, 1, 40, 0, 3], [700, 900, 333, 5, 1]


def stripes(q_pos, kv_pos):
    return (kv_pos <= q_pos) & ((kv_pos >> 6) % 3 == 0)


def described(batch):
    return tw.Batch(qo_indptr=batch.qo_indptr, kv_lens=np.diff(batch.kv_indptr))


def needed_blocks(batch, mask, q_block, kv_block):
    """By brute force, for each request: a matrix of (some pair attends, every pair attends)."""
    all_blocks = []
    for q_len, kv_len in zip(batch.q_lens, batch.kv_lens):
        seen = mask(np.arange(kv_len - q_len, kv_len)[:, None], np.arange(kv_len)[None, :])
        rows = []
        for q in range(0, q_len, q_block):
            pairs = seen[q : q + q_block]
            tiles = [pairs[:, k : k + kv_block] for k in range(0, kv_len, kv_block)]
            rows.append([(tile.any(), tile.all()) for tile in tiles])
        all_blocks.append(rows)
    return all_blocks


class Case:
    def __init__(self, variant=STRIPES, mask=stripes, q_lens=Q_LENS, kv_lens=KV_LENS):
        self.batch = Requests.make(q_lens, kv_lens)
        self.attn = tw.Attention(**SPEC, variant=variant)
        limits = dict(requests=len(q_lens), q_tokens=sum(q_lens), q_len=max(q_lens), kv_len=max(kv_lens))
        self.plan = tw.Plan([self.attn], tw.Limits(**limits))
        self.expected = self.batch.expected(mask=mask)[0]

    def run(self, structure=None):
        blocks = None if structure is None else {self.attn: structure}
        table = tw.PageTable.ragged(self.batch.kv_indptr)
        self.plan.update(described(self.batch), tables={self.attn: table}, blocks=blocks)
        return self.attn.run(self.plan, self.batch.q, (self.batch.k, self.batch.v))

    def stats(self):
        return self.plan.stats(self.attn)


@pytest.mark.parametrize(("q_block", "kv_block"), [(64, 64), (16, 16), (50, 24), (1, 64), (1000, 1000)])
class TestMade:
    def test_lists_are_those_of_brute_force(self, q_block, kv_block):
        batch = Requests.make(Q_LENS, KV_LENS)
        made = tw.block_structure(STRIPES, described(batch), q_block=q_block, kv_block=kv_block)
        expected = needed_blocks(batch, stripes, q_block, kv_block)
        assert made.request_rows.tolist() == np.cumsum([0, *(len(rows) for rows in expected)]).tolist()
        for row, blocks in enumerate(row for rows in expected for row in rows):
            entries = slice(made.indptr[row], made.indptr[row + 1])
            assert made.indices[entries].tolist() == [i for i, (some, _) in enumerate(blocks) if some]
            assert made.full[entries].tolist() == [int(every) for some, every in blocks if some]

    def test_same_outputs_less_work(self, q_block, kv_block):
        case = Case()
        assert_close(case.run(), case.expected)
        without = case.stats()
        made = tw.block_structure(STRIPES, described(case.batch), q_block=q_block, kv_block=kv_block)
        assert_close(case.run(made), case.expected)
        stats = case.stats()
        assert stats.blocks + stats.skipped_blocks == without.blocks + without.skipped_blocks
        if q_block >= 16 and kv_block <= 64:
            assert stats.blocks < without.blocks
            assert stats.kv_bytes < without.kv_bytes
        pieces = case.plan.pieces(case.attn)
        assert sum(piece.num_blocks for piece in pieces) == stats.blocks
        # A structure is that of one update.
        assert_close(case.run(), case.expected)
        assert case.stats().blocks == without.blocks


def test_lists_of_each_kv_head():
    """KV head h sees the blocks with (block + h) % 4 == 1."""
    mask = tw.Variant(mask=((E.kv_pos >> 6) + E.kv_head) % 4 == 1)
    batch = Requests.make([1, 70], [1000, 300])
    with pytest.raises(ValueError, match="num_qo_heads"):
        tw.block_structure(mask, described(batch))
    made = tw.block_structure(mask, described(batch), num_qo_heads=6, num_kv_heads=2)
    assert made.num_kv_heads == 2
    lists = [made.indices[a:b].tolist() for a, b in zip(made.indptr, made.indptr[1:])]
    assert lists == [[1, 5, 9, 13], [0, 4, 8, 12], [1], [0, 4], [1], [0, 4]]
    case = Case(mask, None, [1, 70], [1000, 300])
    plain = case.run()
    assert case.stats().skipped_blocks == 0
    assert_close(case.run(made), plain.astype(np.float64))
    assert case.stats().blocks == 2 * 4 + (case.stats().tiles - 2) // 2 * 3


class TestOfTheUser:
    """One request that decodes over 10 blocks of 64 keys, with a mask that lets all through."""

    VARIANT = tw.Variant(mask=(E.kv_pos >> 6) % 100 < 50)

    def case(self):
        return Case(self.VARIANT, lambda q, k: (k >> 6) % 100 < 50, [1], [640])

    @staticmethod
    def structure(indices, full=None, **arguments):
        sizes = dict(q_block=1, kv_block=64)
        lists = dict(request_rows=[0, 1], indptr=[0, len(indices)], indices=indices, full=full)
        return tw.BlockStructure(**{**sizes, **lists, **arguments})

    @pytest.mark.parametrize("full", [None, [1, 0, 1], [True, True, True]])
    def test_blocks_that_are_not_listed_are_taken_for_empty(self, full):
        """The mask has them, so the result is that of the listed ones alone."""
        case = self.case()
        flags = None if full is None else np.array(full, np.uint8 if full[1] == 0 else bool)
        out = case.run(self.structure([0, 3, 7], flags))
        listed = case.batch.expected(mask=lambda q, k: np.isin(k >> 6, [0, 3, 7]) & (q >= 0))[0]
        assert_close(out, listed)
        stats = case.stats()
        assert (stats.blocks, stats.skipped_blocks) == (3 * 2, 7 * 2)
        assert stats.kv_bytes == 3 * 64 * 2 * 2 * 16 * 4

    def test_no_list_no_keys(self):
        case = self.case()
        out = case.run(self.structure(np.zeros(0, np.int32)))
        np.testing.assert_array_equal(out, np.zeros_like(out))
        assert case.stats().blocks == 0

    def test_blocks_behind_the_keys_are_ignored(self):
        case = self.case()
        assert_close(case.run(self.structure([*range(10), 11, 400])), case.expected)
        assert case.stats().blocks == 10 * 2

    def test_each_head_its_lists(self):
        case = self.case()
        two = self.structure([0, 3, 7, 9], indptr=[0, 3, 4], num_kv_heads=2)
        out = case.run(two)
        for heads, blocks in ((slice(0, 3), [0, 3, 7]), (slice(3, 6), [9])):
            listed = case.batch.expected(mask=lambda q, k, b=blocks: np.isin(k >> 6, b) & (q >= 0))[0]
            assert_close(out[:, heads], listed[:, heads])
        assert case.stats().blocks == 4

    def test_arrays_live_as_long_as_the_plan_reads_them(self):
        case = self.case()
        table = tw.PageTable.ragged(case.batch.kv_indptr)
        arrays = dict(request_rows=np.array([0, 1], np.int32), indptr=np.array([0, 3], np.int32))
        structure = self.structure(np.array([0, 3, 7], np.int32), np.ones(3, bool), **arrays)
        case.plan.update(described(case.batch), tables={case.attn: table}, blocks={case.attn: structure})
        del structure, arrays
        gc.collect()
        _ = [np.full(size, 12345678, np.int32) for size in (2, 3, 1) * 200]
        listed = case.batch.expected(mask=lambda q, k: np.isin(k >> 6, [0, 3, 7]) & (q >= 0))[0]
        assert_close(case.attn.run(case.plan, case.batch.q, (case.batch.k, case.batch.v)), listed)

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"q_block": 0}, r"blocks.q_block is 0"),
            ({"kv_block": -1}, r"blocks.kv_block is -1"),
            ({"num_kv_heads": 3}, r"blocks.num_kv_heads is 3"),
            ({"request_rows": [0]}, r"blocks.request_rows is"),
            ({"request_rows": [0, 0], "indptr": [0]}, r"request 0 0 rows: 1 query tokens need 1"),
            ({"indptr": [0, 4]}, r"blocks.indices is"),
            ({"indices": [0, 7, 3]}, r"blocks.indices\[2\] is 3"),
            ({"indices": [-1, 3, 7]}, r"blocks.indices\[0\] is -1"),
            ({"full": np.ones(2, bool)}, r"blocks.full is"),
        ],
    )
    def test_what_is_malformed_is_named(self, arguments, match):
        case = self.case()
        bad = self.structure(**{"indices": [0, 3, 7], **arguments})
        with pytest.raises(ValueError, match=match):
            case.run(bad)
        # The plan has no batch now, until one is well.
        with pytest.raises(tw.Error, match="plan has no batch"):
            case.stats()
        assert_close(case.run(self.structure(list(range(10)))), case.expected)

    def test_arrays_are_int32(self):
        with pytest.raises(TypeError, match=r"indices is int64\[3\].*int32"):
            self.structure(np.array([0, 3, 7]))
        with pytest.raises(TypeError, match="request_rows"):
            self.structure([0], request_rows="rows")

    def test_attributes_are_copies(self):
        indices = np.array([0, 3, 7], np.int32)
        structure = self.structure(indices)
        structure.indices[:] = 9
        assert indices.tolist() == structure.indices.tolist() == [0, 3, 7]
        assert structure.full is None
        assert "1 x 64, 3 blocks" in repr(structure)

    def test_a_mask_of_closed_form_needs_none(self):
        """Its blocks are known; a structure of it is taken, and changes nothing."""
        case = Case(tw.variants.causal(), causal, [90], [400])
        assert_close(case.run(), case.expected)
        before = case.stats()
        made = tw.block_structure(tw.variants.causal(), described(case.batch))
        assert_close(case.run(made), case.expected)
        assert case.stats().blocks == before.blocks
        with pytest.raises(ValueError, match="the variant must have a mask"):
            Case(tw.variants.full(), None, [90], [400]).run(made)
