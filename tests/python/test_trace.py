# SPDX-License-Identifier: Apache-2.0
"""tw.variant: what Python functions are traced to, and what they are told when they cannot be."""

import inspect
import math
import traceback

import numpy as np
import pytest
import tilewright as tw
from reference import Requests, assert_close
from tilewright import expr as e

SPEC = dict(num_qo_heads=6, num_kv_heads=2, head_dim=16, dtype="float32")


@pytest.fixture
def batch():
    return Requests.make([3, 6], [20, 6])


def run(variant, batch, plan_params=None, **arguments):
    attn = tw.Attention(**SPEC, variant=variant)
    plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr, params=plan_params)
    return attn.run(plan, batch.q, (batch.k, batch.v), **arguments)


window_by_head = tw.Param("window", 1, dtype="int32", at="plan")
bias = tw.Param("bias", 3)
last = tw.Param("last", 1, dtype="int32", at="run")
SAME_GRAPHS = {
    "alibi": (
        tw.variant(
            logits=lambda s, c: s + c.slope * (c.kv_pos - c.q_pos),
            mask=lambda c: c.kv_pos <= c.q_pos,
            params={"slope": tw.per_head("float32")},
        ),
        tw.variants.alibi(),
    ),
    "causal window with a soft cap": (
        tw.variant(
            logits=lambda s, c: tw.where(c.logits_soft_cap > 0.0, c.logits_soft_cap * tw.tanh(s / c.logits_soft_cap), s),
            mask=tw.variants.causal(7).mask,
            params={"logits_soft_cap": 30.0},
        ),
        tw.variants.causal(7, 30.0),
    ),
    "full": (tw.variant(), tw.variants.full()),
    "a window for each head": (
        tw.variant(
            mask=lambda c: (c.kv_pos <= c.q_pos) & (c.q_pos - c.kv_pos < c.window),
            params={"window": tw.per_head("int32")},
        ),
        tw.Variant(mask=(e.kv_pos <= e.q_pos) & (e.q_pos - e.kv_pos < window_by_head(e.q_head))),
    ),
    "a table": (
        tw.variant(logits=lambda s, c: s + c.bias[c.batch, c.kv_head, 3], params={"bias": tw.table(3)}),
        tw.Variant(logits=e.logit + bias(e.batch, e.kv_head, 3)),
    ),
    "a mask's parameter that binds at run": (
        tw.variant(mask=lambda c: c.kv_pos < c.last, params={"last": tw.per_request("int32", at="run")}),
        tw.Variant(mask=e.kv_pos < last(e.batch)),
    ),
    "every operator": (
        tw.variant(
            logits=lambda s, c: tw.where(
                ~(c.q_len != c.kv_len) | (c.q_pos // 4 == c.kv_pos % 3),
                -abs(s) * tw.exp(s) / tw.sigmoid(s) - tw.log(tw.abs(s)),
                tw.maximum(tw.minimum(+s, 2.5), c.q_head),
            ),
            output=lambda v, c: v * 2 + c.q_pos,
            softmax=False,
            rope=tw.RopeSpec(theta=5e5),
        ),
        tw.Variant(
            logits=e.where(
                ~(e.q_len != e.kv_len) | (e.q_pos // 4 == e.kv_pos % 3),
                -e.abs(e.logit) * e.exp(e.logit) / e.sigmoid(e.logit) - e.log(e.abs(e.logit)),
                e.maximum(e.minimum(e.logit, 2.5), e.q_head),
            ),
            output=e.value * 2 + e.q_pos,
            softmax=False,
            rope=tw.RopeSpec(theta=5e5),
        ),
    ),
}


@pytest.mark.parametrize("name", SAME_GRAPHS)
def test_same_graph_as_operators(name):
    traced, built = SAME_GRAPHS[name]
    assert traced.serialize() == built.serialize()
    assert traced == built
    assert hash(traced) == hash(built)


def test_numpy_scalars_are_numbers():
    traced = tw.variant(
        logits=lambda s, c: np.float32(2) * s + np.int64(3) * c.q_pos - s / np.float64(4) + np.array(2.5),
        mask=lambda c: (np.int32(3) <= c.kv_pos) & np.True_,
    )
    built = tw.Variant(logits=2.0 * e.logit + 3 * e.q_pos - e.logit / 4.0 + 2.5, mask=(e.kv_pos >= 3) & True)
    assert traced == built


def test_parts_of_a_variant():
    causal = tw.variants.causal()
    assert (causal.logits, causal.output, causal.rope, causal.softmax) == (None, None, None, True)
    assert causal.mask.type == "boolean"
    with_sinks = tw.variant(mask=lambda c: causal.mask & (c.kv_pos < 4))
    assert with_sinks == tw.Variant(mask=(e.kv_pos <= e.q_pos) & (e.kv_pos < 4))
    assert tw.Variant(rope=tw.RopeSpec(dim=8)).rope.dim == 8


def test_a_parameter_binds_at_plan_if_a_mask_reads_it():
    variant = tw.variant(
        logits=lambda s, c: s * c.scale + c.window + c.late,
        mask=lambda c: c.kv_pos > c.q_pos - c.window,
        params={"scale": tw.scalar(), "window": tw.scalar("int32"), "late": tw.scalar("int32", at="plan")},
    )
    assert {param.name: param.at for param in variant.params} == {"scale": "run", "window": "plan", "late": "plan"}


def test_every_kind_of_parameter(batch):
    variant = tw.variant(
        logits=lambda s, c: s * c.scale + c.by_kv_head + c.by_both + c.buckets[c.q_head, tw.minimum(c.q_pos - c.kv_pos, 7)],
        mask=lambda c: (c.kv_pos <= c.q_pos) & (c.q_pos - c.kv_pos <= c.window),
        output=lambda v, c: v * c.gain,
        params={
            "scale": tw.scalar(default=0.5),
            "by_kv_head": tw.per_kv_head(),
            "by_both": tw.per_request_head(),
            "buckets": tw.table(2),
            "window": tw.per_request("int32"),
            "gain": tw.per_head(),
        },
    )
    random = np.random.default_rng(5)

    def real(*shape):
        return random.standard_normal(shape).astype(np.float32)

    params = {"by_kv_head": real(2), "by_both": real(2, 6), "buckets": real(6, 8), "gain": real(6)}
    window = np.array([2, 30], np.int32)
    out = run(variant, batch, plan_params={"window": window}, params=params)
    for r in range(2):
        q, k, v = (x.astype(np.float64) for x in batch.request(r))
        q_pos, kv_pos = np.arange(len(k) - len(q), len(k))[:, None], np.arange(len(k))
        logits = 0.5 * np.einsum("nhd,mhd->hnm", q, np.repeat(k, 3, 1)) / 4
        logits += np.repeat(params["by_kv_head"], 3)[:, None, None] + params["by_both"][r][:, None, None]
        distance = q_pos - kv_pos
        logits += np.where(distance >= 0, params["buckets"][:, np.clip(distance, 0, 7)], 0)
        seen = (distance >= 0) & (distance <= window[r])
        weights = np.where(seen, np.exp(logits), 0)
        weights /= weights.sum(-1, keepdims=True)
        expected = np.einsum("hnm,mhd->nhd", weights, np.repeat(v, 3, 1)) * params["gain"][:, None]
        assert_close(out[batch.qo_indptr[r] : batch.qo_indptr[r + 1]], expected)


def test_constants(batch):
    expected, _ = batch.expected()
    assert_close(run(tw.variant(mask=lambda c: True), batch), expected)
    assert (run(tw.variant(mask=lambda c: False), batch) == 0).all()


def helper(s):
    return math.exp(s)


# Each function, and what it is told to write instead.
UNSUPPORTED = {
    "if": (lambda s, c: s if c.kv_pos < 3 else 0, r"tw\.where\(condition, yes, no\) in place of if"),
    "and": (lambda s, c: c.kv_pos < 3 and c.q_pos < 3, r"& \| ~ in place of and, or, not"),
    "or": (lambda s, c: c.kv_pos < 3 or c.q_pos < 3, r"& \| ~ in place of and, or, not"),
    "not": (lambda s, c: not c.kv_pos < 3, r"& \| ~ in place of and, or, not"),
    "chain": (lambda s, c: 0 <= c.kv_pos < 3, r"\(a <= b\) & \(b <= c\) in place of a <= b <= c"),
    "in": (lambda s, c: c.kv_pos in (1, 2), r"\(x == 1\) \| \(x == 2\) in place of in"),
    "in range": (lambda s, c: c.kv_pos in range(3), r"\(x == 1\) \| \(x == 2\) in place of in"),
    "max": (lambda s, c: max(s, 0.0), "tw.maximum in place of min and max"),
    "float": (lambda s, c: float(c.kv_pos), r"to_real\(x\) in place of float\(x\)"),
    "int": (lambda s, c: int(s), r"// in place of int\(x / y\)"),
    "complex": (lambda s, c: complex(s), "an expression is no number"),
    "round": (lambda s, c: round(s), "an expression is no number"),
    "floor": (lambda s, c: math.floor(s), "an expression is no number"),
    "math": (lambda s, c: math.exp(s), "tw.exp, .* in place of functions of numbers as in math"),
    "math in a helper": (lambda s, c: helper(s), "tw.exp, .* in place of functions of numbers as in math"),
    "numpy": (lambda s, c: np.exp(s), r"numpy\.exp takes arrays, not expressions: use .*tw\.exp"),
    "numpy of two": (lambda s, c: np.maximum(s, 0), r"numpy\.maximum takes arrays, .*tw\.maximum"),
    "numpy.where": (lambda s, c: np.where(c.kv_pos < 3, s, 0), r"numpy\.where takes arrays, .*tw\.where"),
    "numpy.clip": (lambda s, c: np.clip(s, 0, 1), r"numpy\.clip takes arrays"),
    "asarray": (lambda s, c: np.asarray(s), "an expression is no number"),
    "an array": (lambda s, c: s + np.ones(3), r"operand is of type ndarray: .*params=.*tw\.table\(rank\)"),
    "an array before": (lambda s, c: np.ones(3) * s, r"operand is of type ndarray"),
    "for": (lambda s, c: [x for x in s], "an expression is no sequence"),
    "sum": (lambda s, c: sum(s), "an expression is no sequence"),
    "range": (lambda s, c: range(c.kv_len), "an expression is no number"),
    "len": (lambda s, c: len(s), "an expression is no sequence"),
    "power": (lambda s, c: s**2, r"x \* x for x \*\* 2"),
    "power of": (lambda s, c: 2**s, r"tw\.exp\(y \* tw\.log\(x\)\) for x \*\* y"),
    "index": (lambda s, c: s[0], r"Declare tw\.table\(rank\)"),
    "str": (lambda s, c: s + "1", "unsupported operand"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_python(name):
    """A TypeError, whose last line in the traceback is the user's."""
    function, told = UNSUPPORTED[name]
    with pytest.raises(TypeError, match=told) as raised:
        tw.variant(logits=function)
    last_frame = traceback.extract_tb(raised.value.__traceback__)[-1]
    user = helper if "helper" in name else function
    assert last_frame.filename == __file__
    first = inspect.getsourcelines(user)[1]
    assert first <= last_frame.lineno <= first + 1


def test_line_in_a_function_of_several():
    def mask(c):
        near = c.q_pos - c.kv_pos < 3
        if near:
            return c.kv_pos > 2
        return c.kv_pos > 1

    with pytest.raises(TypeError, match=r"tw\.where") as raised:
        tw.variant(mask=mask)
    frame = traceback.extract_tb(raised.value.__traceback__)[-1]
    assert (frame.name, frame.line) == ("mask", "if near:")


class TestErrors:
    def test_undeclared_parameter(self):
        with pytest.raises(AttributeError, match=r"c has no 'slop': it has q_pos, .*the parameters slope") as raised:
            tw.variant(logits=lambda s, c: s + c.slop, params={"slope": tw.per_head()})
        assert traceback.extract_tb(raised.value.__traceback__)[-1].filename == __file__

    def test_unused_parameter(self):
        with pytest.raises(tw.InvalidArgument, match=r"params has 'a', 'b', which no function of the variant uses"):
            tw.variant(logits=lambda s, c: s + c.slope, params={"slope": tw.per_head(), "b": 3.0, "a": tw.table(1)})

    @pytest.mark.parametrize(
        ("arguments", "error", "match"),
        [
            ({"mask": lambda c: c.kv_pos}, tw.InvalidArgument, "mask is integer: it must be boolean"),
            ({"logits": lambda s, c: c.kv_pos < 3}, tw.InvalidArgument, "logits is boolean: it must be real"),
            ({"logits": lambda s, c: c.kv_pos}, tw.InvalidArgument, "logits is integer: it must be real"),
            ({"mask": lambda c: None}, TypeError, "mask returned None: it must return an expression"),
            ({"mask": lambda c: "causal"}, TypeError, "mask is of type str"),
            ({"mask": lambda: True}, TypeError, r"mask is a function of \(\): it must be one of \(c\)"),
            ({"logits": lambda c: 1.0}, TypeError, r"logits is a function of \(c\): it must be one of \(s, c\)"),
            ({"output": lambda v: v}, TypeError, r"output is a function of \(v\): it must be one of \(v, c\)"),
            ({"mask": True}, TypeError, "mask is of type bool: it must be a function, lambda c: ..."),
            ({"mask": lambda c: ~c.kv_pos}, tw.InvalidArgument, "operands must be booleans"),
            ({"mask": lambda c: c.kv_pos // 1.5 < 2}, tw.InvalidArgument, "operands must be integers"),
            ({"mask": lambda c: c.q_pos < None}, TypeError, "not supported between"),
            ({"mask": e.logit > 0}, tw.InvalidArgument, "logit"),
            ({"params": {"q_pos": 1.0}}, tw.InvalidArgument, "'q_pos': that is a symbol of every variant"),
            ({"params": {"a": "float32"}}, TypeError, r"params\['a'\] is of type str: it must be tw\.scalar\(\)"),
            ({"params": {"a": True}}, TypeError, r"params\['a'\] is of type bool"),
            (
                {"logits": lambda s, c: s + c.a[c.q_head], "params": {"a": tw.table(2)}},
                tw.InvalidArgument,
                '"a" is read with 1 indices: it has rank 2',
            ),
            ({"logits": lambda s, c: c.a, "params": {"a": tw.table(1)}}, TypeError, "logits returned the table"),
            ({"logits": lambda s, c: s + c.a, "params": {"a": tw.table(1)}}, TypeError, "unsupported operand"),
            (
                {"logits": lambda s, c: c.a[0] + s, "params": {"a": tw.per_head()}},
                TypeError,
                "parameters of tw.per_head, .* have theirs",
            ),
            (
                {"logits": lambda s, c: s * c.a, "params": {"a": tw.scalar("float16")}},
                tw.InvalidArgument,
                "dtype is float16: it must be float32 or int32",
            ),
            ({"logits": lambda s, c: s * c.a, "params": {"a": tw.scalar(at="now")}}, tw.InvalidArgument, "at is 'now'"),
        ],
    )
    def test_wrong_functions(self, arguments, error, match):
        with pytest.raises(error, match=match):
            tw.variant(**arguments)

    def test_context_is_read_only(self):
        def mask(c):
            c.kv_pos = 3

        with pytest.raises(AttributeError):
            tw.variant(mask=mask)
