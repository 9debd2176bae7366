# SPDX-License-Identifier: Apache-2.0
"""What the signatures of tilewright take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, Union

if TYPE_CHECKING:
    from ._tilewright import KvCache


class SupportsDLPack(Protocol):
    def __dlpack__(self, *args: Any, **kwargs: Any) -> Any: ...


class SupportsArrayInterface(Protocol):
    @property
    def __array_interface__(self) -> dict[str, Any]: ...


# NumPy arrays (with ml_dtypes for bfloat16 and float8), torch tensors, and anything with DLPack or the array interface.
Array: TypeAlias = Union[SupportsDLPack, SupportsArrayInterface]
ArrayT = TypeVar("ArrayT", bound=Array)
# A small index array: int32, or a sequence of ints, which is copied.
Indices: TypeAlias = Union[Array, Sequence[int]]
# A number, or an array where its description says so.
Scalar: TypeAlias = Union[float, Array]
# A number for all rows, or one a row.
PerRow: TypeAlias = Union[float, Sequence[float], Array]
# "bfloat16", "bf16", numpy.float32, ml_dtypes.bfloat16, torch.bfloat16, ...
DTypeLike: TypeAlias = Any
KvLike: TypeAlias = Union[Array, tuple[Array, Array], "KvCache"]
