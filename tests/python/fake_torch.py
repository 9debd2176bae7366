# SPDX-License-Identifier: Apache-2.0
"""What tilewright reads of torch, on a double of it: run as a script, fails by an exception."""

import sys
import types

import ml_dtypes
import numpy as np


class Device:
    def __init__(self, kind, index=None):
        self.type = kind
        self.index = index

    def __str__(self):
        return self.type if self.index is None else f"{self.type}:{self.index}"


class Tensor:
    def __init__(self, array, device="cpu", index=None):
        self.array = array
        self.device = Device(device, index)
        self.is_cpu, self.is_cuda = device == "cpu", device == "cuda"
        self.dtype = DTYPES.get(array.dtype, "torch.strange")
        self.shape = array.shape
        self.ndim = array.ndim

    def stride(self):
        return tuple(step // self.array.itemsize for step in self.array.strides)

    def get_device(self):
        return self.device.index

    def data_ptr(self):
        return self.array.ctypes.data

    def __dlpack__(self, *arguments, **keywords):
        raise AssertionError("torch tensors are read by their attributes")

    def __float__(self):
        return float(self.array)


def empty(shape, *, dtype, device):
    return Tensor(np.empty(shape, {name: array for array, name in DTYPES.items()}[dtype]), device.type, device.index)


DTYPES = {np.dtype(t): f"torch.{t.__name__}" for t in (np.float32, np.float16, np.int32, np.int64, ml_dtypes.bfloat16)}


def main():
    import tilewright as tw

    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 16)
    weight = np.ones(16, np.float32)
    expected = tw.rms_norm(x, weight)  # before anybody imports torch

    torch = types.ModuleType("torch")
    torch.Tensor, torch.empty = Tensor, empty
    for name in DTYPES.values():
        setattr(torch, name.removeprefix("torch."), name)
    asked = []  # of which GPU's current stream
    torch._C = types.SimpleNamespace(_cuda_getCurrentRawStream=lambda gpu: asked.append(gpu) or 7)
    sys.modules["torch"] = torch

    out = tw.rms_norm(Tensor(x), Tensor(weight))
    assert isinstance(out, Tensor)
    assert np.array_equal(out.array, expected)
    assert np.array_equal(tw.rms_norm(Tensor(x[::2]), Tensor(weight)).array, expected[::2])
    assert isinstance(tw.rms_norm(x, weight), np.ndarray)

    narrow = tw.rms_norm(Tensor(x.astype(ml_dtypes.bfloat16)), Tensor(weight.astype(ml_dtypes.bfloat16)))
    assert narrow.dtype == "torch.bfloat16"
    given = Tensor(np.zeros_like(x))
    assert tw.rms_norm(Tensor(x), Tensor(weight), out=given) is given
    assert np.array_equal(given.array, expected)
    tokens = tw.sampling.sample(Tensor(np.eye(4, dtype=np.float32)), temperature=Tensor(np.zeros((), np.float32)))
    assert tokens.dtype == "torch.int32"
    assert tokens.array.tolist() == [0, 1, 2, 3]

    # On the CPU a stream is read and has no effect.
    class Stream:
        cuda_stream = 7

    class OtherStream:
        def __cuda_stream__(self):
            return 0, 7

    for stream in (None, 7, Stream(), OtherStream()):
        assert np.array_equal(tw.rms_norm(Tensor(x), Tensor(weight), stream=stream).array, expected)
    try:
        tw.rms_norm(Tensor(x), Tensor(weight), stream="7")
    except TypeError as raised:
        assert "stream is of type str: it must be an integer handle" in str(raised)
    else:
        raise AssertionError("no error for a stream that is a text")

    for tensor, error, match in [
        (Tensor(x, "mps"), tw.Error, "x is on mps: tensors there are not supported"),
        (Tensor(x, "cuda", 1), tw.Error, "cuda:1"),
        (Tensor(x.astype(np.float64)), TypeError, "x has dtype torch.strange"),
        (Tensor(x.reshape((1,) * 5 + x.shape)), tw.InvalidArgument, "rank 7"),
    ]:
        try:
            tw.rms_norm(tensor, Tensor(weight))
        except error as raised:
            assert match in str(raised), raised
        else:
            raise AssertionError(f"no error for {match}")
    assert asked == [1]


if __name__ == "__main__":
    main()
