# SPDX-License-Identifier: Apache-2.0
"""Tilewright as operators of torch.library, so that torch.compile(fullgraph=True) takes models that use it.

    layer = tw.torch.planned(attention, plan)       # once, when the model is made
    plan.update(batch, tables={attention: table})   # once a step, outside the compiled model or inside a CUDA graph
    out = layer(q, kv)                              # in the model

Operators are in torch.ops.tilewright; the functions here call them. They take tensors on the CPU and on CUDA, where they
go to torch's current stream. None of them has a gradient.
"""

import itertools
import weakref
from typing import Sequence  # noqa: UP035: older versions of torch read signatures with this one alone

import torch
from torch import Tensor

from . import _tilewright, sampling, speculative
from ._attention import Attention
from ._tilewright import Plan

__all__ = [
    "PlannedAttention",
    "act_and_mul",
    "apply_rope",
    "apply_rope_and_write_kv_cache",
    "apply_rope_with_cos_sin_cache",
    "fused_add_rms_norm",
    "gather_rows",
    "layer_norm",
    "pack_bits",
    "planned",
    "rms_norm",
    "sample",
    "sample_with_outputs",
    "segment_pack_bits",
    "top_k",
    "verify_chain",
    "verify_tree",
    "write_kv_cache",
]

# Operators take no objects. A name stands for an attention and its plan: a compiled graph has it as a constant.
_planned: weakref.WeakValueDictionary[str, "PlannedAttention"] = weakref.WeakValueDictionary()
_numbers = itertools.count()


