# SPDX-License-Identifier: Apache-2.0
"""Variants from Python functions: a lambda is called once, with symbols, and leaves the graph that C++ operators build."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, Union

from . import expr
from ._errors import InvalidArgument
from ._tilewright import Expr, Param, RopeSpec, Variant
from ._typing import DTypeLike

# What a traced function gives: an expression, or a number or bool for a constant one.
Traced: TypeAlias = Union[Expr, float]


@dataclass(frozen=True)
class ParamSpec:
    """A declared parameter of `variant`: made by scalar, per_head, per_kv_head, per_request, per_request_head and table."""

    rank: int
    index: tuple[Expr, ...] | None  # None: the function indexes it
    dtype: DTypeLike
    at: str | None
    default: float | None = None


def scalar(dtype: DTypeLike = "float32", *, at: str | None = None, default: float | None = None) -> ParamSpec:
    """A number. dtype: "float32" or "int32".

    at: when its value is given, for all kinds of parameters: "plan" (to Plan.update and Attention.plan) or "run" (to
    Attention.run: it may differ from layer to layer under one plan). By default what a mask reads binds at plan, since it
    decides which tiles exist, and everything else at run.
    """
    return ParamSpec(0, (), dtype, at, default)


def per_head(dtype: DTypeLike = "float32", *, at: str | None = None) -> ParamSpec:
    """An array [num_qo_heads]: `c.name` is the element of the query head. dtype and at: as in scalar."""
    return ParamSpec(1, (expr.q_head,), dtype, at)


def per_kv_head(dtype: DTypeLike = "float32", *, at: str | None = None) -> ParamSpec:
    """An array [num_kv_heads]: `c.name` is the element of the KV head. dtype and at: as in scalar."""
    return ParamSpec(1, (expr.kv_head,), dtype, at)


def per_request(dtype: DTypeLike = "float32", *, at: str | None = None) -> ParamSpec:
    """An array [requests]: `c.name` is the element of the request. dtype and at: as in scalar."""
    return ParamSpec(1, (expr.batch,), dtype, at)


def per_request_head(dtype: DTypeLike = "float32", *, at: str | None = None) -> ParamSpec:
    """An array [requests, num_qo_heads]: `c.name` is the element of the request and its query head. dtype and at: as in
    scalar."""
    return ParamSpec(2, (expr.batch, expr.q_head), dtype, at)


def table(rank: int, dtype: DTypeLike = "float32", *, at: str | None = None) -> ParamSpec:
    """An array of rank 1 to 3 that the function indexes by integer expressions: `c.name[c.q_head, c.kv_pos]`.

    A read outside the array gives 0. dtype and at: as in scalar.
    """
    return ParamSpec(rank, None, dtype, at)


class Table:
    """A parameter that a traced function indexes: `c.name[i, j]`."""

    __slots__ = ("_param",)

    def __init__(self, param: Param) -> None:
        self._param = param

    def __getitem__(self, index: Expr | int | tuple[Expr | int, ...]) -> Expr:
        return self._param(*index) if isinstance(index, tuple) else self._param(index)

    def __repr__(self) -> str:
        return f"<tilewright.Table {self._param.name} of rank {self._param.rank}>"


class Context:
    """Where a logit stands, for the functions of `variant`: integer expressions, and the declared parameters by name.

    q_pos, kv_pos: positions of the query and the key in their request. q_head, kv_head: heads, kv_head = q_head // group
    size. batch: index of the request. q_len, kv_len: tokens of the request. q_index: index of the query token in the packed
    batch, q_begin: that of the request's first one.
    """

    __slots__ = ("_at", "_declared", "_params")

    q_pos: Expr = expr.q_pos
    kv_pos: Expr = expr.kv_pos
    q_head: Expr = expr.q_head
    kv_head: Expr = expr.kv_head
    batch: Expr = expr.batch
    q_len: Expr = expr.q_len
    kv_len: Expr = expr.kv_len
    q_index: Expr = expr.q_index
    q_begin: Expr = expr.q_begin

    def __init__(self, declared: Mapping[str, ParamSpec], at: str, params: dict[str, Param]) -> None:
        self._declared = declared
        self._at = at  # when a parameter binds that is met here first, and does not say
        self._params = params  # those met so far

    def __getattr__(self, name: str) -> Any:
        declared = self._declared.get(name)
        if declared is None:
            raise AttributeError(
                f"c has no {name!r}: it has {', '.join(SYMBOLS)}"
                + (f", and the parameters {', '.join(self._declared)}" if self._declared else "")
                + f"; a parameter is declared with params={{{name!r}: tw.scalar()}}, tw.per_head() and the like"
            )
        if name not in self._params:
            at = declared.at or self._at
            self._params[name] = Param(name, declared.rank, dtype=declared.dtype, at=at, default=declared.default)
        param = self._params[name]
        return Table(param) if declared.index is None else param(*declared.index)


SYMBOLS = tuple(name for name in vars(Context) if isinstance(getattr(Context, name), Expr))
_PACKAGE = str(Path(__file__).parent)


def variant(
    *,
    logits: Callable[[Expr, Context], Traced] | Expr | None = None,
    mask: Callable[[Context], Traced] | Expr | None = None,
    output: Callable[[Expr, Context], Traced] | Expr | None = None,
    params: Mapping[str, ParamSpec | float] | None = None,
    rope: RopeSpec | None = None,
    softmax: bool = True,
) -> Variant:
    """A variant from Python functions.

        tw.variant(
            logits=lambda s, c: s + c.slope * (c.kv_pos - c.q_pos),
            mask=lambda c: (c.kv_pos <= c.q_pos) & (c.q_pos - c.kv_pos < c.window),
            params={"slope": tw.per_head("float32"), "window": tw.scalar("int32")},
        )

    Each function is called once, with symbols, and gives the graph that is evaluated for every query and key; what is left
    out is as usual. logits(s, c): replaces the scaled logit s. mask(c): boolean, which (query, key) pairs attend.
    output(v, c): replaces the output element v. c: a Context, with positions, heads and the parameters. params: what the
    functions read besides, by name: scalar, per_head, per_kv_head, per_request, per_request_head, table, or a number: a
    scalar with that default. rope: applied to queries and keys on the fly. softmax: False takes the transformed logits as
    weights. An expression (variants.causal().mask) may stand in place of a function.

    Operators: + - * / (real), // % (integers), comparisons, & | ~ on booleans, abs, and tw.where, tw.minimum, tw.maximum,
    tw.exp, tw.log, tw.tanh, tw.sigmoid. Python that decides or computes at once (if, and, or, not, a < b < c, float(x),
    math.exp(x), NumPy's functions) raises TypeError at its line.

    Errors: InvalidArgument for an expression of the wrong type, or a parameter that no function reads; AttributeError for
    one that is not declared.
    """
    declared = {name: _declared(name, spec) for name, spec in (params or {}).items()}
    met: dict[str, Param] = {}
    # The mask first: what it reads binds at plan.
    traced_mask = _trace("mask", mask, "c", (), Context(declared, "plan", met))
    c = Context(declared, "run", met)
    traced = Variant(
        mask=traced_mask,
        logits=_trace("logits", logits, "s, c", (expr.logit,), c),
        output=_trace("output", output, "v, c", (expr.value,), c),
        rope=rope,
        softmax=softmax,
    )
    unused = declared.keys() - {param.name for param in traced.params}
    if unused:
        raise InvalidArgument(f"params has {', '.join(map(repr, sorted(unused)))}, which no function of the variant uses")
    return traced


def _declared(name: str, spec: ParamSpec | float) -> ParamSpec:
    if name in SYMBOLS:
        raise InvalidArgument(f"params has {name!r}: that is a symbol of every variant, a parameter needs another name")
    if isinstance(spec, ParamSpec):
        return spec
    if isinstance(spec, (int, float)) and not isinstance(spec, bool):
        return scalar("int32" if isinstance(spec, int) else "float32", default=spec)
    raise TypeError(
        f"params[{name!r}] is of type {type(spec).__name__}: it must be tw.scalar(), tw.per_head(), tw.per_kv_head(), "
        "tw.per_request(), tw.per_request_head(), tw.table(rank) or a number"
    )


def _trace(name: str, function: Any, signature: str, symbols: tuple[Expr, ...], c: Context) -> Any:
    if function is None or isinstance(function, Expr):
        return function
    if not callable(function):
        raise TypeError(f"{name} is of type {type(function).__name__}: it must be a function, lambda {signature}: ...")
    try:
        inspect.signature(function).bind(*symbols, c)
    except TypeError:
        raise TypeError(
            f"{name} is a function of {inspect.signature(function)}: it must be one of ({signature})"
        ) from None
    try:
        result = function(*symbols, c)
    except Exception as error:
        raise error.with_traceback(_without_own_frames(error.__traceback__))
    if result is None:
        raise TypeError(f"{name} returned None: it must return an expression")
    if isinstance(result, Table):
        raise TypeError(f"{name} returned the table {result!r}: it must be indexed, as in c.name[c.q_head]")
    return result


def _without_own_frames(traceback: TracebackType | None) -> TracebackType | None:
    """The traceback down to the last frame outside of this package: the line of the user's that raised."""
    last = step = traceback
    while step is not None:
        if not step.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            last = step
        step = step.tb_next
    if last is not None:
        last.tb_next = None
    return traceback
