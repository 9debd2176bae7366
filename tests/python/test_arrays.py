# SPDX-License-Identifier: Apache-2.0
"""What goes in as an array, and of which kind the result is."""

import array
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import tilewright as tw
from reference import Requests, assert_close, attention, causal


class OnlyDLPack:
    """An array that can do nothing but __dlpack__, in its versioned or its older form."""

    def __init__(self, array, versioned=True):
        self.array = array
        self.versioned = versioned

    def __dlpack__(self, **arguments):
        if not self.versioned:
            if arguments:
                raise TypeError("unexpected keyword argument")
            return self.array.__dlpack__()
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return (1, 0)


class OnlyArrayInterface:
    def __init__(self, array):
        self.array = array

    @property
    def __array_interface__(self):
        return self.array.__array_interface__


@pytest.fixture
def request_qkv():
    return Requests.make([3], [10]).request(0)


WRAPPERS = {
    "versioned DLPack": OnlyDLPack,
    "old DLPack": lambda array: OnlyDLPack(array, versioned=False),
    "array interface": OnlyArrayInterface,
    "memoryview": memoryview,
}


@pytest.mark.parametrize("kind", WRAPPERS)
def test_other_arrays_go_in(request_qkv, kind):
    q, k, v = request_qkv
    wrap = WRAPPERS[kind]
    out = tw.single_attention(wrap(q), wrap(k), wrap(v))
    assert isinstance(out, np.ndarray)
    assert_close(out, attention(q, k, v, mask=causal)[0])


@pytest.mark.parametrize("kind", WRAPPERS)
def test_other_arrays_are_written_in_place(request_qkv, kind):
    q, _, _ = request_qkv
    out = np.zeros_like(q)
    target = WRAPPERS[kind](out)
    assert tw.rms_norm(q, np.ones(16, np.float32), out=target) is target
    assert np.array_equal(out, tw.rms_norm(q, np.ones(16, np.float32)))


@pytest.mark.parametrize("kind", ["versioned DLPack", "array interface", "memoryview"])
def test_read_only_arrays(request_qkv, kind):
    q, k, v = (np.array(x) for x in request_qkv)
    for x in (q, k, v):
        x.flags.writeable = False
    assert_close(tw.single_attention(q, k, v), attention(q, k, v, mask=causal)[0])
    wrap = WRAPPERS[kind]
    assert_close(tw.single_attention(wrap(q), wrap(k), wrap(v)), attention(q, k, v, mask=causal)[0])
    with pytest.raises(ValueError, match="out is read-only"):
        tw.rms_norm(q, np.ones(16, np.float32), out=wrap(q))


class Other:
    """An array of a library of the Python array API that is neither NumPy's nor torch's; it cannot be written."""

    class Namespace:
        @staticmethod
        def from_dlpack(exporter):
            assert exporter.__dlpack_device__() == (1, 0)
            return Other(np.from_dlpack(exporter))

        @staticmethod
        def stack(arrays, axis):
            return Other(np.stack([x.array for x in arrays], axis))

    def __init__(self, array):
        self.array = array

    def __array_namespace__(self):
        return self.Namespace

    def __dlpack__(self, **arguments):
        return self.array.__dlpack__(**arguments)


class TestOtherLibraries:
    """Results are of the caller's library where it says how its arrays are made."""

    def test_results(self, request_qkv):
        q, k, v = (Other(x) for x in request_qkv)
        out, lse = tw.single_attention(q, k, v, return_lse=True)
        assert isinstance(out, Other)
        assert isinstance(lse, Other)
        expected, expected_lse = attention(*request_qkv, mask=causal)
        assert_close(out.array, expected)
        assert_close(lse.array, expected_lse)
        assert out.array.ctypes.data % 64 == 0
        normed = tw.rms_norm(out, np.ones(16, np.float32))
        assert np.array_equal(normed.array, tw.rms_norm(out.array, np.ones(16, np.float32)))
        merged, merged_lse = tw.merge_state(out, lse, out, lse)
        assert_close(merged.array, expected)
        assert isinstance(merged_lse, Other)
        tokens = tw.sampling.sample(Other(np.eye(4, dtype=np.float32)), temperature=0)
        assert tokens.array.tolist() == [0, 1, 2, 3]

    def test_results_outlive_the_call(self, request_qkv):
        q, k, v = (Other(x) for x in request_qkv)
        results = [tw.single_attention(q, k, v).array for _ in range(50)]
        assert all(np.array_equal(results[0], other) for other in results)

    def test_given_outputs_are_the_results(self, request_qkv):
        x = request_qkv[0]
        out = np.zeros_like(x)
        assert tw.rms_norm(Other(x), np.ones(16, np.float32), out=out) is out

    def test_empty(self):
        out = tw.rms_norm(Other(np.zeros((0, 16), np.float32)), np.ones(16, np.float32))
        assert out.array.shape == (0, 16)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_jax(self, dtype):
        jax = pytest.importorskip("jax")
        batch = Requests.make([1, 4], [20, 9], dtype=dtype)
        q, k, v = (jax.numpy.asarray(x) for x in (batch.q, batch.k, batch.v))
        attn = tw.Attention(num_qo_heads=6, num_kv_heads=2, head_dim=16, dtype=dtype)
        plan = attn.plan(qo_indptr=batch.qo_indptr, kv_indptr=jax.numpy.asarray(batch.kv_indptr))
        out, lse = attn.run(plan, q, (k, v), return_lse=True)
        assert isinstance(out, jax.Array)
        assert isinstance(lse, jax.Array)
        assert out.dtype == q.dtype
        expected, expected_lse = batch.expected(mask=causal)
        assert_close(np.asarray(out), expected, dtype)
        assert_close(np.asarray(lse), expected_lse, dtype)


