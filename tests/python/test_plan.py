# SPDX-License-Identifier: Apache-2.0
"""Plans: several attentions, workspaces, lifetimes, threads, and what they refuse."""

import gc
import threading

import numpy as np
import pytest
import tilewright as tw
from reference import Requests, assert_close, causal

SPEC = dict(num_qo_heads=6, num_kv_heads=2, head_dim=16, dtype="float32")


@pytest.fixture
def batch():
    return Requests.make([1, 5, 1], [40, 12, 3])


@pytest.fixture
def attn():
    return tw.Attention(**SPEC)


def limits(**arguments):
    return tw.Limits(**{**dict(requests=4, q_tokens=16, q_len=8, kv_len=64), **arguments})


def ragged_plan(attn, batch, **arguments):
    plan = tw.Plan([attn], limits(), **arguments).prepare()
    plan.update(tw.Batch(qo_indptr=batch.qo_indptr), tables={attn: tw.PageTable.ragged(batch.kv_indptr)})
    return plan


def test_two_attentions_with_other_tables(batch):
    """Layers with a window beside layers without, in one plan: each has a page table of its own."""
    window = tw.Attention(**SPEC, variant=tw.variants.causal(window_left=6))
    full = tw.Attention(**SPEC, variant=tw.variants.causal())
    plan = tw.Plan([window, full], limits()).prepare()
    step = tw.Batch(qo_indptr=batch.qo_indptr, kv_lens=batch.kv_lens)
    caches, tables = {}, {}
    for seed, attn in enumerate((window, full)):
        caches[attn], indptr, indices, _ = batch.paged(4, seed=seed)
        tables[attn] = tw.PageTable.padded(batch.block_table(indptr, indices), 4)
    plan.update(step, tables=tables)
    assert plan.attentions == (window, full)
    out = window.run(plan, batch.q, caches[window])
    assert_close(out, batch.expected(mask=lambda q, k: (k <= q) & (k >= q - 6))[0])
    assert_close(full.run(plan, batch.q, caches[full]), batch.expected(mask=causal)[0])
    assert plan.stats(window).kv_bytes <= plan.stats(full).kv_bytes
    assert plan.stats(full).tiles > 0
    assert list(plan.status()) == [0, 0, 0]


def test_pieces_are_every_block_once(attn, batch):
    plan = ragged_plan(attn, batch)
    pieces, stats = plan.pieces(attn), plan.stats(attn)
    assert sum(piece.num_blocks for piece in pieces) == stats.blocks
    tiles = {(piece.level, piece.row, piece.kv_head, piece.tile) for piece in pieces}
    assert len(tiles) == stats.tiles
    assert {piece.request for piece in pieces} == {0, 1, 2}
    ends = {}
    for piece in pieces:
        assert piece.start == ends.get(piece.worker, 0)
        ends[piece.worker] = piece.start + piece.cost
    assert "num_blocks=" in repr(pieces[0])
    with pytest.raises(tw.Error, match="not made for"):
        plan.pieces(tw.Attention(**{**SPEC, "num_kv_heads": 3}))


def test_one_plan_serves_many_batches(attn):
    plan = tw.Plan([attn], limits()).prepare()
    for seed, (q_lens, kv_lens) in enumerate([([1], [1]), ([4, 1], [4, 64]), ([0, 2, 1, 1], [0, 2, 30, 9])]):
        batch = Requests.make(q_lens, kv_lens, seed=seed)
        plan.update(tw.Batch(qo_indptr=batch.qo_indptr), tables={attn: tw.PageTable.ragged(batch.kv_indptr)})
        assert_close(attn.run(plan, batch.q, (batch.k, batch.v)), batch.expected(mask=causal)[0])


def test_plan_parameters(batch):
    """A window that is given with the plan: its mask decides which tiles exist."""
    window = tw.Param("window", dtype="int32")
    e = tw.expr
    variant = tw.Variant(mask=(e.kv_pos <= e.q_pos) & (e.kv_pos > e.q_pos - window()))
    attn = tw.Attention(**SPEC, variant=variant)
    plan = tw.Plan([attn], limits()).prepare()
    table = tw.PageTable.ragged(batch.kv_indptr)
    for width in (1, 5):
        plan.update(
            tw.Batch(qo_indptr=batch.qo_indptr), tables={attn: table}, params={attn: {"window": width}}
        )
        expected, _ = batch.expected(mask=lambda q, k, width=width: (k <= q) & (k > q - width))
        assert_close(attn.run(plan, batch.q, (batch.k, batch.v)), expected)
    short = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr, params={"window": 5})
    assert_close(attn.run(short, batch.q, (batch.k, batch.v)), expected)


