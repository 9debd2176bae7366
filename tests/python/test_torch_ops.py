# SPDX-License-Identifier: Apache-2.0
"""tilewright.torch: operators of torch.library, with fake kernels that tell the truth, in compiled models."""

import numpy as np
import pytest
import tilewright as tw

torch = pytest.importorskip("torch")
ops = pytest.importorskip("tilewright.torch")

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]),
]
HEADS, KV_HEADS, DIM, PAGE, HIDDEN = 4, 2, 64, 16, 256


@pytest.fixture(params=DEVICES)
def device(request):
    return request.param


def random(*shape, dtype=torch.bfloat16, seed=0, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def decode_plan(device, kv_lens=(5, 40, 17)):
    attention = tw.Attention(num_qo_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM, dtype="bfloat16", device=device)
    plan = tw.Plan([attention], tw.Limits(requests=4, q_tokens=4, q_len=1, kv_len=64)).prepare()

    def int32(values):
        return torch.tensor(values, dtype=torch.int32, device=device)

    table = torch.arange(12, dtype=torch.int32, device=device).reshape(3, 4)
    plan.update(tw.Batch(qo_indptr=int32([0, 1, 2, 3]), kv_lens=int32(kv_lens)),
                tables={attention: tw.PageTable.padded(table, PAGE)})  # fmt: skip
    return attention, plan


class Layer(torch.nn.Module):
    """Norm, QKV, RoPE, cache write, attention, MLP: all of the operators."""

    def __init__(self, attend, device):
        super().__init__()
        self.attend = attend
        sizes = {"qkv": (HIDDEN, (HEADS + 2 * KV_HEADS) * DIM), "up": (HEADS * DIM, 2 * HIDDEN), "norm": (HIDDEN,)}
        for seed, (name, size) in enumerate(sizes.items()):
            setattr(self, name, torch.nn.Parameter(random(*size, seed=seed, device=device) * 0.1, requires_grad=False))

    def forward(self, x, residual, cache, slots, positions):
        h = ops.fused_add_rms_norm(x, residual, self.norm)
        q, k, v = (h @ self.qkv).view(len(x), -1, DIM).split([HEADS, KV_HEADS, KV_HEADS], dim=1)
        q, k = ops.apply_rope(q, positions), ops.apply_rope(k, positions)
        ops.write_kv_cache(k, v, cache[:, 0], cache[:, 1], slots)
        out = self.attend(q, cache)
        h = ops.act_and_mul(out.flatten(1) @ self.up, "gelu_tanh")
        logits = ops.rms_norm(h, self.norm)
        return ops.sample(logits, seeds=positions), logits, out


def inputs(device):
    return (random(3, HIDDEN, device=device), random(3, HIDDEN, seed=1, device=device),
            random(12, 2, PAGE, KV_HEADS, DIM, seed=2, device=device), torch.tensor([4, 103, 144], device=device),
            torch.tensor([4, 39, 16], device=device))  # fmt: skip


def test_compiled_model_gives_what_the_eager_one_does(device):
    layer = Layer(ops.planned(*decode_plan(device)), device)
    eager_inputs, compiled_inputs = inputs(device), inputs(device)
    expected = layer(*eager_inputs)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for got, want in zip([*compiled(*compiled_inputs), *compiled_inputs], [*expected, *eager_inputs]):
        assert torch.equal(got, want)


def test_layers_are_told_apart_by_the_graph(device):
    """Two attentions under plans of their own in one compiled function."""
    first, second = (ops.planned(*decode_plan(device, lens)) for lens in ((5, 40, 17), (64, 1, 2)))
    q, cache = random(3, HEADS, DIM, device=device), random(12, 2, PAGE, KV_HEADS, DIM, seed=2, device=device)

    def both(q, cache):
        return first(q, cache), second(q, (cache[:, 0], cache[:, 1]), sm_scale=0.2, return_lse=True)

    out, (other, lse) = torch.compile(both, fullgraph=True, backend="aot_eager")(q, cache)
    assert torch.equal(out, first.attention.run(first.plan, q, cache))
    expected = second.attention.run(second.plan, q, cache, sm_scale=0.2, return_lse=True)
    assert torch.equal(other, expected[0])
    assert torch.equal(lse, expected[1])


CHECKS = ("test_schema", "test_faketensor")


def test_fake_kernels(device):
    """torch's own check: the schema's mutations, and that fake kernels give the shapes and strides of the real ones."""
    x, residual, cache, slots, positions = inputs(device)
    heads, kv_heads = random(3, HEADS, DIM, device=device), random(3, KV_HEADS, DIM, device=device)
    weight, table = random(HIDDEN, device=device), random(64, DIM, dtype=torch.float32, device=device)
    layer = ops.planned(*decode_plan(device))
    attention = torch.ops.tilewright.attention.default
    rope_and_write = torch.ops.tilewright.apply_rope_and_write_kv_cache.default
    for op, arguments in [
        (attention, (heads, [cache], layer.name, None, 1.0, 1.0, None, "NHD", False)),
        (attention, (heads, [cache[:, 0], cache[:, 1]], layer.name, 0.1, 1.0, 1.0, None, "NHD", True)),
        (torch.ops.tilewright.rms_norm.default, (x, weight)),
        (torch.ops.tilewright.fused_add_rms_norm.default, (x, residual, weight)),
        (torch.ops.tilewright.rms_norm.default, (x, weight, 1e-5, 1.0, x.dtype)),
        (torch.ops.tilewright.layer_norm.default, (x, weight)),
        (torch.ops.tilewright.layer_norm.default, (x, weight, weight)),
        (rope_and_write, (heads, kv_heads, kv_heads, positions, cache[:, 0], cache[:, 1], slots)),
        (rope_and_write, (heads, kv_heads, kv_heads, positions, cache[:, 0], cache[:, 1], slots, table)),
        (torch.ops.tilewright.gather_rows.default, (table, positions)),
        (torch.ops.tilewright.gather_rows.default, (table, positions, torch.bfloat16)),
        (torch.ops.tilewright.pack_bits.default, (residual > 0, "little")),
        (torch.ops.tilewright.apply_rope.default, (heads, positions)),
        (torch.ops.tilewright.apply_rope_with_cos_sin_cache.default, (heads, positions, table)),
        (torch.ops.tilewright.act_and_mul.default, (x,)),
        (torch.ops.tilewright.write_kv_cache.default, (kv_heads, kv_heads, cache[:, 0], cache[:, 1], slots)),
        (torch.ops.tilewright.sample.default, (x,)),
    ]:
        torch.library.opcheck(op, arguments, test_utils=CHECKS)


def test_norms_into_fp8(device):
    x, residual, *_ = inputs(device)
    weight, scale = random(HIDDEN, device=device), torch.tensor([0.25], device=device)
    fp8 = {"out_dtype": torch.float8_e4m3fn, "out_scale": scale}

    def norms(x, residual):
        return ops.rms_norm(x, weight, **fp8), ops.layer_norm(x, weight, **fp8), ops.fused_add_rms_norm(x, residual, weight, **fp8)

    got = torch.compile(norms, fullgraph=True, backend="aot_eager")(x, residual.clone())
    expected = (tw.rms_norm(x, weight, **fp8), tw.layer_norm(x, weight, **fp8),
                tw.fused_add_rms_norm(x, residual.clone(), weight, **fp8))  # fmt: skip
    for one, other in zip(got, expected):
        assert one.dtype == torch.float8_e4m3fn
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_rope_and_cache_write_in_one(device):
    """The same numbers as of the two operators, with frequencies said by number and by table."""
    _, _, cache, slots, positions = inputs(device)
    q, k, v = (random(3, heads, DIM, seed=seed, device=device) for seed, heads in enumerate((HEADS, KV_HEADS, KV_HEADS)))
    table = random(64, DIM, dtype=torch.float32, device=device)
    for rope in ({"theta": 5000.0, "interleaved": True}, {"cos_sin_cache": table}):
        apply = ops.apply_rope_with_cos_sin_cache if "cos_sin_cache" in rope else ops.apply_rope
        expected, got = cache.clone(), cache.clone()
        rotated = apply(q, positions, **rope)
        ops.write_kv_cache(apply(k, positions, **rope), v, expected[:, 0], expected[:, 1], slots)
        out = ops.apply_rope_and_write_kv_cache(q, k, v, positions, got[:, 0], got[:, 1], slots, **rope)
        assert torch.equal(out, rotated)
        assert torch.equal(got, expected)


def test_bits_of_segments(device):
    bits = random(3, HIDDEN, device=device).flatten() > 0
    indptr = torch.tensor([0, 3, 3, 700, 768], dtype=torch.int32, device=device)
    packed, out_indptr = ops.segment_pack_bits(bits, indptr)
    expected, expected_indptr = tw.segment_pack_bits(bits, indptr)
    end = int(out_indptr[-1])
    assert torch.equal(out_indptr, expected_indptr)
    assert torch.equal(packed[:end], expected[:end])
    torch.library.opcheck(torch.ops.tilewright.segment_pack_bits.default, (bits, indptr), test_utils=CHECKS)


def test_sample_takes_tensors(device):
    logits = random(8, 1000, dtype=torch.float32, device=device) * 3
    temperature = torch.full((8,), 0.7, device=device)
    seeds = torch.arange(8, device=device)
    expected = tw.sampling.sample(logits, temperature=temperature, seeds=seeds)
    assert torch.equal(ops.sample(logits, temperature=temperature, seeds=seeds), expected)


def sampled_with_outputs(logits, wanted, **parameters):
    """Of tilewright.sampling: arrays that the caller made."""
    rows, vocabulary = logits.shape

    def new(*shape, dtype=torch.float32):
        return logits.new_empty(shape, dtype=dtype)

    def log_probs(best):
        ids = {"best": new(rows, best), "best_ids": new(rows, best, dtype=torch.int32)} if best else {}
        return tw.sampling.LogProbs(chosen=new(rows), ranks=new(rows, dtype=torch.int32), **ids)

    new_outputs = {
        "kept": lambda _: new(rows, (vocabulary + 31) // 32, dtype=torch.int32),
        "probabilities": lambda _: new(rows, vocabulary),
        "masked_logits": lambda _: new(rows, vocabulary, dtype=logits.dtype),
        "raw": log_probs,
        "processed": log_probs,
    }
    outputs = tw.sampling.SamplingOutputs(**{name: new_outputs[name](value) for name, value in wanted.items()})
    return tw.sampling.sample(logits, outputs=outputs, **parameters), outputs


def tensors_of(outputs):
    fields = [outputs.kept, outputs.probabilities, outputs.masked_logits]
    for log_probs in (outputs.raw, outputs.processed):
        fields += [None] * 4 if log_probs is None else [log_probs.chosen, log_probs.ranks, log_probs.best, log_probs.best_ids]
    return fields


@pytest.mark.parametrize("wanted", [
    {},
    {"kept": True, "processed": 0},
    {"kept": True, "probabilities": True, "masked_logits": True, "raw": 5, "processed": 3},
])  # fmt: skip
def test_sampling_outputs(device, wanted):
    """Eagerly and in a compiled model, with fake kernels that tell the truth."""
    logits = random(4, 100, device=device) * 3
    given = {"temperature": torch.full((4,), 0.7, device=device), "seeds": torch.arange(4, device=device),
             "top_p": torch.full((4,), 0.8, device=device)}  # fmt: skip

    def in_model(logits):
        tokens, outputs = ops.sample_with_outputs(logits + 1, order="joint", **given, **wanted)
        return tokens, outputs, [None if x is None else x.clone() for x in tensors_of(outputs)]

    expected, expected_outputs = sampled_with_outputs(logits + 1, wanted, order="joint", **given)
    for function in (in_model, torch.compile(in_model, fullgraph=True, backend="aot_eager")):
        tokens, outputs, clones = function(logits)
        assert torch.equal(tokens, expected)
        for tensors in (tensors_of(outputs), clones):
            for one, other in zip(tensors, tensors_of(expected_outputs)):
                assert (one is None) == (other is None)
                assert one is None or (one.dtype == other.dtype and torch.equal(one, other))
    op = torch.ops.tilewright.sample_with_outputs.default
    flags = (wanted.get("kept", False), wanted.get("probabilities", False), wanted.get("masked_logits", False))
    torch.library.opcheck(op, (logits, *flags, wanted.get("raw"), wanted.get("processed")), given, test_utils=CHECKS)


def test_sampling_outputs_of_probabilities(device):
    probabilities = random(4, 100, dtype=torch.float32, device=device).softmax(-1)
    seeds = torch.arange(4, device=device)
    tokens, outputs = ops.sample_with_outputs(probabilities, seeds=seeds, input="probabilities", probabilities=True)
    assert torch.equal(tokens, ops.sample(probabilities, seeds=seeds, input="probabilities"))
    assert torch.allclose(outputs.probabilities, probabilities)


def test_top_k(device):
    logits = random(4, 100, device=device)
    compiled = torch.compile(lambda x: ops.top_k(x, 7), fullgraph=True, backend="aot_eager")
    for got in (ops.top_k(logits, 7), compiled(logits)):
        for one, other in zip(got, tw.sampling.top_k(logits, 7)):
            assert torch.equal(one, other)
    torch.library.opcheck(torch.ops.tilewright.top_k.default, (logits, 7), test_utils=CHECKS)


def test_verification(device):
    """The numbers of tilewright.speculative, and fake kernels that tell the truth."""
    target, draft = random(2, 3, 4, 50, dtype=torch.float32, device=device)
    tokens = torch.randint(50, (3, 4), generator=torch.Generator().manual_seed(1)).to(device)
    links = [link.to(device) for link in tw.speculative.tree_links(torch.tensor([[-1, 0, 0, 1]] * 3))]
    given = {"seeds": torch.arange(3, device=device), "temperature": torch.full((3,), 0.7, device=device)}
    for name, arguments, draft_rows in [
        ("verify_chain", (target, tokens[:, 1:]), draft[:, :3]),
        ("verify_tree", (target, tokens, *links), draft),
    ]:
        for options in (given, {**given, "draft": draft_rows, "threshold_acc": 0.5}):
            expected = getattr(tw.speculative, name)(*arguments, **options)
            for one, other in zip(getattr(ops, name)(*arguments, **options), expected):
                assert torch.equal(one, other)
            op = getattr(torch.ops.tilewright, name).default
            torch.library.opcheck(op, arguments, options, test_utils=CHECKS)
    tree = torch.ops.tilewright.verify_tree.default
    torch.library.opcheck(tree, (target, tokens, *links, 2), test_utils=CHECKS)


def test_errors():
    attention, plan = decode_plan("cpu")
    other = tw.Attention(num_qo_heads=1, num_kv_heads=1, head_dim=64)
    with pytest.raises(tw.InvalidArgument, match="plan was not made for this attention"):
        ops.planned(other, plan)
    layer = ops.planned(attention, plan)
    name = layer.name
    del layer
    cache = [torch.zeros(12, 2, PAGE, KV_HEADS, DIM, dtype=torch.bfloat16)]
    with pytest.raises(tw.InvalidArgument, match=f"{name} is gone: keep what"):
        torch.ops.tilewright.attention(random(3, HEADS, DIM), cache, name, None, 1.0, 1.0, None, "NHD", False)
    for name in ("raw", "processed"):
        with pytest.raises(tw.InvalidArgument, match=f"{name} is 2049: it must be in"):
            ops.sample_with_outputs(random(2, 4), **{name: 2049})
    with pytest.raises(tw.InvalidArgument, match="k is 0: it must be in"):
        ops.top_k(random(2, 4), 0)
    with pytest.raises(tw.InvalidArgument, match='activation is "relu"'):
        ops.act_and_mul(random(2, 4), "relu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_inductor_with_cuda_graphs():
    layer = Layer(ops.planned(*decode_plan("cuda")), "cuda")
    expected = layer(*inputs("cuda"))
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    for _ in range(3):
        got = [x.clone() for x in compiled(*inputs("cuda"))]
    np.testing.assert_allclose(got[1].float().cpu(), expected[1].float().cpu(), rtol=3e-2, atol=3e-2)