def test_dlpack_is_let_go():
    released = []

    class Tracked(np.ndarray):
        def __del__(self):
            released.append(True)

    x = np.ones((2, 16), np.float32).view(Tracked)
    tw.rms_norm(OnlyDLPack(x), np.ones(16, np.float32))
    assert not released
    del x
    assert released


def test_dlpack_of_another_device():
    class Elsewhere:
        def __dlpack__(self, **arguments):
            raise BufferError("cannot be exported from here")

    with pytest.raises(BufferError, match="cannot be exported"):
        tw.rms_norm(Elsewhere(), np.ones(16, np.float32))

    class NoCapsule:
        def __dlpack__(self, **arguments):
            return 3

    with pytest.raises(TypeError, match="DLPack capsule"):
        tw.rms_norm(NoCapsule(), np.ones(16, np.float32))


def test_ml_dtypes_and_their_kind():
    x = np.linspace(-1, 1, 32).reshape(2, 16)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        out = tw.rms_norm(x.astype(dtype), np.ones(16, dtype))
        assert out.dtype == dtype


def test_dtype_names():
    spec = dict(num_qo_heads=1, num_kv_heads=1, head_dim=8)
    for dtype in ("bfloat16", "bf16", ml_dtypes.bfloat16, np.dtype(ml_dtypes.bfloat16)):
        assert tw.Attention(**spec, dtype=dtype).q_dtype == "bfloat16"
    for dtype in ("f32", "float32", np.float32, np.dtype(np.float32)):
        assert tw.Attention(**spec, dtype=dtype).out_dtype == "float32"
    assert tw.Attention(**spec).q_dtype == "bfloat16"


def test_strided_and_empty_arrays():
    x = np.arange(64, dtype=np.float32).reshape(4, 16)
    weight = np.ones(16, np.float32)
    assert np.array_equal(tw.rms_norm(x[::2], weight), tw.rms_norm(x, weight)[::2])
    assert tw.rms_norm(x[:0], weight).shape == (0, 16)


def test_refused_arrays():
    weight = np.ones(16, np.float32)
    for bad, error, match in [
        (np.float32(1), ValueError, "x is a scalar"),
        (np.zeros((1,) * 7, np.float32), ValueError, "x has rank 7"),
        (np.zeros((2, 16), bool), TypeError, "x has dtype bool"),
        (np.zeros((2, 16), object), TypeError, "x has dtype object"),
        (np.zeros(129, np.uint8)[1:].view(np.float32).reshape(2, 16), ValueError, "not aligned"),
        (None, TypeError, "x is None"),
        (b"0" * 16, TypeError, "x is of type bytes"),
        (3, TypeError, "x is of type int"),
    ]:
        with pytest.raises(error, match=match):
            tw.rms_norm(bad, weight)


def test_index_lists():
    x = np.ones((3, 1, 8), np.float32)
    for positions in ([0, 1, 2], (0, 1, 2), array.array("i", [0, 1, 2]), np.arange(3), np.arange(3, dtype=np.int32)):
        assert np.array_equal(tw.apply_rope(x, positions), tw.apply_rope(x, np.arange(3)))
    with pytest.raises(TypeError, match="positions is of type list: its items must be integers"):
        tw.apply_rope(x, [0.5, 1, 2])
    with pytest.raises(ValueError, match="qo_indptr has values"):
        tw.Batch(qo_indptr=[0, 2**31])


@pytest.mark.parametrize("options", [[], ["--exchange"]], ids=["attributes", "exchange"])
def test_torch(options):
    """On a double of torch, in a process of its own: the module remembers the torch that it has met."""
    script = Path(__file__).with_name("fake_torch.py")
    subprocess.run([sys.executable, str(script), *options], check=True, timeout=120)


class TestTorch:
    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_attention(self, torch, dtype):
        batch = Requests.make([1, 4], [20, 9], dtype=dtype)
        q, k, v = (torch.from_numpy(x.astype(np.float32)).to(getattr(torch, dtype)) for x in (batch.q, batch.k, batch.v))
        attn = tw.Attention(num_qo_heads=6, num_kv_heads=2, head_dim=16, dtype=getattr(torch, dtype))
        plan = attn.plan(qo_indptr=torch.tensor([0, 1, 5]), kv_indptr=torch.tensor([0, 20, 29], dtype=torch.int32))
        out, lse = attn.run(plan, q, (k, v), return_lse=True)
        assert isinstance(out, torch.Tensor)
        assert isinstance(lse, torch.Tensor)
        assert out.dtype == q.dtype
        expected, expected_lse = batch.expected(mask=causal)
        assert_close(out.float().numpy(), expected, dtype)
        assert_close(lse.numpy(), expected_lse, dtype)

    def test_other_devices(self, torch):
        with pytest.raises(tw.Error, match="meta"):
            tw.rms_norm(torch.empty(2, 16, device="meta"), torch.ones(16))

    def test_merge_and_sample(self, torch):
        out, lse = torch.ones(2, 3, 8), torch.zeros(2, 3)
        merged, merged_lse = tw.merge_state(out, lse, out, lse)
        assert torch.equal(merged, out)
        assert torch.allclose(merged_lse, torch.full((2, 3), np.log(2.0).item()))
        tokens = tw.sampling.sample(torch.eye(4), temperature=0)
        assert tokens.dtype == torch.int32
        assert tokens.tolist() == [0, 1, 2, 3]
