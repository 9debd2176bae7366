# SPDX-License-Identifier: Apache-2.0
"""What tilewright reads of torch, on a double of it: run as a script, fails by an exception.

With `--exchange` the double has DLPack's functions for C, as torch since 2.10, and tensors that they can tell of are not
asked for their attributes.
"""

import ctypes
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
    told = False  # by C's functions

    def __init__(self, array, device="cpu", index=None):
        self.array = array
        self.device = Device(device, index)
        self.is_cpu, self.is_cuda = device == "cpu", device == "cuda"
        self.dtype = DTYPES.get(array.dtype, "torch.strange")
        self.shape = array.shape
        self.ndim = array.ndim

    def stride(self):
        assert not self.told
        return tuple(step // self.array.itemsize for step in self.array.strides)

    def get_device(self):
        return self.device.index

    def data_ptr(self):
        return self.array.ctypes.data

    def __dlpack__(self, *arguments, **keywords):
        raise AssertionError("torch tensors are read by their attributes")

    def __float__(self):
        return float(self.array)


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class ExchangeApi(ctypes.Structure):
    """DLPackExchangeAPI of DLPack 1.2, and where to find an older one."""


Borrow = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(DLTensor))
ExchangeApi._fields_ = [
    ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("older", ctypes.POINTER(ExchangeApi)),
    ("allocate", ctypes.c_void_p), ("export_managed", ctypes.c_void_p), ("import_managed", ctypes.c_void_p),
    ("borrow", Borrow), ("stream", ctypes.c_void_p),
]  # fmt: skip


@Borrow
def borrow(tensor, borrowed):
    kind = DLPACK_TYPES.get(tensor.dtype)
    if kind is None or tensor.device.type == "mps":
        return -1
    tensor.told = tensor.ndim <= 6  # more are refused, and asked why
    extents = ctypes.c_int64 * max(tensor.ndim, 1)
    tensor.kept = extents(*tensor.shape), extents(*(step // tensor.array.itemsize for step in tensor.array.strides))
    skipped = 4 * tensor.array.itemsize
    device_type, device_id = (2, tensor.device.index) if tensor.is_cuda else (1, 0)
    borrowed[0] = DLTensor(tensor.array.ctypes.data - skipped, device_type, device_id, tensor.ndim, *kind, 1, *tensor.kept, skipped)
    return 0


NEWER_API = ExchangeApi(major=2, older=ctypes.pointer(ExchangeApi(major=1, minor=3, borrow=borrow)))


def exchange_capsule():
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    return make(ctypes.addressof(NEWER_API), b"dlpack_exchange_api", None)


def empty(shape, *, dtype, device):
    return Tensor(np.empty(shape, {name: array for array, name in DTYPES.items()}[dtype]), device.type, device.index)


DTYPES = {np.dtype(t): f"torch.{t.__name__}" for t in (np.float32, np.float16, np.int32, np.int64, ml_dtypes.bfloat16)}
DLPACK_TYPES = {"torch.float32": (2, 32), "torch.float16": (2, 16), "torch.int32": (0, 32), "torch.int64": (0, 64),
                "torch.bfloat16": (4, 16)}  # fmt: skip


def main():
    import tilewright as tw

    x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 16)
    weight = np.ones(16, np.float32)
    expected = tw.rms_norm(x, weight)  # before anybody imports torch

    exchange = "--exchange" in sys.argv
    if exchange:
        Tensor.__dlpack_c_exchange_api__ = exchange_capsule()
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
    assert given.told == exchange


if __name__ == "__main__":
    main()
