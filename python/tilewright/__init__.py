# SPDX-License-Identifier: Apache-2.0
"""Tilewright: an attention engine for LLM serving.

    attention = tw.Attention(num_qo_heads=32, num_kv_heads=8, head_dim=128, dtype="bfloat16")
    plan = attention.plan(qo_indptr=..., kv_indptr=..., kv_indices=..., kv_last_page_len=..., page_size=16)
    out = attention.run(plan, q, kv_cache)

Arrays are NumPy's (ml_dtypes for bfloat16 and float8), torch's, or anything with DLPack or the array interface; results
are of the kind of q (x, logits): torch's, of libraries with __array_namespace__ (JAX), else NumPy's.
"""

from . import expr, sampling, variants
from ._attention import Attention, merge_state, single_attention
from ._errors import Error, InvalidArgument
from ._tilewright import (
    Batch,
    Expr,
    KvCache,
    Level,
    Limits,
    PageTable,
    Param,
    Plan,
    PlanPiece,
    PlanStats,
    RopeSpec,
    Support,
    Variant,
    abs,  # noqa: A004
    apply_rope,
    cpu_features,
    exp,
    fused_add_rms_norm,
    gelu_and_mul,
    gelu_tanh_and_mul,
    log,
    maximum,
    merge_states,
    minimum,
    num_threads,
    rms_norm,
    set_num_threads,
    sigmoid,
    silu_and_mul,
    supports,
    tanh,
    version,
    where,
    write_kv_cache,
)
from ._variant import (
    Context,
    ParamSpec,
    per_head,
    per_kv_head,
    per_request,
    per_request_head,
    scalar,
    table,
    variant,
)

__version__ = version()
__all__ = [
    "Attention",
    "Batch",
    "Context",
    "Error",
    "Expr",
    "InvalidArgument",
    "KvCache",
    "Level",
    "Limits",
    "PageTable",
    "Param",
    "ParamSpec",
    "Plan",
    "PlanPiece",
    "PlanStats",
    "RopeSpec",
    "Support",
    "Variant",
    "__version__",
    "abs",
    "apply_rope",
    "cpu_features",
    "exp",
    "expr",
    "fused_add_rms_norm",
    "gelu_and_mul",
    "gelu_tanh_and_mul",
    "log",
    "maximum",
    "merge_state",
    "merge_states",
    "minimum",
    "num_threads",
    "per_head",
    "per_kv_head",
    "per_request",
    "per_request_head",
    "rms_norm",
    "sampling",
    "scalar",
    "set_num_threads",
    "sigmoid",
    "silu_and_mul",
    "single_attention",
    "supports",
    "table",
    "tanh",
    "variant",
    "variants",
    "where",
    "write_kv_cache",
]
