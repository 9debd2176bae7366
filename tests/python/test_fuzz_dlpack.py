# SPDX-License-Identifier: Apache-2.0
"""DLPack tensors of every kind of malformation: each is read as it says, or raises; nothing crashes.

Cases are made from a seed and an index. `python tests/python/test_fuzz_dlpack.py --cases 1000000 --seed 1` runs more of
them than the test does, and `--first N --cases 1` one alone.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import random
import sys
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import pytest
import tilewright as tw
from tilewright import _tilewright

CASES = 3000
# (code, bits) of DLPack -> the library's dtypes.
DTYPES = {
    (2, 32): np.float32,
    (2, 16): np.float16,
    (4, 16): ml_dtypes.bfloat16,
    (10, 8): ml_dtypes.float8_e4m3fn,
    (12, 8): ml_dtypes.float8_e5m2,
    (0, 8): np.int8,
    (0, 32): np.int32,
    (0, 64): np.int64,
    (1, 8): np.uint8,
}
HUGE = [2**31, 2**40, 2**61, 2**62, 2**63 - 1, -1, -(2**31), -(2**62), -(2**63)]
CPU, CUDA, CUDA_HOST = 1, 2, 3


class DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class Managed(ctypes.Structure):
    _fields_ = [("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    ]


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


@dataclass
class Case:
    """A tensor in an arena of bytes, as an exporter would tell of it."""

    arena: np.ndarray = field(repr=False)
    shape: list[int] | None
    strides: list[int] | None
    offset: int  # of the data pointer in the arena; None: a null pointer
    ndim: int
    dtype: tuple[int, int]
    lanes: int = 1
    byte_offset: int = 0
    device: int = CPU
    version: tuple[int, int] | None = (1, 1)
    name: bytes = b"dltensor_versioned"
    flags: int = 0
    null: bool = False

    def __dlpack__(self, **arguments):
        tensor = DLTensor(
            0 if self.null else self.arena.ctypes.data + self.offset,
            self.device,
            0,
            self.ndim,
            *self.dtype,
            self.lanes,
            int64s(self.shape),
            int64s(self.strides),
            self.byte_offset % 2**64,
        )
        if self.version is None:
            self.managed = Managed(tensor)
        else:
            self.managed = Versioned(*self.version, None, None, self.flags, tensor)
        return new_capsule(ctypes.addressof(self.managed), self.name, None)

    def __dlpack_device__(self):
        return (self.device, 0)

    @property
    def bytes(self):
        return self.dtype[1] // 8

    @property
    def effective_strides(self):
        """Row-major where none are given."""
        if self.strides is not None:
            return self.strides
        strides, stride = [], 1
        for extent in reversed(self.shape):
            strides.insert(0, stride)
            stride *= extent
        return strides

    def extent_in_bytes(self):
        """The bytes of the arena that elements lie in, [begin, end)."""
        begin = end = self.offset + self.byte_offset
        for extent, stride in zip(self.shape, self.effective_strides):
            reach = (extent - 1) * stride * self.bytes
            begin, end = begin + min(reach, 0), end + max(reach, 0)
        return begin, end + self.bytes

    def is_readable(self):
        """Whether the library must take it; what it cannot know (whether memory is there) aside."""
        if self.name != (b"dltensor" if self.version is None else b"dltensor_versioned"):
            return False
        if self.version is not None and self.version[0] != 1:
            return False
        if self.shape is None or not 1 <= self.ndim <= 6 or min(self.shape) < 0:
            return False
        if self.dtype not in DTYPES or self.lanes != 1 or self.device not in (CPU, CUDA, CUDA_HOST):
            return False
        if np.prod([max(extent, 1) for extent in self.shape], dtype=object) * self.bytes >= 2**63:
            return False
        if 0 in self.shape:
            return True
        if self.null:
            return False
        steps = [
            (stride * self.bytes, (extent - 1) * stride * self.bytes)
            for extent, stride in zip(self.shape, self.effective_strides)
            if extent > 1
        ]
        if any(not -(2**63) <= step < 2**63 for pair in steps for step in pair):
            return False
        begin, end = (self.arena.ctypes.data + offset for offset in self.extent_in_bytes())
        return begin >= 0 and end < 2**63 and (self.arena.ctypes.data + self.offset + self.byte_offset) % self.bytes == 0

    def can_be_used(self):
        """Whether all its elements are in the arena, and few."""
        if 0 in self.shape:
            return max(self.shape) < 2**12
        if np.prod(self.shape, dtype=object) > 2**12:
            return False
        begin, end = self.extent_in_bytes()
        return 0 <= begin and end <= self.arena.size

    def array(self):
        """What it says, by NumPy."""
        strides = [
            stride * self.bytes if extent > 1 else 0 for extent, stride in zip(self.shape, self.effective_strides)
        ]
        if 0 in self.shape:
            return np.zeros(self.shape, DTYPES[self.dtype])
        return np.ndarray(self.shape, DTYPES[self.dtype], self.arena, self.offset + self.byte_offset, strides)


def int64s(values):
    return None if values is None else (ctypes.c_int64 * max(len(values), 1))(*values)


def random_case(rng, shape, dtype):
    """A tensor that is well-formed, with random strides inside an arena of small finite numbers."""
    rank, size = len(shape), dtype[1] // 8
    strides, stride = [0] * rank, 1
    for dim in rng.sample(range(rank), rank) if rng.random() < 0.2 else range(rank - 1, -1, -1):
        strides[dim] = stride if dim == rank - 1 else stride * rng.choice([1, 1, 1, -1])
        stride *= max(shape[dim], 1) * rng.choice([1, 1, 2, 3])
        if rng.random() < 0.05:
            strides[dim] = rng.choice([0, -1, 2])
    below = sum((extent - 1) * -step for extent, step in zip(shape, strides) if step < 0 and extent > 1) * size
    above = sum((extent - 1) * step for extent, step in zip(shape, strides) if step > 0 and extent > 1) * size
    arena = np.frombuffer(rng.randbytes(below + above + size + 64), np.uint8).copy()
    base = -arena.ctypes.data % 8 + below
    if dtype[0] < 2:  # integers that may be indices
        arena &= rng.choice([0, 1, 3])
        arena[(np.arange(len(arena)) - base) % size != 0] = 0
    else:
        arena &= 0x3B
    byte_offset = rng.choice([0, 0, min(base - base % size, 8)])
    case = Case(arena, list(shape), strides, base - byte_offset, rank, dtype, byte_offset=byte_offset)
    if rng.random() < 0.2:
        case.strides = None
    if rng.random() < 0.3:
        case.version, case.name = None, b"dltensor"
    return case


def spoil(case, rng):
    """Makes one or two things of it malformed, or merely unusual."""
    for _ in range(rng.choice([1, 1, 2])):
        what = rng.randrange(14)
        dim = rng.randrange(len(case.shape)) if case.shape else 0
        if what == 0:
            case.ndim = rng.choice([0, -1, 7, 2**31 - 1, -(2**31)])
        elif what == 1:
            case.shape = None
        elif what in (2, 3) and case.shape:
            case.shape[dim] = rng.choice([*HUGE, 0, 1])
        elif what in (4, 5) and case.strides:
            case.strides[dim] = rng.choice([*HUGE, 0, 1])
        elif what == 6:
            case.dtype = rng.choice([(2, 64), (3, 64), (5, 64), (6, 8), (0, 16), (1, 32), (2, 0), (255, 255), (4, 32)])
        elif what == 7:
            case.lanes = rng.choice([0, 2, 4, 65535])
        elif what == 8:
            case.device = rng.choice([0, CUDA, CUDA_HOST, 4, 8, 10, 13, -1, 2**31 - 1])
        elif what == 9:
            case.version, case.name = (rng.choice([0, 2, 3, 2**32 - 1]), rng.randrange(3)), b"dltensor_versioned"
        elif what == 10:
            case.name = rng.choice([b"used_dltensor", b"used_dltensor_versioned", b"", b"tensor", b"dltensor "])
        elif what == 11:
            case.null = True
        elif what == 12:
            case.byte_offset = rng.choice([1, 2, 4, 2**40, 2**62, 2**63, 2**64 - 1, 2**64 - 8])
        else:
            case.flags = rng.choice([1, 2, 3, 2**64 - 1])


def check_reading(case):
    """The library reads shape and dtype as they are told, or raises one of its errors."""
    try:
        shape, dtype, _ = _tilewright._describe(case, "x")
    except (tw.InvalidArgument, TypeError) as error:
        assert not case.is_readable(), error
        assert str(error)
        return False
    assert case.is_readable()
    assert list(shape) == case.shape
    assert dtype == np.dtype(DTYPES[case.dtype]).name
    return True


FLOATS = np.ones((3, 2, 8), np.float32)


def paged(table):
    attn = tw.Attention(num_qo_heads=2, num_kv_heads=2, head_dim=8, dtype="float32")
    plan = attn.plan(qo_indptr=[0, 1, 2], block_table=table, kv_lens=[3, 2], page_size=2)
    cache = np.arange(4 * 2 * 2 * 2 * 8, dtype=np.float32).reshape(4, 2, 2, 2, 8) % 5
    return attn.run(plan, FLOATS[:2], cache)


def updated(qo_indptr):
    attn = tw.Attention(num_qo_heads=2, num_kv_heads=2, head_dim=8, dtype="float32")
    plan = tw.Plan([attn], tw.Limits(requests=16, q_tokens=4096, q_len=4096, kv_len=4096))
    plan.update(tw.Batch(qo_indptr=qo_indptr, kv_lens=[4] * 16), tables={attn: tw.PageTable.contiguous(4)})
    return np.array(plan.status())


def copied(k):
    caches = np.zeros((2, 4, 1, 2, 8), np.float32)
    tw.write_kv_cache(k, k, tuple(caches), [3, -1, 0])
    return caches


def slots_written(slots):
    pages = np.zeros((4, 2, 2, 2, 8), np.float32)
    tw.write_kv_cache(FLOATS, FLOATS, pages, slots)
    return pages


REAL = [(2, 32), (2, 16), (4, 16)]
INT32, INT64 = [(0, 32)], [(0, 64)]
# Calls that take a tensor in the place of one of their arguments, and what it mostly is there.
OPERATORS = [
    (lambda n, m: [n, m], REAL, lambda x: tw.rms_norm(x, np.ones(8, np.float32))),
    (lambda n, m: [n, 2, 8], REAL, lambda x: tw.rms_norm(x, np.ones(8, np.float32))),
    (lambda n, m: [8], REAL, lambda x: tw.rms_norm(FLOATS, x)),
    (lambda n, m: [n, 2 * m], REAL, lambda x: tw.silu_and_mul(x)),
    (lambda n, m: [3, n, 2 * m], REAL, lambda x: tw.apply_rope(x, [0, 1, 2])),
    (lambda n, m: [3], INT32 + INT64, lambda x: tw.apply_rope(FLOATS, x)),
    (lambda n, m: [n, m], REAL, lambda x: tw.sampling.sample(x, temperature=0)),
    (lambda n, m: [3], INT32, lambda x: tw.sampling.sample(FLOATS[:, 0], top_k=x, seeds=3)),
    (lambda n, m: [3], INT64, lambda x: tw.sampling.sample(FLOATS[:, 0], seeds=x)),
    (lambda n, m: [3], REAL, lambda x: tw.sampling.sample(FLOATS[:, 0], temperature=x)),
    (lambda n, m: [n, 2, 2, m], REAL, lambda x: tw.merge_states(x, np.zeros((len_of(x), 2, 2), np.float32))),
    (lambda n, m: [n, 2, 8], REAL, lambda x: tw.single_attention(x, FLOATS, FLOATS, causal=False, return_lse=True)),
    (lambda n, m: [n, 2, 8], REAL, lambda x: tw.single_attention(FLOATS[:0], x, x)),
    (lambda n, m: [3, 2, 8], [(2, 32)], lambda x: tw.single_attention(FLOATS, x, x, return_lse=True)),
    (lambda n, m: [2, m], INT32 + INT64, paged),
    (lambda n, m: [n + 1], INT32, updated),
    (lambda n, m: [3, 2, 8], REAL, copied),
    (lambda n, m: [3], INT32 + INT64, slots_written),
]


def len_of(x):
    return len(x) if isinstance(x, np.ndarray) else max(x.shape[0], 0)


def results(value):
    return [np.asarray(x) for x in (value if isinstance(value, tuple) else (value,)) if x is not None]


def check_operator(case, operator):
    """An operator gives the same bits for the case as for a copy of what it says, or raises."""
    copy = np.ascontiguousarray(case.array()) if case.device != CUDA else None
    try:
        actual = results(operator(case))
    except (tw.Error, TypeError) as error:
        contiguous = case.shape[-1] <= 1 or case.effective_strides[-1] == 1 or 0 in case.shape
        if copy is None or not contiguous:
            return
        with pytest.raises((tw.Error, TypeError)):
            operator(copy)
        assert str(error)
        return
    assert copy is not None, "memory of another device was read"
    expected = results(operator(copy))
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


def run_case(seed, index):
    rng = random.Random(f"{seed}/{index}")
    make_shape, dtypes, operator = rng.choice(OPERATORS)
    shape, dtype = make_shape(rng.choice([0, 1, 2, 3, 8]), rng.choice([0, 1, 2, 4, 8, 8, 16])), rng.choice(dtypes)
    if rng.random() < 0.3:
        shape = [rng.choice([0, 1, 1, 2, 3, 4, 8]) for _ in range(rng.choice([1, 2, 3, 4, 6]))]
        dtype = rng.choice(list(DTYPES))
    case = random_case(rng, shape, dtype)
    if rng.random() < 0.5:
        spoil(case, rng)
    try:
        if check_reading(case) and case.can_be_used():
            check_operator(case, operator)
    except Exception as error:
        raise AssertionError(f"case {index} of seed {seed}: {case}") from error


def test_malformed_tensors():
    for index in range(CASES):
        run_case(0, index)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    faulthandler.enable()
    for index in range(arguments.first, arguments.first + arguments.cases):
        if index % 10_000 == 0:
            print(f"from case {index} of seed {arguments.seed} on", flush=True)
        run_case(arguments.seed, index)
    print(f"{arguments.cases} cases")


if __name__ == "__main__":
    sys.exit(main())
