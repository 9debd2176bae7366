# SPDX-License-Identifier: Apache-2.0
"""The module on a GPU, with torch tensors, against the CPU backend. Skipped without torch or a GPU."""

import itertools

import numpy as np
import pytest
import tilewright as tw

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

HEADS, KV_HEADS, DIM, PAGE = 8, 2, 128, 16
SPEC = dict(num_qo_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM)


def random(*shape, dtype=torch.bfloat16, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def int32(values):
    return torch.tensor(values, dtype=torch.int32)


class Step:
    """A batch on the CPU: queries, a combined cache, a padded table."""

    def __init__(self, q_lens, kv_lens, dtype=torch.bfloat16, columns=16):
        self.qo_indptr = int32([0, *itertools.accumulate(q_lens)])
        self.kv_lens = int32(kv_lens)
        pages = len(kv_lens) * columns
        self.table = torch.randperm(pages, generator=torch.Generator().manual_seed(1)).to(torch.int32).reshape(-1, columns)
        self.q = random(sum(q_lens), HEADS, DIM, dtype=dtype, seed=2)
        self.cache = random(pages, 2, PAGE, KV_HEADS, DIM, dtype=dtype, seed=3)
        self.dtype = str(dtype).removeprefix("torch.")

    def on(self, device):
        moved = object.__new__(Step)
        moved.dtype = self.dtype
        for name in ("qo_indptr", "kv_lens", "table", "q", "cache"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def limits(self):
        return tw.Limits(requests=8, q_tokens=96, q_len=64, kv_len=256)

    def update(self, plan, attention, **options):
        batch = tw.Batch(qo_indptr=self.qo_indptr, kv_lens=self.kv_lens)
        plan.update(batch, tables={attention: tw.PageTable.padded(self.table, PAGE)}, **options)

    def forward(self, device, **spec):
        attention = tw.Attention(**SPEC, dtype=self.dtype, device=device, **spec)
        plan = tw.Plan([attention], self.limits())
        self.update(plan, attention)
        return attention.run(plan, self.q, self.cache, return_lse=True)


def assert_same(actual, expected, dtype="bfloat16"):
    assert actual.device.type == "cuda"
    tolerance = 2e-3 if dtype == "float16" else 2e-2
    torch.testing.assert_close(actual.cpu().float(), expected.float(), rtol=tolerance, atol=tolerance)


STEPS = [([1, 1, 1], [5, 250, 16]), ([20, 1, 0, 7], [20, 100, 3, 90]), ([64], [200])]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("q_lens", "kv_lens"), STEPS)
def test_forward(q_lens, kv_lens, dtype):
    step = Step(q_lens, kv_lens, dtype)
    expected, expected_lse = step.forward("cpu")
    out, lse = step.on("cuda").forward("cuda")
    assert_same(out, expected, step.dtype)
    assert_same(lse, expected_lse)


def test_variant_from_lambdas():
    window = tw.variant(mask=lambda c: (c.kv_pos <= c.q_pos) & (c.q_pos - c.kv_pos < 40), logits=lambda s, c: s * 0.5)
    step = Step(*STEPS[1])
    assert_same(step.on("cuda").forward("cuda", variant=window)[0], step.forward("cpu", variant=window)[0])


def test_short_forms():
    q, k, v = random(5, HEADS, DIM), random(100, KV_HEADS, DIM, seed=1), random(100, KV_HEADS, DIM, seed=2)
    assert_same(tw.single_attention(q.cuda(), k.cuda(), v.cuda()), tw.single_attention(q, k, v))
    step = Step(*STEPS[1])
    attention = tw.Attention(**SPEC, device="cuda")
    plan = attention.plan(qo_indptr=step.qo_indptr.cuda(), block_table=step.table.numpy(), kv_lens=step.kv_lens.tolist(),
                          page_size=PAGE)  # fmt: skip
    assert_same(attention.run(plan, step.q.cuda(), step.cache.cuda()), step.forward("cpu")[0])


def test_outputs_are_the_callers():
    step = Step(*STEPS[0]).on("cuda")
    attention = tw.Attention(**SPEC, device="cuda")
    plan = tw.Plan([attention], step.limits())
    step.update(plan, attention)
    out = torch.empty_like(step.q)
    assert attention.run(plan, step.q, (step.cache[:, 0], step.cache[:, 1]), out=out) is out
    assert torch.equal(out, attention.run(plan, step.q, step.cache))
    assert plan.status() == [0, 0, 0]


@pytest.mark.parametrize("way", ["current", "torch stream", "handle"])
def test_streams(way):
    """What comes behind slow work on a stream is only right when it runs on that stream."""
    step = Step(*STEPS[1])
    expected = step.forward("cpu")[0]
    moved = step.on("cuda")
    attention = tw.Attention(**SPEC, device="cuda")
    plan = tw.Plan([attention], step.limits()).prepare()
    stream = torch.cuda.Stream()
    q, lens = torch.zeros_like(moved.q), torch.zeros_like(moved.kv_lens)
    out = torch.empty_like(q)
    values, moved.kv_lens = moved.kv_lens, lens
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        lens.copy_(values)
        q.copy_(moved.q)
    if way == "current":
        with torch.cuda.stream(stream):
            moved.update(plan, attention)
            attention.run(plan, q, moved.cache, out=out)
    else:
        chosen = stream if way == "torch stream" else stream.cuda_stream
        moved.update(plan, attention, stream=chosen)
        attention.run(plan, q, moved.cache, out=out, stream=chosen)
    assert not stream.query()  # nothing has waited
    stream.synchronize()
    assert_same(out, expected)


def test_graph_of_update_and_runs_replays_other_batches():
    static = Step([64], [256]).on("cuda")
    static.qo_indptr = torch.zeros(9, dtype=torch.int32, device="cuda")
    static.kv_lens = torch.zeros(8, dtype=torch.int32, device="cuda")
    static.table = torch.zeros(8, 16, dtype=torch.int32, device="cuda")
    static.cache = random(8 * 16, 2, PAGE, KV_HEADS, DIM, seed=3).cuda()
    attention = tw.Attention(**SPEC, device="cuda")
    plan = tw.Plan([attention], static.limits()).prepare()
    outs = [torch.empty_like(static.q) for _ in range(2)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        static.update(plan, attention)
        for out in outs:
            attention.run(plan, static.q, static.cache, out=out)
    for q_lens, kv_lens in [*STEPS, ([1] * 8, [40] * 8)]:
        step = Step(q_lens, kv_lens)
        requests, tokens = len(q_lens), sum(q_lens)
        static.qo_indptr.fill_(tokens)
        static.qo_indptr[: requests + 1] = step.qo_indptr.cuda()
        static.kv_lens.zero_()
        static.kv_lens[:requests] = step.kv_lens.cuda()
        static.table[:requests] = step.table.cuda()
        static.q[:tokens] = step.q.cuda()
        static.cache[: len(step.cache)] = step.cache.cuda()
        graph.replay()
        assert plan.status() == [0] * 8
        expected = step.forward("cpu")[0]
        for out in outs:
            assert_same(out[:tokens], expected)


@pytest.mark.parametrize("page", [-1, 48])
def test_bad_page_fails_its_request_alone(page):
    """A negative page is told by status(); one that the cache does not have is not read."""
    step = Step([1, 1, 1], [40, 40, 40])
    assert len(step.cache) == 48
    expected = step.forward("cpu")[0]
    moved = step.on("cuda")
    moved.table[1, 1] = page
    attention = tw.Attention(**SPEC, device="cuda")
    plan = tw.Plan([attention], step.limits())
    moved.update(plan, attention)
    out = attention.run(plan, moved.q, moved.cache)
    status = plan.status()
    assert status[0] == status[2] == 0
    assert_same(out[::2], expected[::2])
    if page < 0:
        assert status[1] != 0
        assert not out[1].any()


@pytest.mark.parametrize("variant", [tw.variants.causal(), tw.variants.causal(window_left=60), tw.variants.full()])
def test_stats_and_pieces(variant):
    step = Step([512, 1, 0, 7], [600, 900, 3, 90], columns=64).on("cuda")
    attention = tw.Attention(**SPEC, device="cuda", variant=variant)
    plan = tw.Plan([attention], tw.Limits(requests=8, q_tokens=520, q_len=512, kv_len=1024, workers=9))
    with pytest.raises(tw.Error, match="plan has no batch"):
        plan.stats(attention)
    step.update(plan, attention)
    stats, pieces = plan.stats(attention), plan.pieces(attention)
    assert stats.full_blocks <= stats.blocks == sum(piece.num_blocks for piece in pieces)
    assert len({(p.level, p.row, p.kv_head, p.tile) for p in pieces}) == stats.tiles
    assert {piece.request for piece in pieces} == {0, 1, 3}
    # The prefill's first queries are at position 88: most of the 600 keys are behind them.
    assert (stats.skipped_blocks > 0) == (variant != tw.variants.full())
    ends = {}
    for piece in pieces:
        assert piece.start == ends.get(piece.worker, 0)
        ends[piece.worker] = piece.start + piece.cost
    assert max(ends) < 9
    assert 0 < stats.balance <= 1
    with pytest.raises(tw.Error, match="not made for this attention"):
        plan.pieces(tw.Attention(**SPEC, device="cuda"))


STRIPES = tw.Variant(mask=(tw.expr.kv_pos <= tw.expr.q_pos) & ((tw.expr.kv_pos >> 6) % 2 == 1))


def on_gpu(structure, **arrays):
    """A structure that block_structure() made, its lists on the GPU."""
    names = ("request_rows", "indptr", "indices", "full")
    tensors = {name: torch.from_numpy(np.array(getattr(structure, name))).cuda() for name in names}
    sizes = dict(q_block=structure.q_block, kv_block=structure.kv_block, num_kv_heads=structure.num_kv_heads)
    return tw.BlockStructure(**sizes, **{**tensors, **arrays})


class TestBlockStructures:
    def setup_method(self):
        self.step = Step([64, 1, 0, 7], [200, 256, 3, 90])
        self.expected = self.step.forward("cpu", variant=STRIPES)[0]
        described = tw.Batch(qo_indptr=self.step.qo_indptr.numpy(), kv_lens=self.step.kv_lens.numpy())
        self.made = tw.block_structure(STRIPES, described)
        self.moved = self.step.on("cuda")
        self.attention = tw.Attention(**SPEC, device="cuda", variant=STRIPES)
        limits = dict(requests=8, q_tokens=96, q_len=64, kv_len=256)
        self.plan = tw.Plan([self.attention], tw.Limits(**limits, block_structures=True))

    def run(self, structure=None):
        blocks = None if structure is None else {self.attention: structure}
        self.moved.update(self.plan, self.attention, blocks=blocks)
        return self.attention.run(self.plan, self.moved.q, self.moved.cache)

    def test_same_outputs_less_work(self):
        assert_same(self.run(), self.expected)
        without = self.plan.stats(self.attention)
        assert_same(self.run(on_gpu(self.made)), self.expected)
        stats = self.plan.stats(self.attention)
        assert stats.blocks < without.blocks
        assert stats.blocks + stats.skipped_blocks == without.blocks + without.skipped_blocks
        assert self.plan.status() == [0] * 4

    def test_what_the_user_does_not_list_is_taken_for_empty(self):
        indices = self.made.indices.copy()
        # The second request decodes over blocks 1 and 3: the first of them alone is left.
        first, end = self.made.indptr[self.made.request_rows[1] :][:2]
        assert indices[first:end].tolist() == [1, 3]
        lists = np.delete(indices, end - 1)
        indptr = self.made.indptr.copy()
        indptr[indptr >= end] -= 1
        full = np.delete(self.made.full, end - 1)
        own = {name: torch.from_numpy(x).cuda() for name, x in [("indices", lists), ("indptr", indptr), ("full", full)]}
        out = self.run(on_gpu(self.made, **own))
        assert_same(out[:64], self.expected[:64])
        assert_same(out[65:], self.expected[65:])
        alone = self.step.forward("cpu", variant=tw.Variant(mask=(tw.expr.kv_pos >> 6) == 1))[0]
        assert_same(out[64:65], alone[64:65])

    def test_bad_lists_mark_their_request(self):
        bad = self.made.indices.copy()
        bad[self.made.indptr[self.made.request_rows[1]]] = -1
        out = self.run(on_gpu(self.made, indices=torch.from_numpy(bad).cuda()))
        assert self.plan.status() == [0, int(tw.RequestStatus.BLOCKS), 0, 0]
        assert not out[64].any()
        assert_same(out[:64], self.expected[:64])

    def test_limits_must_allow_them(self):
        plan = tw.Plan([self.attention], self.step.limits())
        with pytest.raises(tw.Error, match="block_structures must be true") as raised:
            self.moved.update(plan, self.attention, blocks={self.attention: on_gpu(self.made)})
        assert raised.value.code == "limit_exceeded"


def test_status_words_of_each_replay():
    step = Step([1, 1, 1], [40, 40, 40]).on("cuda")
    attention = tw.Attention(**SPEC, device="cuda")
    plan = tw.Plan([attention], step.limits()).prepare()
    words = torch.full((4,), 77, dtype=torch.int32, pin_memory=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step.update(plan, attention)
        plan.copy_status(words)
    for long_ones in ([1], [], [0, 2], [2]):
        step.kv_lens.fill_(40)
        step.kv_lens[long_ones] = 257
        graph.replay()
        torch.cuda.synchronize()
        expected = [int(tw.RequestStatus.KV_LEN) if r in long_ones else 0 for r in range(3)]
        assert words.tolist() == [*expected, 77]
        assert plan.status() == expected
    with pytest.raises(ValueError, match="page-locked"):
        plan.copy_status(torch.zeros(4, dtype=torch.int32))
    with pytest.raises(ValueError, match="words is"):
        plan.copy_status(torch.zeros(4, dtype=torch.int32, device="cuda"))


def test_debug_mode_raises_at_the_next_call():
    step = Step([1, 1, 1], [40, 40, 40])
    expected = step.forward("cpu")[0]
    moved = step.on("cuda")
    attention = tw.Attention(**SPEC, device="cuda")
    plan = tw.Plan([attention], step.limits())
    plan.debug = True
    moved.update(plan, attention)
    assert_same(attention.run(plan, moved.q, moved.cache), expected)
    moved.kv_lens[1] = 257
    moved.update(plan, attention)
    with pytest.raises(tw.InvalidArgument, match=r"request 1: kv_len \("):
        attention.run(plan, moved.q, moved.cache)
    assert plan.status() == [0, int(tw.RequestStatus.KV_LEN), 0]
    moved.update(plan, attention)
    moved.kv_lens[1] = 40
    with pytest.raises(tw.InvalidArgument, match=r"request 1: kv_len \("):
        moved.update(plan, attention)
    moved.update(plan, attention)
    assert_same(attention.run(plan, moved.q, moved.cache), expected)


def test_operators():
    x, residual, weight = random(6, 256), random(6, 256, seed=1), random(256, seed=2)
    assert_same(tw.rms_norm(x.cuda(), weight.cuda()), tw.rms_norm(x, weight))
    on_gpu = residual.cuda()
    assert_same(tw.fused_add_rms_norm(x.cuda(), on_gpu, weight.cuda()), tw.fused_add_rms_norm(x, residual, weight))
    assert_same(on_gpu, residual)
    for act in (tw.silu_and_mul, tw.gelu_and_mul, tw.gelu_tanh_and_mul):
        assert_same(act(x.cuda()), act(x))
    heads, positions = random(6, HEADS, DIM, seed=4), torch.arange(100, 106)
    assert_same(tw.apply_rope(heads.cuda(), positions.cuda()), tw.apply_rope(heads, positions))
    k, v, slots = random(6, KV_HEADS, DIM), random(6, KV_HEADS, DIM, seed=1), torch.tensor([3, 17, -1, 0, 31, 16])
    caches = [torch.zeros(2, 2, PAGE, KV_HEADS, DIM, dtype=torch.bfloat16, device=device) for device in ("cpu", "cuda")]
    for cache in caches:
        tw.write_kv_cache(*(x.to(cache.device) for x in (k, v)), cache, slots.to(cache.device))
    assert torch.equal(caches[1].cpu(), caches[0])
    values, lse = random(5, 3, HEADS, DIM, dtype=torch.float32), random(5, 3, HEADS, dtype=torch.float32, seed=1)
    for got, expected in zip(tw.merge_states(values.cuda(), lse.cuda()), tw.merge_states(values, lse)):
        assert_same(got, expected)


def test_sampling():
    logits = random(16, 5000, dtype=torch.float32) * 3
    seeds = torch.arange(16)
    greedy = tw.sampling.sample(logits.cuda(), temperature=0.0)
    assert greedy.dtype == torch.int32
    assert torch.equal(greedy.cpu().long(), logits.argmax(-1))
    options = dict(temperature=0.8, top_k=50, top_p=0.9, min_p=0.01)
    tokens = tw.sampling.sample(logits.cuda(), seeds=seeds.cuda(), **options).cpu()
    again = tw.sampling.sample(logits[8:].cuda(), seeds=seeds[8:].cuda(), **options).cpu()
    assert torch.equal(tokens[8:], again)
    kept = logits.topk(50, dim=-1).indices
    assert (kept == tokens[:, None]).any(-1).all()


def test_tensors_on_other_devices_are_told():
    step = Step(*STEPS[0]).on("cuda")
    attention = tw.Attention(**SPEC, device="cuda")
    plan = tw.Plan([attention], step.limits())
    step.update(plan, attention)
    with pytest.raises(tw.InvalidArgument, match="q is .*must be on cuda:0"):
        attention.run(plan, step.q.cpu(), step.cache)


def test_devices():
    devices = tw.cuda_devices()
    assert len(devices) == torch.cuda.device_count()
    assert devices[0].num_sms == torch.cuda.get_device_properties(0).multi_processor_count
    assert devices[0].arch.startswith("sm_")


def test_cupy_arrays():
    cupy = pytest.importorskip("cupy")
    x, weight = np.random.default_rng(0).standard_normal((2, 4, 64)).astype(np.float32), np.ones(64, np.float32)
    out = tw.rms_norm(cupy.asarray(x[0]), cupy.asarray(weight), stream=cupy.cuda.get_current_stream())
    cupy.cuda.get_current_stream().synchronize()
    np.testing.assert_allclose(cupy.asnumpy(out), tw.rms_norm(x[0], weight), rtol=1e-5, atol=1e-5)