def aligned_workspace(size):
    buffer = np.empty(size + 256, np.uint8)
    start = -buffer.ctypes.data % 256
    return buffer[start : start + size]


def test_workspace_of_the_caller(attn, batch):
    size = tw.Plan.workspace_bytes([attn], limits())
    assert size > 0
    plan = ragged_plan(attn, batch, workspace=aligned_workspace(size))
    gc.collect()
    _ = [np.full(size, 255, np.uint8) for _ in range(4)]  # would take the memory, had it been freed
    assert_close(attn.run(plan, batch.q, (batch.k, batch.v)), batch.expected(mask=causal)[0])


@pytest.mark.parametrize("problem", ["small", "read-only", "wrong dtype"])
def test_bad_workspace(attn, problem):
    size = tw.Plan.workspace_bytes([attn], limits())
    workspace = aligned_workspace(size - 256 if problem == "small" else size)
    if problem == "wrong dtype":
        workspace = workspace.view(np.int8)
    if problem == "read-only":
        workspace.flags.writeable = False
    with pytest.raises(ValueError, match="workspace"):
        tw.Plan([attn], limits(), workspace=workspace)


@pytest.mark.parametrize("form", ["csr", "padded"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_short_form_keeps_its_arrays(attn, batch, form, dtype):
    cache, indptr, indices, last = batch.paged(4)
    q_pos = np.concatenate([np.arange(m - n, m) for n, m in zip(batch.q_lens, batch.kv_lens)])
    arguments = dict(qo_indptr=batch.qo_indptr.astype(dtype), page_size=4, q_pos=q_pos.astype(dtype))
    if form == "csr":
        arguments |= dict(
            kv_indptr=indptr.astype(dtype), kv_indices=indices.astype(dtype), kv_last_page_len=last.astype(dtype)
        )
    else:
        table = batch.block_table(indptr, indices)
        arguments |= dict(block_table=table.astype(dtype), kv_lens=np.array(batch.kv_lens, dtype))
    plan = attn.plan(**arguments)
    del arguments
    gc.collect()
    _ = [np.full(64, 12345678, dtype) for _ in range(200)]
    assert_close(attn.run(plan, batch.q, cache), batch.expected(mask=causal)[0])


def test_update_keeps_its_arrays(attn, batch):
    cache, indptr, indices, last = batch.paged(4)
    plan = tw.Plan([attn], limits()).prepare()
    table = tw.PageTable.csr(indptr.copy(), indices.copy(), 4, last.copy())
    tables = {attn: [tw.Level(table)]}
    plan.update(tw.Batch(qo_indptr=batch.qo_indptr.copy()), tables=tables)
    tables.clear()
    del table, tables
    gc.collect()
    _ = [np.full(64, 12345678, np.int32) for _ in range(200)]
    assert_close(attn.run(plan, batch.q, cache), batch.expected(mask=causal)[0])


def test_threads_with_plans_of_their_own(attn):
    problems = []

    def work(seed):
        try:
            batch = Requests.make([1, 3], [30 + seed, 8], seed=seed)
            expected, _ = batch.expected(mask=causal)
            for _ in range(20):
                plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr)
                assert_close(attn.run(plan, batch.q, (batch.k, batch.v)), expected)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_threads_on_one_plan_are_refused_or_right(attn):
    """Two runs at once of one plan never give wrong results: one of them may be refused."""
    batch = Requests.make([8, 8], [600, 600])
    plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=batch.kv_indptr)
    expected, _ = batch.expected(mask=causal)
    refused, problems = [], []

    def work():
        for _ in range(30):
            try:
                assert_close(attn.run(plan, batch.q, (batch.k, batch.v)), expected)
            except tw.Error as error:
                refused.append(error)
            except BaseException as error:
                problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(refused) < 90
    assert all(error.code == "invalid_state" and "in use by another thread" in str(error) for error in refused)


def test_equality_and_hash(attn):
    other = tw.Attention(**SPEC)
    assert attn == attn
    assert attn != other
    assert attn != 3
    assert len({attn, other, attn}) == 2


def test_supports():
    assert tw.supports("cpu", **SPEC).ok
    wide = {**SPEC, "head_dim": 264}
    no = tw.supports("cuda", **wide)
    assert not no.ok
    assert "head_dim is 264, head_dim_vo 264: CUDA kernels take at most 256" in no.reason
    with pytest.raises(tw.Error) as raised:
        tw.Attention(**wide, device="cuda:0")
    assert raised.value.code == "not_supported"
    with pytest.raises(ValueError, match="num_qo_heads"):
        tw.supports("cpu", **{**SPEC, "num_qo_heads": 5})


