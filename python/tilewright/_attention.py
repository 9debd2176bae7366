# SPDX-License-Identifier: Apache-2.0
"""Attention with its short forms: a plan in one call, and one request without a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from . import _tilewright, variants
from ._errors import InvalidArgument
from ._tilewright import Batch, BlockStructure, Level, Limits, PageTable, Plan, Variant
from ._typing import Array, ArrayT, Indices, Scalar

_INT32 = np.iinfo(np.int32)


def _int32(name: str, array: Indices) -> np.ndarray:
    """The array as int32 in host memory: in place where it is that, else a copy."""
    if getattr(array, "is_cuda", False):
        array = array.cpu()  # type: ignore[union-attr]
    host = np.asarray(array if isinstance(array, (np.ndarray, list, tuple)) else _tilewright._host_array(array, name))
    if host.dtype == np.int32:
        return host
    if host.size == 0:
        return host.astype(np.int32, order="C")
    if host.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {host.dtype}: it must hold integers")
    if host.min() < _INT32.min or host.max() > _INT32.max:
        raise InvalidArgument(f"{name} has values from {host.min()} to {host.max()}: they must fit int32")
    return host.astype(np.int32, order="C")


def _optional_int32(name: str, array: Indices | None) -> np.ndarray | None:
    return None if array is None else _int32(name, array)


def _placed(name: str, array: Indices | None, device: str) -> Any:
    """_int32 on a device; there by torch."""
    host = _optional_int32(name, array)
    if host is None or device == "cpu":
        return host
    import torch  # type: ignore[import-not-found, unused-ignore]

    return torch.tensor(host, device=device)


def _needs(form: str, given: Mapping[str, Any], *, without: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value is None:
            raise InvalidArgument(f"{name} is missing: {form} needs it")
    for name, value in without.items():
        if value is not None:
            raise InvalidArgument(f"{name} is given: {form} takes none")


class Attention(_tilewright.Attention):
    """An attention: head counts, head dims, dtypes and variant. Immutable and thread-safe; hashable by identity.

    num_qo_heads, num_kv_heads: the second divides the first. head_dim: of queries and keys, a multiple of 8, at most 576;
    head_dim_vo: of values and outputs, default head_dim. dtype: of queries, keys, values and output, unless q_dtype,
    kv_dtype, v_dtype (default kv_dtype) or out_dtype (default q_dtype) say otherwise; default bfloat16. Names ("bfloat16",
    "bf16", "float8_e4m3fn"), or as NumPy, ml_dtypes and torch have them. variant: default variants.causal(). device:
    "cpu", "cuda", "cuda:1".

    Errors: InvalidArgument for what no device could run, Error (not_supported) for what this one does not.
    """

    def plan(
        self,
        *,
        qo_indptr: Indices,
        kv_indptr: Indices | None = None,
        kv_indices: Indices | None = None,
        kv_last_page_len: Indices | None = None,
        block_table: Array | None = None,
        row_ids: Indices | None = None,
        levels: Sequence[Level | PageTable] | None = None,
        kv_lens: Indices | None = None,
        page_size: int | None = None,
        q_pos: Indices | None = None,
        q_pos_offset: Indices | None = None,
        params: Mapping[str, Scalar] | None = None,
        blocks: BlockStructure | None = None,
        determinism: str = "repeatable",
    ) -> Plan:
        """A plan for one batch: made for limits that just fit it, and updated. The short form for scripts; an engine makes
        one Plan and updates it every step.

        The KV is one of
          CSR pages: kv_indptr [requests + 1], kv_indices [pages of all requests], page_size, and kv_last_page_len
            [requests] (1 to page_size) or kv_lens [requests];
          a padded table: block_table [rows, columns], page_size, kv_lens [requests], and row_ids [requests] where request
            r is not row r;
          ragged: kv_indptr [requests + 1] alone, for k and v [tokens, heads, dim];
          levels, outermost first, with kv_lens where a level's lengths are the batch's.
        qo_indptr: [requests + 1]. q_pos [tokens] or q_pos_offset [requests]: positions of the queries; default: they are
        the last tokens. params: the variant's parameters that bind at plan. blocks: the block structure of its mask.

        All index arrays are in host memory: int32, or other integers, which are copied. The plan keeps what it reads. On
        CUDA they are read on the host and copied to the GPU, by torch; so are blocks. levels and params are there already.
        """
        lens = _optional_int32("kv_lens", kv_lens)
        indptr = _int32("qo_indptr", qo_indptr)

        def kv_on(device: str) -> list[Level | PageTable]:
            return _kv_levels(kv_indptr, kv_indices, kv_last_page_len, block_table, row_ids, levels, page_size,
                              has_lens=lens is not None, device=device)  # fmt: skip

        limits = _limits(indptr, lens, kv_on("cpu"), determinism, blocks is not None)
        kv = kv_on(self.device)
        batch = Batch(
            qo_indptr=_placed("qo_indptr", indptr, self.device),
            kv_lens=_placed("kv_lens", lens, self.device),
            q_pos=_placed("q_pos", q_pos, self.device),
            q_pos_offset=_placed("q_pos_offset", q_pos_offset, self.device),
        )
        plan = Plan([self], limits).prepare()
        plan.update(
            batch,
            tables={self: kv},
            params=None if params is None else {self: params},
            blocks=None if blocks is None else {self: _placed_blocks(blocks, self.device)},
        )
        return plan


def _kv_levels(
    kv_indptr: Indices | None,
    kv_indices: Indices | None,
    kv_last_page_len: Indices | None,
    block_table: Array | None,
    row_ids: Indices | None,
    levels: Sequence[Level | PageTable] | None,
    page_size: int | None,
    *,
    has_lens: bool,
    device: str,
) -> list[Level | PageTable]:
    csr = {"kv_indptr": kv_indptr, "kv_indices": kv_indices}
    padded_only = {"block_table": block_table, "row_ids": row_ids}
    last = {"kv_last_page_len": kv_last_page_len}
    if levels is not None:
        _needs("a KV of levels", {}, without={**csr, **last, **padded_only, "page_size": page_size})
        if device != "cpu" and not has_lens:
            raise InvalidArgument("kv_lens is missing: levels on a GPU need it, [requests], to tell the longest request")
        for index, level in enumerate(levels):
            if not isinstance(level, (Level, PageTable)):
                raise TypeError(f"levels[{index}] is of type {type(level).__name__}: it must be a Level or a PageTable")
        return list(levels)
    if block_table is not None:
        lens = {"kv_lens": has_lens or None}
        _needs("a padded table", {"page_size": page_size, **lens}, without={**csr, **last})
        assert page_size is not None
        return [PageTable.padded(_placed("block_table", block_table, device), page_size, _placed("row_ids", row_ids, device))]
    if kv_indices is not None:
        _needs("a CSR table", {"kv_indptr": kv_indptr, "page_size": page_size}, without=padded_only)
        if kv_last_page_len is None and not has_lens:
            raise InvalidArgument("kv_last_page_len is missing: a CSR table needs it, or kv_lens")
        assert kv_indptr is not None and page_size is not None
        return [
            PageTable.csr(
                _placed("kv_indptr", kv_indptr, device),
                _placed("kv_indices", kv_indices, device),
                page_size,
                _placed("kv_last_page_len", kv_last_page_len, device),
            )
        ]
    if kv_indptr is None:
        raise InvalidArgument("the KV is missing: give kv_indptr (ragged, or CSR with kv_indices), block_table or levels")
    if page_size not in (None, 1):
        raise InvalidArgument("kv_indices is missing: a CSR table needs it (a ragged KV has no page_size)")
    _needs("a ragged KV", {}, without={**last, **padded_only})
    return [PageTable.ragged(_placed("kv_indptr", kv_indptr, device))]


def _limits(
    qo_indptr: np.ndarray,
    kv_lens: np.ndarray | None,
    levels: Sequence[Level | PageTable],
    determinism: str,
    block_structures: bool,
) -> Limits:
    """Limits that just fit a batch; what is malformed in it is told by Plan.update."""
    if qo_indptr.ndim != 1 or qo_indptr.size == 0:
        raise InvalidArgument(f"qo_indptr has shape {list(qo_indptr.shape)}: it must be [requests + 1]")
    longest = int(kv_lens.max(initial=0)) if kv_lens is not None else 0
    lengths = [level._max_len() for level in levels]
    rows = [level._rows() for level in levels if isinstance(level, Level)]
    return Limits(
        requests=max(qo_indptr.size - 1, 1, *rows),
        q_tokens=max(int(qo_indptr.max()), 1),
        q_len=max(int(np.diff(qo_indptr).max(initial=1)), 1),
        kv_len=max(sum(longest if length < 0 else max(length, longest) for length in lengths), 1),
        levels=max(len(levels), 1),
        determinism=determinism,
        block_structures=block_structures,
    )


def _placed_blocks(blocks: BlockStructure, device: str) -> BlockStructure:
    """A structure whose arrays are where an attention reads them."""
    if device == "cpu":
        return blocks
    import torch  # type: ignore[import-not-found, unused-ignore]

    return BlockStructure(
        q_block=blocks.q_block,
        kv_block=blocks.kv_block,
        num_kv_heads=blocks.num_kv_heads,
        request_rows=torch.as_tensor(blocks.request_rows, device=device),
        indptr=torch.as_tensor(blocks.indptr, device=device),
        indices=torch.as_tensor(blocks.indices, device=device),
        full=None if blocks.full is None else torch.as_tensor(blocks.full, device=device),
    )


def _ready_made(causal: bool, window_left: int, logits_soft_cap: float) -> Variant:
    if causal:
        return variants.causal(window_left, logits_soft_cap)
    if window_left >= 0:
        return variants.sliding_window(window_left, -1, logits_soft_cap)
    return variants.full(logits_soft_cap)


@lru_cache(maxsize=64)
def _attention_of(variant: Variant | tuple[bool, int, float], spec: tuple[tuple[str, Any], ...]) -> Attention:
    return Attention(**dict(spec), variant=_ready_made(*variant) if isinstance(variant, tuple) else variant)


def single_attention(
    q: ArrayT,
    k: Array,
    v: Array,
    *,
    causal: bool = True,
    window_left: int = -1,
    logits_soft_cap: float = 0.0,
    sm_scale: float | None = None,
    return_lse: bool = False,
    variant: Variant | None = None,
    params: Mapping[str, Scalar] | None = None,
) -> Any:
    """Attention of one request, without a plan of the caller's.

    q: [q_len, num_qo_heads, head_dim]; k: [kv_len, num_kv_heads, head_dim]; v: [kv_len, num_kv_heads, head_dim_vo]. The
    queries are the last of the kv_len tokens. causal: keys up to the query's position. window_left >= 0: only keys from
    q_pos - window_left on. logits_soft_cap > 0: logits become cap * tanh(logit / cap). sm_scale: default
    1 / sqrt(head_dim). variant replaces causal, window_left and logits_soft_cap; params are its parameters that bind at
    run.

    Returns out [q_len, num_qo_heads, head_dim_vo] of q's kind and dtype, or (out, lse) with lse float32 [q_len,
    num_qo_heads], natural log. Errors: TypeError, InvalidArgument.
    """
    described = {name: _tilewright._describe(array, name) for name, array in (("q", q), ("k", k), ("v", v))}
    for name, (shape, _, _) in described.items():
        if len(shape) != 3:
            raise InvalidArgument(f"{name} has shape {list(shape)}: it must be [tokens, heads, dim]")
    (q_shape, q_dtype, device), (k_shape, k_dtype, _), (v_shape, v_dtype, _) = described.values()
    if q_shape[2] != k_shape[2]:
        raise InvalidArgument(f"k has shape {list(k_shape)}: its last dimension must be q's, {q_shape[2]}")
    if v_shape[:2] != k_shape[:2]:
        raise InvalidArgument(f"v has shape {list(v_shape)}: its tokens and heads must be k's, {list(k_shape[:2])}")
    spec = {
        "num_qo_heads": q_shape[1],
        "num_kv_heads": k_shape[1],
        "head_dim": q_shape[2],
        "head_dim_vo": v_shape[2],
        "q_dtype": q_dtype,
        "kv_dtype": k_dtype,
        "v_dtype": v_dtype,
        "device": device,
    }
    # A tuple hashes faster than the graph that it stands for.
    chosen = (causal, window_left, logits_soft_cap) if variant is None else variant
    attention = _attention_of(chosen, tuple(spec.items()))
    plan = attention.plan(qo_indptr=[0, q_shape[0]], kv_indptr=[0, k_shape[0]])
    return attention.run(plan, q, (k, v), return_lse=return_lse, sm_scale=sm_scale, params=params)


def merge_state(out_a: ArrayT, lse_a: ArrayT, out_b: ArrayT, lse_b: ArrayT) -> tuple[ArrayT, ArrayT]:
    """merge_states of two: outputs [tokens, heads, dim] and lse float32 [tokens, heads] over disjoint keys."""
    stack: Any = np.stack
    if type(out_a).__module__.partition(".")[0] == "torch":
        import torch  # type: ignore[import-not-found, unused-ignore]

        stack = torch.stack
    elif hasattr(out_a, "__array_namespace__"):
        stack = out_a.__array_namespace__().stack
    return _tilewright.merge_states(*(stack(pair, axis=1) for pair in ([out_a, out_b], [lse_a, lse_b])))
