# SPDX-License-Identifier: Apache-2.0
"""Symbols and functions that variants are written in.

Symbols: `logit` (q . k * sm_scale, real), `q_pos` and `kv_pos` (positions in the request), `q_head`, `kv_head`, `batch`
(index of the request), `q_len` and `kv_len` (tokens of the request), `q_index` (index of the query token in the packed
batch), `q_begin` (that of the request's first one): integers; `value` (an output element, real; in `Variant.output` only).

    mask = (kv_pos <= q_pos) & ((kv_pos >= q_pos - 128) | (kv_pos < 4))   # a window with four sink tokens
"""

from ._tilewright import (
    abs,  # noqa: A004
    batch,
    exp,
    kv_head,
    kv_len,
    kv_pos,
    log,
    logit,
    maximum,
    minimum,
    q_begin,
    q_head,
    q_index,
    q_len,
    q_pos,
    sigmoid,
    tanh,
    to_real,
    value,
    where,
)

__all__ = [
    "abs",
    "batch",
    "exp",
    "kv_head",
    "kv_len",
    "kv_pos",
    "log",
    "logit",
    "maximum",
    "minimum",
    "q_begin",
    "q_head",
    "q_index",
    "q_len",
    "q_pos",
    "sigmoid",
    "tanh",
    "to_real",
    "value",
    "where",
]
