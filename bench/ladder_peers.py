# SPDX-License-Identifier: Apache-2.0
"""Other libraries on the ladder's rows: FlashInfer's backends and FlashAttention-3.

Every peer is checked against attention in float64 at sampled query rows, and timed as ours is: a CUDA graph of calls
over copies of KV that the L2 cache cannot hold.
"""

import inspect
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from clocks import Clocks
from ladder_rows import Row
from ladder_torch import DEVICE, MOST_ERROR, Tensors, device_us, host_us

# What FlashAttention-3's forks call the argument.
SINK_ARGUMENTS = ("s_aux", "sinks", "learnable_sink")


class Peers:
    """The libraries of a folder, as far as they can be imported. `xqa`: FlashInfer's TensorRT-LLM decode kernels, too,
    which take it minutes to build."""

    def __init__(self, folder: Path, xqa: bool) -> None:
        sys.path[:0] = [str(folder), str(folder / "fa3")]
        self.flashinfer, self.fa3 = None, None
        self.with_xqa = xqa
        try:
            import flashinfer

            self.flashinfer = flashinfer
            self.workspace = torch.empty(512 << 20, dtype=torch.uint8, device=DEVICE)
        except ImportError as error:
            print(f"no FlashInfer: {error}", file=sys.stderr)
        try:
            import flash_attn_interface

            self.fa3 = flash_attn_interface
        except ImportError as error:
            print(f"no FlashAttention-3: {error}", file=sys.stderr)

    # Each gives (plan or None, run).

    def decode(self, t: Tensors, backend: str, tensor_cores: bool):
        row = t.row
        wrapper = self.flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            self.workspace, "NHD", use_tensor_cores=tensor_cores, backend=backend
        )
        indices = torch.cat(t.pages)

        def plan() -> None:
            wrapper.plan(t.kv_indptr, indices, t.last, row.qo_heads, row.kv_heads, row.head_dim, row.page_size,
                         window_left=row.window - 1, q_data_type=torch.bfloat16,
                         kv_data_type=t.kv_dtype)  # fmt: skip

        return plan, lambda: wrapper.run(t.q, t.next_kv())

    def xqa(self, t: Tensors):
        row = t.row
        # Its counters must be zeros once.
        workspace = torch.zeros(256 << 20, dtype=torch.uint8, device=DEVICE)
        lens = t.kv_lens.to(DEVICE).to(torch.uint32)

        def run() -> torch.Tensor:
            return self.flashinfer.decode.xqa_batch_decode_with_kv_cache(
                t.q, t.next_kv(), workspace, t.table, lens, max(row.kv_lens), bmm1_scale=row.head_dim**-0.5,
                bmm2_scale=1.0, window_left=row.window - 1, sinks=t.sinks)  # fmt: skip

        return None, run

    def prefill(self, t: Tensors, backend: str):
        wrapper = self.flashinfer.BatchPrefillWithPagedKVCacheWrapper(self.workspace, "NHD", backend=backend)
        return self._planned_prefill(wrapper, t), lambda: wrapper.run(t.q, t.next_kv())

    def with_sinks(self, t: Tensors, backend: str):
        row = t.row
        wrapper = self.flashinfer.BatchAttentionWithAttentionSinkWrapper(
            self.workspace, "NHD", backend=backend, q_data_type=torch.bfloat16, kv_data_type=t.kv_dtype,
            head_dim_qk=row.head_dim, head_dim_vo=row.head_dim, window_left=row.window - 1)  # fmt: skip
        scale = row.head_dim**-0.5
        return self._planned_prefill(wrapper, t), lambda: wrapper.run(t.q, t.next_kv(), t.sinks, scale)

    def _planned_prefill(self, wrapper, t: Tensors) -> Callable[[], None]:
        row = t.row
        indices = torch.cat(t.pages)

        def plan() -> None:
            wrapper.plan(t.qo_indptr, t.kv_indptr, indices, t.last, row.qo_heads, row.kv_heads, row.head_dim,
                         row.page_size, causal=row.causal, window_left=row.window - 1, q_data_type=torch.bfloat16,
                         kv_data_type=t.kv_dtype)  # fmt: skip

        return plan

    def persistent(self, t: Tensors):
        row = t.row
        wrapper = self.flashinfer.BatchAttention("NHD")
        indices = torch.cat(t.pages)
        on_device = [x.to(DEVICE) for x in (t.qo_indptr, t.kv_indptr)]
        lens = t.kv_lens.to(DEVICE)

        def plan() -> None:
            wrapper.plan(*on_device, indices, lens, row.qo_heads, row.kv_heads, row.head_dim, row.head_dim,
                         row.page_size, causal=row.causal, q_data_type=torch.bfloat16,
                         kv_data_type=t.kv_dtype)  # fmt: skip

        return plan, lambda: wrapper.run(t.q, t.next_kv())

    def cascade(self, t: Tensors):
        row = t.row
        wrapper = self.flashinfer.MultiLevelCascadeAttentionWrapper(2, self.workspace, "NHD")
        requests = len(row.q_lens)

        def ints(*values: int) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.int32, device=DEVICE)

        own_last = ((t.kv_lens - row.prefix - 1) % row.page_size + 1).to(DEVICE)
        levels = ([ints(0, requests), t.qo_indptr.to(DEVICE)], [ints(0, len(t.prefix_pages)), t.own_indptr.to(DEVICE)],
                  [t.prefix_pages, torch.cat(t.own_pages)], [ints(row.page_size), own_last])  # fmt: skip

        def plan() -> None:
            wrapper.plan(*levels, row.qo_heads, row.kv_heads, row.head_dim, row.page_size, q_data_type=torch.bfloat16)

        return plan, lambda: wrapper.run(t.q, t.next_kv())

    def flash_attention(self, t: Tensors, splits: int):
        row = t.row
        lens, qo_indptr = t.kv_lens.to(DEVICE), t.qo_indptr.to(DEVICE)
        options: dict = {"causal": row.causal, "num_splits": splits}
        if len(set(row.q_lens)) == 1:
            q = t.q.view(len(row.q_lens), row.q_lens[0], row.qo_heads, row.head_dim)
        else:
            q = t.q
            options |= {"cu_seqlens_q": qo_indptr, "max_seqlen_q": max(row.q_lens)}
        if row.window:
            options["window_size"] = (row.window - 1, 0)
        if t.sinks is not None:
            options[self.fa3_sink_argument()] = t.sinks.bfloat16()

        def run() -> torch.Tensor:
            kv = t.next_kv()
            return self.fa3.flash_attn_with_kvcache(q, kv[:, 0], kv[:, 1], cache_seqlens=lens, page_table=t.table,
                                                    **options)  # fmt: skip

        return None, run

    def fa3_sink_argument(self) -> str | None:
        known = inspect.signature(self.fa3.flash_attn_with_kvcache).parameters
        return next((name for name in SINK_ARGUMENTS if name in known), None)

    def without_fa3(self, row: Row) -> str:
        """Why this FlashAttention-3 does not do the row; empty if nothing is known to be in the way."""
        rounded = getattr(self.fa3, "round_up_headdim", None)
        if row.kv_dtype != "bf16":
            return "takes fp8 keys with fp8 queries only"
        if row.sinks and not self.fa3_sink_argument():
            return "this build has no sinks"
        # It would run, on tiles of which a part is padding: not what it reaches when built for the head_dim.
        if rounded and rounded(row.head_dim) != row.head_dim:
            return f"this build is not for head_dim {row.head_dim}"
        return ""

    def flashinfer_ways(self, t: Tensors) -> dict[str, Callable]:
        row = t.row
        decodes = max(row.q_lens) == 1
        ways: dict[str, Callable] = {}
        if row.prefix:
            ways["flashinfer cascade"] = lambda: self.cascade(t)
        if row.sinks:
            ways["flashinfer fa2"] = lambda: self.with_sinks(t, "fa2")
            ways["flashinfer fa3"] = lambda: self.with_sinks(t, "fa3")
        elif decodes:
            ways["flashinfer fa2"] = lambda: self.decode(t, "fa2", False)
            ways["flashinfer fa2 tc"] = lambda: self.decode(t, "fa2", True)
            ways["flashinfer auto"] = lambda: self.decode(t, "auto", True)
        else:
            ways["flashinfer fa2"] = lambda: self.prefill(t, "fa2")
            ways["flashinfer fa3"] = lambda: self.prefill(t, "fa3")
        if decodes and self.with_xqa:
            ways["flashinfer xqa"] = lambda: self.xqa(t)
        if row.kind != "prefill" and not row.window and not row.sinks:
            ways["flashinfer BatchAttention"] = lambda: self.persistent(t)
        return ways

    def ways(self, t: Tensors) -> dict[str, Callable]:
        row = t.row
        ways = self.flashinfer_ways(t) if self.flashinfer else {}
        if self.fa3:
            why = self.without_fa3(row)
            if why:
                print(f"{row.name}: no fa3: {why}", file=sys.stderr)
                return ways
            ways["fa3"] = lambda: self.flash_attention(t, 0)
            if max(row.q_lens) == 1:
                ways["fa3 unsplit"] = lambda: self.flash_attention(t, 1)
        return ways

    def measure(self, row: Row, clocks: Clocks) -> list[dict]:
        """What every peer that does the row reaches; one that fails or is wrong is left out, and named on stderr."""
        tensors = Tensors(row)
        results = []
        for name, make in self.ways(tensors).items():
            try:
                result = measure_way(name, make, tensors, clocks)
            except Exception as failure:  # noqa: BLE001  # libraries fail in ways of their own; the others still run
                print(f"{row.name}: {name}: {type(failure).__name__}: {str(failure)[:300]}", file=sys.stderr)
                continue
            if result["err"] > MOST_ERROR:
                print(f"{row.name}: {name} is wrong: error {result['err']:.1e}", file=sys.stderr)
                continue
            results.append(result)
        return results


def measure_way(name: str, make: Callable, tensors: Tensors, clocks: Clocks) -> dict:
    plan, run = make()
    if plan:
        plan()
    out = run()
    out = out[0] if isinstance(out, tuple) else out
    error = tensors.error(out.reshape(-1, tensors.row.qo_heads, tensors.row.head_dim))
    begin = time.monotonic()
    us = device_us(run, tensors.calls)
    end = time.monotonic()
    result = {"peer": name, "us": us, "err": error, "run_host_us": host_us(run, us)}
    if plan:
        result["plan_host_us"] = host_us(plan, calls=20)
    seen = clocks.between(begin, end)
    return result | ({"clocks": seen} if seen else {})