class TestErrors:
    def test_limit_exceeded(self, attn, batch):
        plan = tw.Plan([attn], limits(kv_len=39)).prepare()
        with pytest.raises(tw.Error, match="kv_len") as raised:
            plan.update(tw.Batch(qo_indptr=batch.qo_indptr), tables={attn: tw.PageTable.ragged(batch.kv_indptr)})
        assert raised.value.code == "limit_exceeded"
        assert not isinstance(raised.value, ValueError)
        _, indptr, indices, last = batch.paged(4)
        for table in (tw.PageTable.csr(indptr, indices, 4, last), tw.PageTable.contiguous(40)):
            with pytest.raises(tw.Error, match="kv_len"):
                plan.update(tw.Batch(qo_indptr=batch.qo_indptr), tables={attn: table})

    def test_attention_of_another_plan(self, attn, batch):
        plan = ragged_plan(attn, batch)
        with pytest.raises(tw.Error) as raised:
            tw.Attention(**SPEC).run(plan, batch.q, (batch.k, batch.v))
        assert raised.value.code == "invalid_state"

    def test_not_updated(self, attn, batch):
        with pytest.raises(tw.Error) as raised:
            attn.run(tw.Plan([attn], limits()), batch.q, (batch.k, batch.v))
        assert raised.value.code == "invalid_state"

    @pytest.mark.parametrize("name", ["qo_indptr", "kv_lens", "q_pos", "q_pos_offset", "num_requests"])
    def test_batch_takes_int32_only(self, name):
        arguments = {"qo_indptr": [0, 1], name: np.array([0, 1])}
        with pytest.raises(TypeError, match=rf"{name} is int64\[2\].*int32"):
            tw.Batch(**arguments)

    def test_tables_take_int32_only(self):
        wide = np.zeros((2, 3), np.int64)
        for name, make in {
            "block_table": lambda: tw.PageTable.padded(wide, 16),
            "indices": lambda: tw.PageTable.csr([0, 3], wide[0], 16),
            "slots": lambda: tw.PageTable.token_slots(wide),
            "kv_indptr": lambda: tw.PageTable.ragged(wide[0]),
            "kv_pos": lambda: tw.Level(tw.PageTable.contiguous(3), kv_pos=wide[0]),
        }.items():
            with pytest.raises(TypeError, match=f"{name} is int64"):
                make()

    def test_update_arguments(self, attn, batch):
        plan = tw.Plan([attn], limits())
        step = tw.Batch(qo_indptr=batch.qo_indptr)
        table = tw.PageTable.ragged(batch.kv_indptr)
        with pytest.raises(TypeError, match="tables is of type PageTable"):
            plan.update(step, tables=table)
        with pytest.raises(TypeError, match="key that is of type str"):
            plan.update(step, tables={"a": table})
        with pytest.raises(TypeError, match="value that is of type ndarray"):
            plan.update(step, tables={attn: batch.kv_indptr})
        with pytest.raises(ValueError, match="params has an attention"):
            plan.update(step, tables={attn: table}, params={tw.Attention(**SPEC): {}})
        with pytest.raises(ValueError, match="nonsense"):
            plan.update(step, tables={attn: table}, params={attn: {"nonsense": 1}})

    def test_short_form(self, attn):
        with pytest.raises(ValueError, match="the KV is missing"):
            attn.plan(qo_indptr=[0, 1])
        with pytest.raises(ValueError, match="page_size is missing"):
            attn.plan(qo_indptr=[0, 1], kv_indptr=[0, 1], kv_indices=[0], kv_last_page_len=[1])
        with pytest.raises(ValueError, match="kv_last_page_len is missing"):
            attn.plan(qo_indptr=[0, 1], kv_indptr=[0, 1], kv_indices=[0], page_size=4)
        with pytest.raises(ValueError, match="kv_lens is missing"):
            attn.plan(qo_indptr=[0, 1], block_table=[[0]], page_size=4)
        with pytest.raises(ValueError, match="kv_indices is given"):
            attn.plan(qo_indptr=[0, 1], block_table=[[0]], kv_lens=[1], page_size=4, kv_indices=[0])
        with pytest.raises(ValueError, match="kv_indices is missing"):
            attn.plan(qo_indptr=[0, 1], kv_indptr=[0, 1], page_size=4)
        with pytest.raises(TypeError, match="kv_indptr has dtype float64"):
            attn.plan(qo_indptr=[0, 1], kv_indptr=[0.0, 1.5])
        with pytest.raises(ValueError, match="qo_indptr has values .* int32"):
            attn.plan(qo_indptr=[0, 2**40], kv_indptr=[0, 1])
        with pytest.raises(ValueError, match="qo_indptr"):
            attn.plan(qo_indptr=[], kv_indptr=[0, 1])

    def test_malformed_values(self, attn):
        with pytest.raises(tw.InvalidArgument, match="qo_indptr") as raised:
            attn.plan(qo_indptr=[0, 3, 1], kv_indptr=[0, 3, 4])
        assert raised.value.code == "invalid_argument"
        for length in (0, 5):
            with pytest.raises(ValueError, match="last_page_len"):
                attn.plan(
                    qo_indptr=[0, 1], kv_indptr=[0, 1], kv_indices=[0], kv_last_page_len=[length], page_size=4
                )

    def test_page_out_of_range(self, attn):
        plan = attn.plan(qo_indptr=[0, 1], block_table=[[9]], kv_lens=[3], page_size=4)
        cache = np.zeros((9, 2, 4, 2, 16), np.float32)
        with pytest.raises(ValueError, match="9"):
            attn.run(plan, np.zeros((1, 6, 16), np.float32), cache)

    @pytest.mark.parametrize(
        ("arguments", "error", "match"),
        [
            ({"q": [[1.0]]}, TypeError, "q is of type list: it must be an array"),
            ({"q": None}, ValueError, "q is None"),
            ({"q": np.zeros((2, 6, 16))}, TypeError, "q has dtype float64"),
            ({"q": np.zeros((2, 6, 16), ">f4")}, TypeError, "q has dtype >f4.*native byte order"),
            ({"q": np.zeros((2, 6, 16), np.float16)}, ValueError, "q is float16"),
            ({"q": np.zeros((2, 5, 16), np.float32)}, ValueError, "q is float32"),
            ({"q": np.zeros((2, 96), np.float32)}, ValueError, "q is float32"),
            ({"q": np.zeros((16, 6, 2), np.float32).T}, ValueError, "q is float32.*contiguous"),
            ({"kv": (np.zeros((2, 2, 16), np.float32),)}, TypeError, r"kv is a tuple of 1: it must be \(k, v\)"),
            ({"kv": "cache"}, TypeError, "kv is of type str"),
            ({"kv": np.zeros((2, 2, 16), np.float32)}, ValueError, "kv"),
            ({"kv": np.zeros((2, 2, 1, 2, 16), np.float32), "layout": "HDN"}, ValueError, "layout is 'HDN'"),
            ({"out": np.zeros((2, 6, 8), np.float32)}, ValueError, "out is float32"),
            ({"lse": np.zeros((2, 6), np.float16)}, ValueError, "lse is float16"),
            ({"padding": "none"}, ValueError, "padding is 'none': it must be \"keep\" or \"zero\""),
            ({"params": {"nonsense": 1.0}}, ValueError, "nonsense"),
            ({"params": [1]}, TypeError, "params is of type list"),
            ({"params": {1: 1.0}}, TypeError, "params has a key"),
            ({"sinks": np.zeros(5, np.float32)}, ValueError, "sinks is float32"),
            ({"k_scale": "two"}, TypeError, "k_scale is of type str"),
        ],
    )
    def test_run_arguments(self, attn, arguments, error, match):
        plan = attn.plan(qo_indptr=[0, 2], kv_indptr=[0, 2])
        kv = np.zeros((2, 2, 16), np.float32)
        call = {"q": np.zeros((2, 6, 16), np.float32), "kv": (kv, kv), **arguments}
        with pytest.raises(error, match=match):
            attn.run(plan, call.pop("q"), call.pop("kv"), **call)

    def test_read_only_output(self, attn):
        plan = attn.plan(qo_indptr=[0, 1], kv_indptr=[0, 1])
        kv = np.zeros((1, 2, 16), np.float32)
        out = np.zeros((1, 6, 16), np.float32)
        out.flags.writeable = False
        with pytest.raises(ValueError, match="out is read-only"):
            attn.run(plan, out, (kv, kv), out=out)

    def test_attention_arguments(self):
        with pytest.raises(TypeError, match="dtype is complex64"):
            tw.Attention(**{**SPEC, "dtype": np.complex64})
        with pytest.raises(ValueError, match="device is"):
            tw.Attention(**SPEC, device="tpu")
        with pytest.raises(TypeError):
            tw.Attention(6, 2, 16)
        with pytest.raises(ValueError, match="head_dim"):
            tw.Attention(**{**SPEC, "head_dim": 20})
        with pytest.raises(ValueError, match="determinism is 'no'"):
            limits(determinism="no")
        with pytest.raises(TypeError, match="attentions"):
            tw.Plan(tw.Attention(**SPEC), limits())
        with pytest.raises(TypeError, match="attentions has an item"):
            tw.Plan([3], limits())
