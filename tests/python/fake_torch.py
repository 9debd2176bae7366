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
        self.is_cpu = device == "cpu"
        self.dtype = DTYPES.get(array.dtype, "torch.strange")
        self.shape = array.shape
        self.ndim = array.ndim

    def stride(self):
        return tuple(step // self.array.itemsize for step in self.array.strides)

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

    for tensor, error, match in [
        (Tensor(x, "mps"), tw.Error, "x is on mps: tensors there are not supported"),
        (Tensor(x, "cuda", 0), tw.Error, "cuda:0"),
        (Tensor(x.astype(np.float64)), TypeError, "x has dtype torch.strange"),
        (Tensor(x.reshape((1,) * 5 + x.shape)), tw.InvalidArgument, "rank 7"),
    ]:
        try:
            tw.rms_norm(tensor, Tensor(weight))
        except error as raised:
            assert match in str(raised), raised
        else:
            raise AssertionError(f"no error for {match}")


if __name__ == "__main__":
    main()
