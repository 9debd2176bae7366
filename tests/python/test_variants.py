# SPDX-License-Identifier: Apache-2.0
"""Variants written in Python's operators."""

import numpy as np
import pytest
import tilewright as tw
from reference import Requests, assert_close
from tilewright import expr as e

SPEC = dict(num_qo_heads=6, num_kv_heads=2, head_dim=16, dtype="float32")


def run(variant, batch, **arguments):
    attn = tw.Attention(**SPEC, variant=variant)
    plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr)
    return attn.run(plan, batch.q, (batch.k, batch.v), **arguments)


@pytest.fixture
def batch():
    return Requests.make([3, 6], [20, 6])


MASKS = {
    "causal with sinks": (
        (e.kv_pos <= e.q_pos) & ((e.kv_pos >= e.q_pos - 4) | (e.kv_pos < 2)),
        lambda q, k: (k <= q) & ((k >= q - 4) | (k < 2)),
    ),
    "chunked": (
        (e.kv_pos // 4 == e.q_pos // 4) & (e.kv_pos <= e.q_pos),
        lambda q, k: (k // 4 == q // 4) & (k <= q),
    ),
    "not": (~(e.kv_pos > e.q_pos), lambda q, k: ~(k > q)),
    "strided": ((e.kv_pos % 3 != 1) | False, lambda q, k: (k % 3 != 1) | (q < 0)),
    "reflected": ((2 <= e.kv_pos) & (20 - e.kv_pos > 1), lambda q, k: (k >= 2) & (20 - k > 1)),
    "where": (
        e.where(e.q_pos - e.kv_pos >= 3, e.kv_pos == 0, True),
        lambda q, k: np.where(q - k >= 3, k == 0, True),
    ),
    "min and max": (
        (e.minimum(e.kv_pos, 9) >= 1) & (e.maximum(e.kv_pos, 3) <= 12) & (abs(e.kv_pos - e.q_pos) < 15),
        lambda q, k: (np.minimum(k, 9) >= 1) & (np.maximum(k, 3) <= 12) & (abs(k - q) < 15),
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(name, batch):
    expression, mask = MASKS[name]
    assert expression.type == "boolean"
    expected, _ = batch.expected(mask=mask)
    assert_close(run(tw.Variant(mask=expression), batch), expected)


def test_logits(batch):
    distance = e.to_real(e.q_pos - e.kv_pos)
    variant = tw.Variant(logits=e.logit - 0.25 * distance / 2 + tw.log(1.5) - -tw.exp(-1.0))
    expected, _ = batch.expected(bias=lambda q, k: -0.125 * (q - k) + np.log(1.5) + np.exp(-1))
    assert_close(run(variant, batch), expected)


def test_parameters_by_head(batch):
    slope = tw.Param("slope", rank=1)
    variant = tw.Variant(logits=e.logit + slope(e.q_head) * e.to_real(e.kv_pos - e.q_pos))
    slopes = np.linspace(0.1, 0.6, 6).astype(np.float32)
    expected, _ = batch.expected(bias=lambda q, k: slopes[:, None, None] * (k - q))
    assert_close(run(variant, batch, params={"slope": slopes}), expected)
    with pytest.raises(ValueError, match="slope"):
        run(variant, batch)
    with pytest.raises(ValueError, match="slope"):
        run(variant, batch, params={"slope": slopes[:5]})


def test_soft_cap_without_the_ready_made_one(batch):
    cap = tw.Param("cap", default=4.0)
    variant = tw.Variant(logits=cap() * tw.tanh(e.logit / cap()))
    assert_close(run(variant, batch), batch.expected(soft_cap=4.0)[0])
    assert_close(run(variant, batch, params={"cap": 2}), batch.expected(soft_cap=2.0)[0])


def test_sigmoid_attention_and_output(batch):
    variant = tw.Variant(logits=tw.sigmoid(e.logit), output=e.value * 2, softmax=False)
    support = tw.supports("cpu", **SPEC, variant=variant)
    if not support:
        pytest.skip(support.reason)
    out = run(variant, batch)
    for r in range(2):
        q, k, v = (x.astype(np.float64) for x in batch.request(r))
        weights = 1 / (1 + np.exp(-np.einsum("nhd,mhd->hnm", q, np.repeat(k, 3, 1)) / 4))
        expected = 2 * np.einsum("hnm,mhd->nhd", weights, np.repeat(v, 3, 1))
        assert_close(out[batch.qo_indptr[r] : batch.qo_indptr[r + 1]], expected)


def test_variants_are_values():
    mask = e.kv_pos <= e.q_pos
    assert tw.Variant(mask=mask) == tw.Variant(mask=e.kv_pos <= e.q_pos)
    assert hash(tw.Variant(mask=mask)) == hash(tw.Variant(mask=e.kv_pos <= e.q_pos))
    assert tw.Variant(mask=mask) != tw.Variant(mask=e.kv_pos < e.q_pos)
    assert tw.variants.full() != tw.variants.causal()
    assert tw.variants.causal() != 1
    assert "kv_pos" in tw.Variant(mask=mask).serialize()
    slope, *_ = tw.variants.alibi().params
    assert (slope.name, slope.rank, slope.dtype, slope.at, slope.default) == ("slope", 1, "float32", "run", None)
    window = tw.Param("window", dtype="int32", default=3)
    assert (window.dtype, window.at, window.default) == ("int32", "plan", 3)
    assert tw.Param("p", dtype="int32", at="run").at == "run"


def test_types():
    assert e.q_pos.type == "integer"
    assert (e.q_pos + 1).type == "integer"
    assert (e.q_pos + 1.5).type == "real"
    assert (e.q_pos + np.int32(1)).type == "integer"
    assert (e.q_pos * np.float32(1)).type == "real"
    assert (1 / e.q_pos).type == "real"
    assert (7 // e.q_pos).type == (7 % e.q_pos).type == "integer"
    assert (-e.logit).type == (+e.logit).type == "real"
    assert (True & (e.q_pos == 1)).type == "boolean"


class TestErrors:
    @pytest.mark.parametrize(
        "use",
        [
            lambda: bool(e.q_pos),
            lambda: e.kv_pos <= e.q_pos and e.kv_pos > 3,
            lambda: 0 <= e.kv_pos < 3,
            lambda: not (e.kv_pos < 3),
            lambda: 1 if e.kv_pos < 3 else 2,
        ],
    )
    def test_no_truth_value(self, use):
        with pytest.raises(TypeError, match=r"Use & \| ~ in place of and, or, not, tw\.where"):
            use()

    def test_operands(self):
        with pytest.raises(TypeError, match="unsupported operand"):
            e.q_pos + "1"
        with pytest.raises(TypeError, match="not supported between"):
            e.q_pos < None
        with pytest.raises(TypeError, match="a is of type str"):
            tw.exp("1")
        with pytest.raises(tw.InvalidArgument):
            ~e.logit
        with pytest.raises(tw.InvalidArgument):
            e.logit // 2
        with pytest.raises(TypeError, match="unhashable"):
            hash(e.q_pos)

    def test_variants(self):
        with pytest.raises(ValueError, match="mask"):
            tw.Variant(mask=e.q_pos)
        with pytest.raises(ValueError, match="logit"):
            tw.Variant(mask=e.logit > 0)
        with pytest.raises(ValueError, match="value"):
            tw.Variant(logits=e.value)
        with pytest.raises(TypeError, match="mask is of type str"):
            tw.Variant(mask="causal")

    def test_parameters(self):
        with pytest.raises(ValueError, match='"slope" is read with 2 indices: it has rank 1'):
            tw.Param("slope", rank=1)(1, 2)
        with pytest.raises(ValueError, match="dtype is float16"):
            tw.Param("p", dtype="float16")
        with pytest.raises(ValueError, match='at is \'now\': it must be "run" or "plan"'):
            tw.Param("p", at="now")
        with pytest.raises(ValueError, match="rank"):
            tw.Param("p", rank=4)
        with pytest.raises(TypeError, match="an index is of type str"):
            tw.Param("p", rank=1)("0")
