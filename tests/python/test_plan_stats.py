# SPDX-License-Identifier: Apache-2.0
"""What a plan tells of its last update: stats(), pieces(), status words and copies of them."""

import numpy as np
import pytest
import tilewright as tw
from reference import Requests

HEADS, KV_HEADS, DIM = 6, 2, 16
SPEC = dict(num_qo_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, dtype="float32")
BLOCK = 64  # keys, on the CPU


def updated(attn, q_lens, kv_lens, *, workers=0, **arguments):
    batch = Requests.make(q_lens, kv_lens)
    limits = tw.Limits(
        requests=len(q_lens), q_tokens=sum(q_lens), q_len=max(q_lens), kv_len=max(kv_lens), workers=workers
    )
    plan = tw.Plan([attn], limits)
    plan.update(tw.Batch(qo_indptr=batch.qo_indptr), tables={attn: tw.PageTable.ragged(batch.kv_indptr)}, **arguments)
    return plan


def costs_of(pieces, workers):
    costs = np.zeros(workers, int)
    for piece in pieces:
        costs[piece.worker] += piece.cost
    return costs


class TestStats:
    def test_decode_reads_each_key_once_a_kv_head(self):
        """One query token a request: a tile for each KV head, and all blocks of its keys."""
        lens = [1000, 64, 1, 129]
        attn = tw.Attention(**SPEC)
        stats = updated(attn, [1] * 4, lens).stats(attn)
        assert stats.tiles == 4 * KV_HEADS
        assert stats.blocks == KV_HEADS * sum(-(-n // BLOCK) for n in lens)
        assert stats.skipped_blocks == 0
        # The last token sees all keys: nothing is masked.
        assert stats.full_blocks == stats.blocks
        assert stats.kv_bytes == KV_HEADS * sum(lens) * 2 * DIM * 4

    def test_windows_skip_the_blocks_before_them(self):
        attn = tw.Attention(**SPEC, variant=tw.variants.causal(window_left=99))
        stats = updated(attn, [1, 1], [1000, 50]).stats(attn)
        # Keys 900 to 999 are in blocks 14 and 15 of 16.
        assert stats.blocks == KV_HEADS * (2 + 1)
        assert stats.skipped_blocks == KV_HEADS * 14
        whole = tw.Attention(**SPEC)
        other = updated(whole, [1, 1], [1000, 50]).stats(whole)
        assert other.blocks == stats.blocks + stats.skipped_blocks
        assert other.kv_bytes > 4 * stats.kv_bytes

    def test_causal_prefill_skips_above_the_diagonal(self):
        attn, full = (tw.Attention(**SPEC, variant=v) for v in (tw.variants.causal(), tw.variants.full()))
        causal = updated(attn, [512], [512]).stats(attn)
        everything = updated(full, [512], [512]).stats(full)
        assert everything.skipped_blocks == 0
        assert everything.full_blocks == everything.blocks == everything.tiles * 512 // BLOCK
        assert causal.blocks + causal.skipped_blocks == everything.blocks
        # A little more than half, as blocks on the diagonal are computed whole.
        assert 0.5 < causal.blocks / everything.blocks < 0.65
        assert 0 < causal.full_blocks < causal.blocks

    def test_a_long_request_is_split_between_workers(self):
        attn = tw.Attention(**SPEC)
        plan = updated(attn, [1, 1], [20000, 100], workers=4)
        stats, pieces = plan.stats(attn), plan.pieces(attn)
        assert stats.split_tiles >= 1
        parts = [p for p in pieces if (p.request, p.kv_head) == (0, 0)]
        assert len(parts) > 1
        assert len({p.worker for p in parts}) == len(parts)
        parts.sort(key=lambda p: p.first_block)
        ends = [p.first_block + p.num_blocks for p in parts]
        assert [p.first_block for p in parts] == [0, *ends[:-1]]
        assert ends[-1] == -(-20000 // BLOCK)
        costs = costs_of(pieces, 4)
        assert stats.balance == pytest.approx(costs.mean() / costs.max())
        assert stats.balance > 0.9
        alone = updated(attn, [1, 1], [20000, 100], workers=1)
        assert alone.stats(attn).split_tiles == 0
        assert alone.stats(attn).balance == 1

    def test_each_update_has_its_own(self):
        attn = tw.Attention(**SPEC)
        plan = updated(attn, [1], [640])
        assert plan.stats(attn).blocks == 10 * KV_HEADS
        plan.update(tw.Batch(qo_indptr=[0, 1]), tables={attn: tw.PageTable.ragged([0, 64])})
        assert plan.stats(attn).blocks == KV_HEADS
        assert sum(p.num_blocks for p in plan.pieces(attn)) == KV_HEADS

    def test_errors(self):
        attn = tw.Attention(**SPEC)
        plan = tw.Plan([attn], tw.Limits(requests=1, q_tokens=1, q_len=1, kv_len=64))
        for ask in (plan.stats, plan.pieces):
            with pytest.raises(tw.Error, match="plan has no batch") as raised:
                ask(attn)
            assert raised.value.code == "invalid_state"
        plan.update(tw.Batch(qo_indptr=[0, 1]), tables={attn: tw.PageTable.ragged([0, 64])})
        for ask in (plan.stats, plan.pieces):
            with pytest.raises(tw.Error, match="not made for this attention"):
                ask(tw.Attention(**SPEC))
            with pytest.raises(TypeError):
                ask(None)


class TestStatusWords:
    def test_copies_are_the_words_of_the_requests(self):
        attn = tw.Attention(**SPEC)
        plan = updated(attn, [1, 2, 1], [5, 6, 7])
        words = np.full(5, 77, np.int32)
        plan.copy_status(words)
        np.testing.assert_array_equal(words, [0, 0, 0, 77, 77])
        assert list(words[:3]) == plan.status()

    def test_copies_are_refused(self):
        attn = tw.Attention(**SPEC)
        plan = tw.Plan([attn], tw.Limits(requests=2, q_tokens=2, q_len=1, kv_len=64))
        with pytest.raises(tw.Error, match="plan has no batch"):
            plan.copy_status(np.zeros(2, np.int32))
        plan.update(tw.Batch(qo_indptr=[0, 1, 2]), tables={attn: tw.PageTable.ragged([0, 4, 8])})
        read_only = np.zeros(2, np.int32)
        read_only.flags.writeable = False
        for words, error, match in [
            (np.zeros(1, np.int32), ValueError, "words is .*2 requests"),
            (np.zeros(2, np.int64), ValueError, "words is int64"),
            (np.zeros((2, 1), np.int32), ValueError, "words is"),
            (np.zeros(4, np.int32)[::2], ValueError, "words is.*contiguous"),
            (read_only, ValueError, "words is read-only"),
            ([0, 0], TypeError, "words is of type list"),
            (None, TypeError, "words"),
        ]:
            with pytest.raises(error, match=match):
                plan.copy_status(words)

    def test_words_in_words(self):
        bits = tw.RequestStatus
        assert tw.describe_status(0) == "well"
        assert tw.describe_status(bits.KV_LEN | bits.PAGE).startswith("kv_len (")
        assert [int(bit) for bit in bits] == [1, 2, 4, 8, 16, 32, 64]
        for bit in bits:
            assert tw.describe_status(int(bit)).startswith(bit.name.lower() + " (")

    def test_debug_mode_is_a_property_and_of_the_environment(self, monkeypatch):
        attn = tw.Attention(**SPEC)
        plan = updated(attn, [1], [5])
        assert plan.debug is False
        plan.debug = True
        assert plan.debug is True
        # Bad values raise at once on the CPU; what is well goes on.
        plan.update(tw.Batch(qo_indptr=[0, 1]), tables={attn: tw.PageTable.ragged([0, 5])})
        with pytest.raises(ValueError, match="qo_indptr"):
            plan.update(tw.Batch(qo_indptr=[1, 0]), tables={attn: tw.PageTable.ragged([0, 5])})
        for value, expected in [("1", True), ("0", False), ("", False)]:
            monkeypatch.setenv("TILEWRIGHT_DEBUG", value)
            assert updated(attn, [1], [5]).debug is expected
