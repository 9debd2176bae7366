# SPDX-License-Identifier: Apache-2.0
"""The operators, against NumPy in float64."""

import math

import ml_dtypes
import numpy as np
import pytest
import tilewright as tw
from reference import DTYPES, TOLERANCE, attention


@pytest.fixture
def random():
    return np.random.default_rng(5)


def close(actual, expected, dtype="float32"):
    assert actual.dtype == DTYPES[dtype]
    np.testing.assert_allclose(actual.astype(np.float64), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def normed(x, weight, eps=1e-6):
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight.astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms(random, dtype):
    x, residual = random.standard_normal((2, 5, 32)).astype(DTYPES[dtype])
    weight = random.standard_normal(32).astype(DTYPES[dtype])
    close(tw.rms_norm(x, weight), normed(x, weight), dtype)
    close(tw.rms_norm(x, weight, 0.5, weight_offset=1.0), normed(x, weight.astype(np.float64) + 1, 0.5), dtype)
    total = x.astype(np.float64) + residual.astype(np.float64)
    result = tw.fused_add_rms_norm(x, residual, weight, out=x)
    assert result is x
    close(residual, total, dtype)
    close(x, normed(total, weight), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm(random, dtype):
    x = (random.standard_normal((5, 2, 32)) + 1).astype(DTYPES[dtype])
    weight, bias = random.standard_normal((2, 32)).astype(DTYPES[dtype])
    wide = x.astype(np.float64)
    unit = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    close(tw.layer_norm(x, weight), unit * weight.astype(np.float64), dtype)
    expected = unit * weight.astype(np.float64) + bias.astype(np.float64)
    close(tw.layer_norm(x, weight, bias), expected, dtype)
    fp8 = tw.layer_norm(x, weight, bias, out_dtype="float8_e4m3fn", out_scale=0.5)
    exact = tw.layer_norm(x, weight, bias, out_dtype="float32")
    np.testing.assert_array_equal(fp8, (exact * 2).astype(ml_dtypes.float8_e4m3fn))
    assert tw.layer_norm(x, weight, bias, out=x) is x


@pytest.mark.parametrize("normed", [False, True])
def test_rope_and_write_kv_cache(random, normed):
    qkv = random.standard_normal((5, 8, 16)).astype(ml_dtypes.bfloat16)
    weight = random.standard_normal(16).astype(ml_dtypes.bfloat16)
    q, k, v = qkv[:, :4], qkv[:, 4:6], qkv[:, 6:]
    positions, slots = [7, 0, 300, 12, 5], [3, -1, 11, 0, 6]
    got, expected = (np.zeros((3, 2, 4, 2, 16), ml_dtypes.float8_e4m3fn) for _ in range(2))
    norm = dict(q_norm_weight=weight, k_norm_weight=weight) if normed else {}
    out = tw.apply_rope_and_write_kv_cache(
        q, k, v, positions, got, slots, rope=tw.RopeSpec(theta=500.0), k_scale=0.5, **norm
    )
    head = [tw.rms_norm(x, weight) if normed else x for x in (q, k)]
    np.testing.assert_array_equal(out, tw.apply_rope(head[0], positions, theta=500.0))
    tw.write_kv_cache(tw.apply_rope(head[1], positions, theta=500.0), v, expected, slots, k_scale=0.5)
    np.testing.assert_array_equal(got, expected)
    with pytest.raises(tw.InvalidArgument, match="one of them must be None"):
        tw.apply_rope_and_write_kv_cache(q, k, v, positions, got, slots, rope=tw.RopeSpec(), cos_sin_cache=weight)


def test_gather_rows(random):
    x = random.standard_normal((9, 20)).astype(np.float32)
    for indices in [[8, 0, 8], np.array([1, 2], np.int32), np.array([5, 3, 0], np.int64)]:
        np.testing.assert_array_equal(tw.gather_rows(x, indices), x[indices])
    got = tw.gather_rows(x, [3, 1], out_dtype="float16")
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, x[[3, 1]].astype(np.float16))
    out = np.empty((2, 20), np.float16)
    assert tw.gather_rows(x, [3, 1], out=out) is out
    np.testing.assert_array_equal(out, got)
    table = random.integers(-(2**31), 2**31, (4, 5), dtype=np.int32)
    np.testing.assert_array_equal(tw.gather_rows(table, [3, 0]), table[[3, 0]])
    with pytest.raises(tw.InvalidArgument, match=r"indices\[1\] is 9: it must be at least 0 and below 9"):
        tw.gather_rows(x, [0, 9])
    with pytest.raises(tw.InvalidArgument, match="out_dtype is float32, but out is given"):
        tw.gather_rows(x, [3, 1], out=out, out_dtype="float32")


@pytest.mark.parametrize("bitorder", ["big", "little"])
def test_pack_bits(random, bitorder):
    for shape in [(13,), (3, 21), (2, 64)]:
        for x in [random.random(shape) < 0.5, random.integers(0, 3, shape, dtype=np.uint8)]:
            got = tw.pack_bits(x, bitorder=bitorder)
            np.testing.assert_array_equal(got, np.packbits(x, axis=-1, bitorder=bitorder))
    x, indptr = random.random(50) < 0.5, [0, 3, 3, 20, 50]
    out, out_indptr = tw.segment_pack_bits(x, indptr, bitorder=bitorder)
    expected = [np.packbits(x[a:b], bitorder=bitorder) for a, b in zip(indptr, indptr[1:])]
    assert out_indptr.tolist() == [0, 1, 1, 4, 8]
    np.testing.assert_array_equal(out[: out_indptr[-1]], np.concatenate(expected))
    with pytest.raises(tw.InvalidArgument, match="bitorder is 'middle'"):
        tw.pack_bits(x, bitorder="middle")


def test_norms_into_fp8(random):
    x, residual = random.standard_normal((2, 5, 32)).astype(np.float32)
    weight = random.standard_normal(32).astype(np.float32)
    exact = tw.rms_norm(x, weight)
    got = tw.rms_norm(x, weight, out_dtype="float8_e4m3fn", out_scale=0.25)
    assert got.dtype == ml_dtypes.float8_e4m3fn
    np.testing.assert_array_equal(got, (exact / np.float32(0.25)).astype(ml_dtypes.float8_e4m3fn))
    exact = tw.fused_add_rms_norm(x, residual.copy(), weight)
    out = np.empty((5, 32), ml_dtypes.float8_e4m3fn)
    assert tw.fused_add_rms_norm(x, residual, weight, out=out, out_scale=np.array([0.5], np.float32)) is out
    np.testing.assert_array_equal(out, (exact * 2).astype(ml_dtypes.float8_e4m3fn))
    with pytest.raises(tw.InvalidArgument, match="out_dtype is float16, but out is given"):
        tw.rms_norm(x, weight, out=x, out_dtype="float16")
    with pytest.raises(tw.InvalidArgument, match="out_scale is given"):
        tw.rms_norm(x, weight, out_scale=2.0)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rope(random, interleaved):
    x = random.standard_normal((6, 3, 16)).astype(np.float32)
    positions = np.array([0, 1, 5, 1000, 2, 3])
    angle = positions[:, None, None] * 2.0 / 500.0 ** (np.arange(4) / 4)
    first, second = (x[..., 0:8:2], x[..., 1:8:2]) if interleaved else (x[..., :4], x[..., 4:8])
    rotated = (first * np.cos(angle) - second * np.sin(angle), first * np.sin(angle) + second * np.cos(angle))
    expected = x.astype(np.float64)
    if interleaved:
        expected[..., 0:8:2], expected[..., 1:8:2] = rotated
    else:
        expected[..., :4], expected[..., 4:8] = rotated
    arguments = dict(dim=8, theta=500.0, position_scale=2.0, interleaved=interleaved)
    np.testing.assert_allclose(tw.apply_rope(x, positions, **arguments), expected, atol=2e-4)
    tw.apply_rope(x, positions.astype(np.int32), **arguments, out=x)
    np.testing.assert_allclose(x, expected, atol=2e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(random, dtype):
    x = (3 * random.standard_normal((4, 24))).astype(DTYPES[dtype])
    a, b = x.astype(np.float64)[:, :12], x.astype(np.float64)[:, 12:]
    close(tw.silu_and_mul(x), a / (1 + np.exp(-a)) * b, dtype)
    close(tw.gelu_and_mul(x), a / 2 * (1 + np.vectorize(math.erf)(a / 2**0.5)) * b, dtype)
    tanh = np.tanh((2 / np.pi) ** 0.5 * (a + 0.044715 * a**3))
    close(tw.gelu_tanh_and_mul(x), a / 2 * (1 + tanh) * b, dtype)


def test_merge(random):
    q = random.standard_normal((4, 2, 8))
    k, v = random.standard_normal((2, 9, 2, 8))
    parts = [attention(q, k[a:b], v[a:b]) for a, b in ((0, 2), (2, 9))]
    expected, expected_lse = attention(q, k, v)
    values = np.stack([part[0] for part in parts], 1).astype(np.float32)
    lse = np.stack([part[1] for part in parts], 1).astype(np.float32)
    out, out_lse = tw.merge_states(values, lse)
    close(out, expected)
    close(out_lse, expected_lse)
    pair, pair_lse = tw.merge_state(values[:, 0], lse[:, 0], values[:, 1], lse[:, 1])
    assert np.array_equal(pair, out)
    assert np.array_equal(pair_lse, out_lse)
    lse[:, 0], values[:, 0] = -np.inf, np.nan
    assert np.array_equal(tw.merge_states(values, lse)[0], values[:, 1])


@pytest.mark.parametrize("index", [np.int32, np.int64, list])
@pytest.mark.parametrize("layout", ["NHD", "HND"])
def test_write_kv_cache(random, index, layout):
    k, v = random.standard_normal((2, 4, 2, 8)).astype(ml_dtypes.bfloat16)
    shape = (3, 2, 4, 2, 8) if layout == "NHD" else (3, 2, 2, 4, 8)
    cache = np.zeros(shape, ml_dtypes.bfloat16)
    slots = [5, -1, 0, 11]
    tw.write_kv_cache(k, v, cache, slots if index is list else np.array(slots, index), layout=layout)
    by_token = (cache if layout == "NHD" else cache.swapaxes(2, 3)).swapaxes(1, 2).reshape(12, 2, 2, 8)
    expected = np.zeros_like(by_token)
    for token, slot in enumerate(slots):
        if slot >= 0:
            expected[slot] = np.stack([k[token], v[token]])
    assert np.array_equal(by_token, expected)


def test_write_narrow_cache():
    k = np.full((1, 1, 8), 3.0, np.float32)
    cache = [np.zeros((2, 1, 8), ml_dtypes.float8_e4m3fn) for _ in range(2)]
    tw.write_kv_cache(k, -k, tuple(cache), [1], k_scale=2.0, v_scale=np.array([0.5], np.float32))
    assert (cache[0][1].astype(np.float32) == 1.5).all()
    assert (cache[1][1].astype(np.float32) == -6).all()


SCALES = {"number": None, "tensor": (1,), "request": (3, 1), "head": (1, 2), "request and head": (3, 2)}


@pytest.mark.parametrize("name", SCALES)
@pytest.mark.parametrize("ragged", [False, True])
def test_narrow_cache_end_to_end(random, name, ragged):
    """Written with scales, read by attention with the same ones: as the quantised values in float64."""
    shape = SCALES[name]
    lengths, heads, dim, fp8 = [5, 9, 2], 2, 16, ml_dtypes.float8_e4m3fn
    indptr = np.cumsum([0, *lengths]).astype(np.int32)
    q = random.standard_normal((3, 2 * heads, dim)).astype(np.float32)
    k, v = random.standard_normal((2, indptr[-1], heads, dim)).astype(np.float32)
    k_scale, v_scale = (
        np.float32(x) if shape is None else np.full(shape, x, np.float32) * (1 + random.random(shape, np.float32))
        for x in (0.02, 0.3)
    )
    if ragged:
        slots, cache = np.arange(indptr[-1]), tuple(np.zeros((indptr[-1], heads, dim), fp8) for _ in range(2))
    else:
        pages = random.permutation(9).astype(np.int32).reshape(3, 3)
        slots = [int(pages[r, t // 4]) * 4 + t % 4 for r, length in enumerate(lengths) for t in range(length)]
        cache = tuple(np.zeros((9, 4, heads, dim), fp8) for _ in range(2))
    scales = dict(k_scale=k_scale, v_scale=v_scale)
    tw.write_kv_cache(k, v, cache, slots, token_indptr=indptr, **scales)
    attention_ = tw.Attention(
        num_qo_heads=2 * heads, num_kv_heads=heads, head_dim=dim, dtype="float32", kv_dtype="float8_e4m3fn"
    )
    table = dict(kv_indptr=indptr) if ragged else dict(block_table=pages, kv_lens=np.array(lengths, np.int32), page_size=4)
    plan = attention_.plan(qo_indptr=[0, 1, 2, 3], **table)
    out = attention_.run(plan, q, cache, **scales)
    for r in range(3):
        rows = slice(indptr[r], indptr[r + 1])
        quantised = []
        for x, scale in ((k, k_scale), (v, v_scale)):
            of_heads = np.broadcast_to(np.reshape(scale, (1, 1)) if np.ndim(scale) < 2 else scale, (3, heads))[r][:, None]
            quantised.append((x[rows] / of_heads).astype(fp8).astype(np.float64) * of_heads)
        expected, _ = attention(q[r : r + 1], *quantised)
        np.testing.assert_allclose(out[r : r + 1], expected, atol=2e-5)


class TestErrors:
    def test_read_only_cache(self):
        k = np.zeros((1, 1, 8), np.float32)
        cache = np.zeros((2, 2, 4, 1, 8), np.float32)
        cache.flags.writeable = False
        with pytest.raises(ValueError, match="kv is read-only"):
            tw.write_kv_cache(k, k, cache, [0])
        with pytest.raises(ValueError, match="kv is read-only"):
            tw.write_kv_cache(k, k, tw.KvCache.combined(cache), [0])

    def test_slot_out_of_range(self):
        k = np.ones((2, 1, 8), np.float32)
        cache = np.zeros((2, 2, 4, 1, 8), np.float32)
        with pytest.raises(ValueError, match="8"):
            tw.write_kv_cache(k, k, cache, [0, 8])
        assert (cache == 0).all()

    def test_layout_of_a_kv_cache(self):
        k = np.zeros((1, 1, 8), np.float32)
        with pytest.raises(ValueError, match="layout is given"):
            tw.write_kv_cache(k, k, tw.KvCache.separate(k, k), [0], layout="HND")

    def test_shapes(self):
        with pytest.raises(ValueError, match="weight"):
            tw.rms_norm(np.zeros((2, 8), np.float32), np.zeros(7, np.float32))
        with pytest.raises(ValueError, match="x"):
            tw.silu_and_mul(np.zeros((2, 7), np.float32))
        with pytest.raises(ValueError, match=r"values is float32\[2, 3, 8\]"):
            tw.merge_states(np.zeros((2, 3, 8), np.float32), np.zeros((2, 3), np.float32))
        with pytest.raises(ValueError, match="threads"):
            tw.set_num_threads(0)


def test_about():
    assert tw.__version__.count(".") == 2
    assert tw.cpu_features()
    assert tw.num_threads() >= 1