class PlannedAttention:
    """An attention under a plan, to be called in a model. Graphs that were compiled with it need it alive."""

    def __init__(self, attention: Attention, plan: Plan) -> None:
        if attention not in plan.attentions:
            raise _invalid("plan was not made for this attention: give it to the plan's constructor")
        self.attention = attention
        self.plan = plan
        self.name = f"attention{next(_numbers)}"
        self.out_dtype = getattr(torch, attention.out_dtype)
        _planned[self.name] = self

    def __call__(
        self,
        q: Tensor,
        kv: Tensor | Sequence[Tensor],
        *,
        sm_scale: float | None = None,
        k_scale: float = 1.0,
        v_scale: float = 1.0,
        sinks: Tensor | None = None,
        layout: str = "NHD",
        return_lse: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attention.run with a new output. kv: one tensor [pages, 2, page, heads, dim] or (k, v). Rows behind the plan's
        last query token are 0, and -inf in lse."""
        caches = [kv] if isinstance(kv, Tensor) else list(kv)
        out, lse = torch.ops.tilewright.attention(q, caches, self.name, sm_scale, k_scale, v_scale, sinks, layout, return_lse)
        return (out, lse) if return_lse else out


def planned(attention: Attention, plan: Plan) -> PlannedAttention:
    """The attention as a callable for models that are compiled."""
    return PlannedAttention(attention, plan)


def _invalid(message: str) -> Exception:
    from ._errors import InvalidArgument

    return InvalidArgument(message)


def _by_name(name: str) -> PlannedAttention:
    found = _planned.get(name)
    if found is None:
        raise _invalid(f"{name} is gone: keep what tilewright.torch.planned() gave for as long as graphs use it")
    return found


@torch.library.custom_op("tilewright::attention", mutates_args=())
def _attention(
    q: Tensor,
    kv: Sequence[Tensor],
    name: str,
    sm_scale: float | None,
    k_scale: float,
    v_scale: float,
    sinks: Tensor | None,
    layout: str,
    return_lse: bool,
) -> tuple[Tensor, Tensor]:
    layer = _by_name(name)
    caches = kv[0] if len(kv) == 1 else tuple(kv)
    result = layer.attention.run(layer.plan, q, caches, sm_scale=sm_scale, k_scale=k_scale, v_scale=v_scale, sinks=sinks,
                                 layout=layout, return_lse=return_lse)  # fmt: skip
    return result if return_lse else (result, q.new_empty(0, dtype=torch.float32))


@_attention.register_fake
def _(
    q: Tensor,
    kv: Sequence[Tensor],
    name: str,
    sm_scale: float | None,
    k_scale: float,
    v_scale: float,
    sinks: Tensor | None,
    layout: str,
    return_lse: bool,
) -> tuple[Tensor, Tensor]:
    layer = _by_name(name)
    tokens, heads = q.shape[0], layer.attention.num_qo_heads
    out = q.new_empty((tokens, heads, layer.attention.head_dim_vo), dtype=layer.out_dtype)
    return out, q.new_empty((tokens, heads) if return_lse else (0,), dtype=torch.float32)


# What operators give that have an output like their first argument, but for its dtype where they are told one, the only
# argument that is one.
def _like_first(x: Tensor, *arguments: object, **named: object) -> Tensor:
    dtypes = [a for a in (*arguments, *named.values()) if isinstance(a, torch.dtype)]
    return x.new_empty(x.shape, dtype=dtypes[0] if dtypes else x.dtype)


# An fp8 output is scaled by a tensor, which a step may change, or by nothing.
def _output(out_dtype: torch.dtype | None, out_scale: Tensor | None) -> dict[str, object]:
    return {"out_dtype": out_dtype, "out_scale": 1.0 if out_scale is None else out_scale}


@torch.library.custom_op("tilewright::rms_norm", mutates_args=())
def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    weight_offset: float = 0.0,
    out_dtype: torch.dtype | None = None,
    out_scale: Tensor | None = None,
) -> Tensor:
    """tilewright.rms_norm; out_scale: float32 [1], of a float8_e4m3fn output."""
    return _tilewright.rms_norm(x, weight, eps, weight_offset=weight_offset, **_output(out_dtype, out_scale))


rms_norm.register_fake(_like_first)


@torch.library.custom_op("tilewright::fused_add_rms_norm", mutates_args=("residual",))
def fused_add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    weight_offset: float = 0.0,
    out_dtype: torch.dtype | None = None,
    out_scale: Tensor | None = None,
) -> Tensor:
    """tilewright.fused_add_rms_norm: residual is updated in place; out_scale as of rms_norm."""
    return _tilewright.fused_add_rms_norm(x, residual, weight, eps, weight_offset=weight_offset,
                                          **_output(out_dtype, out_scale))  # fmt: skip


fused_add_rms_norm.register_fake(_like_first)


@torch.library.custom_op("tilewright::layer_norm", mutates_args=())
def layer_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    out_dtype: torch.dtype | None = None,
    out_scale: Tensor | None = None,
) -> Tensor:
    """tilewright.layer_norm; out_scale as of rms_norm."""
    return _tilewright.layer_norm(x, weight, bias, eps, **_output(out_dtype, out_scale))


layer_norm.register_fake(_like_first)


@torch.library.custom_op("tilewright::apply_rope", mutates_args=())
def apply_rope(
    x: Tensor, positions: Tensor, dim: int = 0, theta: float = 10000.0, position_scale: float = 1.0, interleaved: bool = False
) -> Tensor:
    """tilewright.apply_rope. Scaled frequencies: apply_rope_with_cos_sin_cache."""
    return _tilewright.apply_rope(x, positions, dim=dim, theta=theta, position_scale=position_scale,
                                  interleaved=interleaved)  # fmt: skip


apply_rope.register_fake(_like_first)


@torch.library.custom_op("tilewright::apply_rope_with_cos_sin_cache", mutates_args=())
def apply_rope_with_cos_sin_cache(
    x: Tensor, positions: Tensor, cos_sin_cache: Tensor, interleaved: bool = False
) -> Tensor:
    """tilewright.apply_rope_with_cos_sin_cache."""
    return _tilewright.apply_rope_with_cos_sin_cache(x, positions, cos_sin_cache, interleaved=interleaved)


apply_rope_with_cos_sin_cache.register_fake(_like_first)


@torch.library.custom_op("tilewright::apply_rope_and_write_kv_cache", mutates_args=("k_cache", "v_cache"))
def apply_rope_and_write_kv_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    cos_sin_cache: Tensor | None = None,
    dim: int = 0,
    theta: float = 10000.0,
    position_scale: float = 1.0,
    interleaved: bool = False,
    q_norm_weight: Tensor | None = None,
    k_norm_weight: Tensor | None = None,
    eps: float = 1e-6,
    weight_offset: float = 0.0,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    layout: str = "NHD",
) -> Tensor:
    """tilewright.apply_rope_and_write_kv_cache into (k_cache, v_cache). Without cos_sin_cache dim, theta and position_scale
    say the frequencies, as in apply_rope."""
    rope = None
    if cos_sin_cache is None:
        rope = _tilewright.RopeSpec(dim=dim, theta=theta, position_scale=position_scale, interleaved=interleaved)
    return _tilewright.apply_rope_and_write_kv_cache(
        q,
        k,
        v,
        positions,
        (k_cache, v_cache),
        slot_mapping,
        rope=rope,
        cos_sin_cache=cos_sin_cache,
        interleaved=rope is None and interleaved,
        q_norm_weight=q_norm_weight,
        k_norm_weight=k_norm_weight,
        eps=eps,
        weight_offset=weight_offset,
        k_scale=k_scale,
        v_scale=v_scale,
        layout=layout,
    )


apply_rope_and_write_kv_cache.register_fake(_like_first)


@torch.library.custom_op("tilewright::gather_rows", mutates_args=())
def gather_rows(x: Tensor, indices: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
    """tilewright.gather_rows."""
    return _tilewright.gather_rows(x, indices, out_dtype=out_dtype)


@gather_rows.register_fake
def _(x: Tensor, indices: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
    return x.new_empty((indices.shape[0], x.shape[1]), dtype=out_dtype or x.dtype)


@torch.library.custom_op("tilewright::pack_bits", mutates_args=())
def pack_bits(x: Tensor, bitorder: str = "big") -> Tensor:
    """tilewright.pack_bits."""
    return _tilewright.pack_bits(x, bitorder=bitorder)


@pack_bits.register_fake
def _(x: Tensor, bitorder: str = "big") -> Tensor:
    return x.new_empty((*x.shape[:-1], (x.shape[-1] + 7) // 8), dtype=torch.uint8)


@torch.library.custom_op("tilewright::segment_pack_bits", mutates_args=())
def segment_pack_bits(x: Tensor, indptr: Tensor, bitorder: str = "big") -> tuple[Tensor, Tensor]:
    """tilewright.segment_pack_bits: (out, out_indptr)."""
    return _tilewright.segment_pack_bits(x, indptr, bitorder=bitorder)


@segment_pack_bits.register_fake
def _(x: Tensor, indptr: Tensor, bitorder: str = "big") -> tuple[Tensor, Tensor]:
    segments = indptr.shape[0] - 1
    out = x.new_empty(x.shape[0] // 8 + segments, dtype=torch.uint8)
    return out, indptr.new_empty(indptr.shape[0], dtype=torch.int32)


_ACTIVATIONS = {
    "silu": _tilewright.silu_and_mul,
    "gelu": _tilewright.gelu_and_mul,
    "gelu_tanh": _tilewright.gelu_tanh_and_mul,
}


@torch.library.custom_op("tilewright::act_and_mul", mutates_args=())
def act_and_mul(x: Tensor, activation: str = "silu") -> Tensor:
    """act(x[:, :dim]) * x[:, dim:] for x [tokens, 2 * dim]; "silu", "gelu" or "gelu_tanh"."""
    if activation not in _ACTIVATIONS:
        raise _invalid(f'activation is "{activation}": it must be "silu", "gelu" or "gelu_tanh"')
    return _ACTIVATIONS[activation](x)


@act_and_mul.register_fake
def _(x: Tensor, activation: str = "silu") -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


@torch.library.custom_op("tilewright::write_kv_cache", mutates_args=("k_cache", "v_cache"))
def write_kv_cache(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    layout: str = "NHD",
) -> None:
    """tilewright.write_kv_cache into (k_cache, v_cache); of one tensor [pages, 2, ...] these are kv[:, 0] and kv[:, 1]."""
    _tilewright.write_kv_cache(k, v, (k_cache, v_cache), slot_mapping, k_scale=k_scale, v_scale=v_scale, layout=layout)


@write_kv_cache.register_fake
def _(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
    layout: str = "NHD",
) -> None:
    return None


@torch.library.custom_op("tilewright::sample", mutates_args=())
def sample(
    logits: Tensor,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    seeds: Tensor | None = None,
    steps: Tensor | None = None,
    typical_p: Tensor | None = None,
    allowed: Tensor | None = None,
    bias_ids: Tensor | None = None,
    bias_values: Tensor | None = None,
    output_counts: Tensor | None = None,
    prompt_bits: Tensor | None = None,
    repetition_penalty: Tensor | None = None,
    frequency_penalty: Tensor | None = None,
    presence_penalty: Tensor | None = None,
    slots: Tensor | None = None,
    order: str = "hf",
    input: str = "logits",  # noqa: A002
) -> Tensor:
    """tilewright.sampling.sample with tensors of the shapes and dtypes said there; those left out have its defaults."""
    return sampling.sample(**_given(locals()))


@sample.register_fake
def _(logits: Tensor, *_parameters: object, **_named: object) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int32)


def _given(arguments: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if value is not None}


def _new_log_probs(logits: Tensor, best: int | None) -> sampling.LogProbs | None:
    if best is None:
        return None
    rows = logits.shape[0]
    log_probs = sampling.LogProbs(chosen=logits.new_empty(rows, dtype=torch.float32), ranks=logits.new_empty(rows, dtype=torch.int32))
    if best > 0:
        log_probs.best = logits.new_empty((rows, best), dtype=torch.float32)
        log_probs.best_ids = logits.new_empty((rows, best), dtype=torch.int32)
    return log_probs


def _new_outputs(
    logits: Tensor, kept: bool, probabilities: bool, masked_logits: bool, raw: int | None, processed: int | None
) -> sampling.SamplingOutputs:
    for name, best in (("raw", raw), ("processed", processed)):
        if best is not None and not 0 <= best <= 2048:
            raise _invalid(f"{name} is {best}: it must be in [0, 2048], or None")
    rows, vocabulary = logits.shape
    return sampling.SamplingOutputs(
        kept=logits.new_empty((rows, (vocabulary + 31) // 32), dtype=torch.int32) if kept else None,
        probabilities=logits.new_empty((rows, vocabulary), dtype=torch.float32) if probabilities else None,
        masked_logits=logits.new_empty((rows, vocabulary)) if masked_logits else None,
        raw=_new_log_probs(logits, raw),
        processed=_new_log_probs(logits, processed),
    )


# Operators give lists of tensors: those asked for, in the order of the fields.
def _flattened(outputs: sampling.SamplingOutputs) -> list[Tensor]:
    fields = [outputs.kept, outputs.probabilities, outputs.masked_logits]
    for log_probs in (outputs.raw, outputs.processed):
        if log_probs is not None:
            fields += [log_probs.chosen, log_probs.ranks, log_probs.best, log_probs.best_ids]
    return [tensor for tensor in fields if tensor is not None]


@torch.library.custom_op("tilewright::sample_with_outputs", mutates_args=())
def _sample_with_outputs(
    logits: Tensor,
    kept: bool,
    probabilities: bool,
    masked_logits: bool,
    raw: int | None,
    processed: int | None,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    seeds: Tensor | None = None,
    steps: Tensor | None = None,
    typical_p: Tensor | None = None,
    allowed: Tensor | None = None,
    bias_ids: Tensor | None = None,
    bias_values: Tensor | None = None,
    output_counts: Tensor | None = None,
    prompt_bits: Tensor | None = None,
    repetition_penalty: Tensor | None = None,
    frequency_penalty: Tensor | None = None,
    presence_penalty: Tensor | None = None,
    slots: Tensor | None = None,
    order: str = "hf",
    input: str = "logits",  # noqa: A002
) -> list[Tensor]:
    arguments = _given(locals())
    for name in ("kept", "probabilities", "masked_logits", "raw", "processed"):
        arguments.pop(name, None)
    outputs = _new_outputs(logits, kept, probabilities, masked_logits, raw, processed)
    return [sampling.sample(outputs=outputs, **arguments), *_flattened(outputs)]


@_sample_with_outputs.register_fake
def _(
    logits: Tensor,
    kept: bool,
    probabilities: bool,
    masked_logits: bool,
    raw: int | None,
    processed: int | None,
    *_parameters: object,
    **_named: object,
) -> list[Tensor]:
    tokens = logits.new_empty(logits.shape[0], dtype=torch.int32)
    return [tokens, *_flattened(_new_outputs(logits, kept, probabilities, masked_logits, raw, processed))]


def sample_with_outputs(
    logits: Tensor,
    *,
    kept: bool = False,
    probabilities: bool = False,
    masked_logits: bool = False,
    raw: int | None = None,
    processed: int | None = None,
    **parameters: Tensor | str | None,
) -> tuple[Tensor, sampling.SamplingOutputs]:
    """The tokens of sample() with these parameters, and a SamplingOutputs with new tensors of what is asked for. raw,
    processed: log-probabilities and ranks of the tokens, and of that many best tokens (0 to 2048)."""
    tokens, *tensors = torch.ops.tilewright.sample_with_outputs(
        logits, kept, probabilities, masked_logits, raw, processed, **parameters
    )
    tensors = list(tensors)  # torch.compile makes a tuple of them
    outputs = sampling.SamplingOutputs()
    if kept:
        outputs.kept = tensors.pop(0)
    if probabilities:
        outputs.probabilities = tensors.pop(0)
    if masked_logits:
        outputs.masked_logits = tensors.pop(0)
    for name, best in (("raw", raw), ("processed", processed)):
        if best is not None:
            count = 4 if best > 0 else 2
            setattr(outputs, name, sampling.LogProbs(*tensors[:count]))
            tensors = tensors[count:]
    return tokens, outputs


@torch.library.custom_op("tilewright::top_k", mutates_args=())
def top_k(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """tilewright.sampling.top_k: (values, indices)."""
    return sampling.top_k(logits, k)


@top_k.register_fake
def _(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (logits.shape[0], k)
    return logits.new_empty(shape), logits.new_empty(shape, dtype=torch.int32)


@torch.library.custom_op("tilewright::verify_chain", mutates_args=())
def verify_chain(
    target: Tensor,
    draft_tokens: Tensor,
    counts: Tensor | None = None,
    draft: Tensor | None = None,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    typical_p: Tensor | None = None,
    allowed: Tensor | None = None,
    bias_ids: Tensor | None = None,
    bias_values: Tensor | None = None,
    output_counts: Tensor | None = None,
    prompt_bits: Tensor | None = None,
    repetition_penalty: Tensor | None = None,
    frequency_penalty: Tensor | None = None,
    presence_penalty: Tensor | None = None,
    seeds: Tensor | None = None,
    steps: Tensor | None = None,
    slots: Tensor | None = None,
    coins: Tensor | None = None,
    final_coins: Tensor | None = None,
    order: str = "hf",
    input: str = "logits",  # noqa: A002
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """tilewright.speculative.verify_chain with tensors of the shapes and dtypes said there; those left out have its
    defaults."""
    return speculative.verify_chain(**_given(locals()))


@verify_chain.register_fake
def _(target: Tensor, *_parameters: object, **_named: object) -> tuple[Tensor, Tensor, Tensor]:
    requests, positions, _ = target.shape
    tokens = target.new_empty((requests, positions), dtype=torch.int32)
    return tokens, target.new_empty(requests, dtype=torch.int32), target.new_empty(requests, dtype=torch.int32)


@torch.library.custom_op("tilewright::verify_tree", mutates_args=())
def verify_tree(
    target: Tensor,
    tree_tokens: Tensor,
    next_token: Tensor,
    next_sibling: Tensor,
    length: int | None = None,
    draft: Tensor | None = None,
    temperature: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    min_p: Tensor | None = None,
    typical_p: Tensor | None = None,
    allowed: Tensor | None = None,
    bias_ids: Tensor | None = None,
    bias_values: Tensor | None = None,
    output_counts: Tensor | None = None,
    prompt_bits: Tensor | None = None,
    repetition_penalty: Tensor | None = None,
    frequency_penalty: Tensor | None = None,
    presence_penalty: Tensor | None = None,
    seeds: Tensor | None = None,
    steps: Tensor | None = None,
    slots: Tensor | None = None,
    coins: Tensor | None = None,
    final_coins: Tensor | None = None,
    order: str = "hf",
    input: str = "logits",  # noqa: A002
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """tilewright.speculative.verify_tree, as verify_chain here."""
    return speculative.verify_tree(**_given(locals()))


@verify_tree.register_fake
def _(
    target: Tensor,
    tree_tokens: Tensor,
    next_token: Tensor,
    next_sibling: Tensor,
    length: int | None = None,
    *_parameters: object,
    **_named: object,
) -> tuple[Tensor, Tensor, Tensor]:
    requests, nodes, _ = target.shape
    shape = (requests, nodes if length is None else length)
    tokens, on_path = target.new_empty(shape, dtype=torch.int32), target.new_empty(shape, dtype=torch.int32)
    return tokens, on_path, target.new_empty(requests, dtype=torch.int32)
