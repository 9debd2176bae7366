# SPDX-License-Identifier: Apache-2.0
"""What ladder.py does with torch: other libraries on the ladder's rows, and what calls of the Python module cost.

Every peer is checked against attention in float32 at sampled query rows, and timed as ours is: a CUDA graph of calls
over copies of KV that the L2 cache cannot hold.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from ladder import Row

DEVICE = "cuda"
COLD_BYTES = 180 << 20
MOST_ERROR = 1e-2


class Tensors:
    def __init__(self, row: Row) -> None:
        self.row = row
        generator = torch.Generator(device=DEVICE).manual_seed(0)
        page, prefix_pages = row.page_size, row.prefix // row.page_size
        own = [-(-(length - row.prefix) // page) for length in row.kv_lens]
        order = torch.randperm(prefix_pages + sum(own), generator=generator, device=DEVICE).to(torch.int32)
        shape = (len(order), 2, page, row.kv_heads, row.head_dim)
        kv = torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, generator=generator)
        copies = -(-COLD_BYTES // (2 * kv.numel()))
        self.calls = max(10, copies)
        self.kvs = [kv] + [kv.clone() for _ in range(copies - 1)]
        self._turn = itertools.cycle(self.kvs)
        self.q = torch.randn(sum(row.q_lens), row.qo_heads, row.head_dim, device=DEVICE, dtype=torch.bfloat16,
                             generator=generator)  # fmt: skip
        self.prefix_pages = order[:prefix_pages]
        ends = [prefix_pages + end for end in itertools.accumulate(own, initial=0)]
        self.own_pages = [order[begin:end] for begin, end in itertools.pairwise(ends)]
        self.pages = [torch.cat([self.prefix_pages, pages]) for pages in self.own_pages]
        self.table = torch.nn.utils.rnn.pad_sequence(self.pages, batch_first=True).contiguous()

        def indptr(counts: list[int]) -> torch.Tensor:
            return torch.tensor([0, *itertools.accumulate(counts)], dtype=torch.int32)

        # On the host: FlashInfer plans there.
        self.qo_indptr = indptr(row.q_lens)
        self.own_indptr = indptr(own)
        self.kv_indptr = indptr([len(pages) for pages in self.pages])
        self.kv_lens = torch.tensor(row.kv_lens, dtype=torch.int32)
        self.last = (self.kv_lens - 1) % page + 1

    def next_kv(self) -> torch.Tensor:
        """The same values at each call, elsewhere in memory."""
        return next(self._turn)

    def error(self, out: torch.Tensor) -> float:
        """The largest relative error of sampled rows; inf where one is not finite."""
        row, worst = self.row, 0.0
        picks = {0, len(row.q_lens) - 1, max(range(len(row.kv_lens)), key=row.kv_lens.__getitem__)}
        group = row.qo_heads // row.kv_heads
        for request in picks:
            q_len, kv_len = row.q_lens[request], row.kv_lens[request]
            at = torch.unique(torch.linspace(0, q_len - 1, 32, device=DEVICE).long())
            pages = self.kvs[0][self.pages[request].long()].transpose(0, 1).float()
            k, v = (x.reshape(-1, row.kv_heads, row.head_dim)[:kv_len] for x in pages)
            tokens = int(self.qo_indptr[request]) + at
            q = self.q[tokens].float().reshape(len(at), row.kv_heads, group, row.head_dim)
            logits = torch.einsum("qhgd,khd->hgqk", q, k) * row.head_dim**-0.5
            if row.causal:
                seen = torch.arange(kv_len, device=DEVICE) <= (at + kv_len - q_len)[:, None]
                logits = logits.masked_fill(~seen, -torch.inf)
            expected = torch.einsum("hgqk,khd->qhgd", logits.softmax(-1), v).reshape(len(at), row.qo_heads, -1)
            difference = (out[tokens].float() - expected).norm(dim=-1) / expected.norm(dim=-1)
            worst = max(worst, float(difference.nan_to_num(torch.inf).max()))
        return worst


def device_us(work: Callable[[], object], calls: int) -> float:
    """Microseconds of a call in a graph of `calls`, median of up to 30 rounds."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            work()
    graph.replay()
    torch.cuda.synchronize()
    rounds: list[float] = []
    while len(rounds) < 30 and sum(rounds) < 1500:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        rounds.append(begin.elapsed_time(end))
    return statistics.median(rounds) * 1e3 / calls


def host_us(work: Callable[[], object], calls: int = 200) -> float:
    """Microseconds of the host a call, median; the device's queue never fills."""
    times = []
    for i in range(calls):
        if i % 20 == 0:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    torch.cuda.synchronize()
    return statistics.median(times) * 1e6


def host_times(row: Row) -> dict:
    """Of calls of the Python module with torch tensors."""
    import tilewright as tw

    tensors = Tensors(row)
    variant = tw.variants.causal() if row.causal else tw.variants.full()
    attention = tw.Attention(num_qo_heads=row.qo_heads, num_kv_heads=row.kv_heads, head_dim=row.head_dim,
                             dtype="bfloat16", variant=variant, device=DEVICE)  # fmt: skip
    limits = tw.Limits(requests=len(row.q_lens), q_tokens=sum(row.q_lens), q_len=max(row.q_lens),
                       kv_len=max(row.kv_lens))  # fmt: skip
    plan = tw.Plan([attention], limits).prepare()
    batch = tw.Batch(qo_indptr=tensors.qo_indptr.to(DEVICE), kv_lens=tensors.kv_lens.to(DEVICE))
    tables = {attention: tw.PageTable.padded(tensors.table, row.page_size)}
    out = torch.empty_like(tensors.q)

    def update() -> None:
        plan.update(batch, tables=tables)

    def run() -> None:
        attention.run(plan, tensors.q, tensors.kvs[0], out=out)

    update()
    run()
    error = tensors.error(out)
    result = {"python_err": error, "python_update_us": host_us(update), "python_run_us": host_us(run)}
    if error > MOST_ERROR:
        result["ok"] = False
    return result


class Peers:
    """The libraries of a folder, as far as they can be imported."""

    def __init__(self, folder: Path) -> None:
        sys.path[:0] = [str(folder), str(folder / "fa3")]
        self.flashinfer, self.fa3 = None, None
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
                         q_data_type=torch.bfloat16, kv_data_type=torch.bfloat16)  # fmt: skip

        return plan, lambda: wrapper.run(t.q, t.next_kv())

    def prefill(self, t: Tensors, backend: str):
        row = t.row
        wrapper = self.flashinfer.BatchPrefillWithPagedKVCacheWrapper(self.workspace, "NHD", backend=backend)
        indices = torch.cat(t.pages)

        def plan() -> None:
            wrapper.plan(t.qo_indptr, t.kv_indptr, indices, t.last, row.qo_heads, row.kv_heads, row.head_dim,
                         row.page_size, causal=row.causal, q_data_type=torch.bfloat16,
                         kv_data_type=torch.bfloat16)  # fmt: skip

        return plan, lambda: wrapper.run(t.q, t.next_kv())

    def persistent(self, t: Tensors):
        row = t.row
        wrapper = self.flashinfer.BatchAttention("NHD")
        indices = torch.cat(t.pages)
        on_device = [x.to(DEVICE) for x in (t.qo_indptr, t.kv_indptr)]
        lens = t.kv_lens.to(DEVICE)

        def plan() -> None:
            wrapper.plan(*on_device, indices, lens, row.qo_heads, row.kv_heads, row.head_dim, row.head_dim,
                         row.page_size, causal=row.causal, q_data_type=torch.bfloat16,
                         kv_data_type=torch.bfloat16)  # fmt: skip

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
        if len(set(row.q_lens)) == 1:
            q = t.q.view(len(row.q_lens), row.q_lens[0], row.qo_heads, row.head_dim)
            queries = {}
        else:
            q, queries = t.q, {"cu_seqlens_q": qo_indptr, "max_seqlen_q": max(row.q_lens)}

        def run() -> torch.Tensor:
            kv = t.next_kv()
            return self.fa3.flash_attn_with_kvcache(q, kv[:, 0], kv[:, 1], cache_seqlens=lens, page_table=t.table,
                                                    causal=row.causal, num_splits=splits, **queries)  # fmt: skip

        return None, run

    def candidates(self, t: Tensors) -> dict[str, Callable]:
        row = t.row
        decodes = max(row.q_lens) == 1
        ways: dict[str, Callable] = {}
        if self.flashinfer:
            if row.prefix:
                ways["flashinfer cascade"] = lambda: self.cascade(t)
            if decodes:
                ways["flashinfer fa2"] = lambda: self.decode(t, "fa2", False)
                ways["flashinfer fa2 tc"] = lambda: self.decode(t, "fa2", True)
                ways["flashinfer auto"] = lambda: self.decode(t, "auto", True)
            else:
                ways["flashinfer fa2"] = lambda: self.prefill(t, "fa2")
                ways["flashinfer fa3"] = lambda: self.prefill(t, "fa3")
            if row.kind != "prefill":
                ways["flashinfer BatchAttention"] = lambda: self.persistent(t)
        if self.fa3:
            ways["fa3"] = lambda: self.flash_attention(t, 0)
            if decodes:
                ways["fa3 unsplit"] = lambda: self.flash_attention(t, 1)
        return ways


_peers: Peers | None = None


def add_peers(folder: Path) -> None:
    global _peers
    _peers = Peers(folder)


def run_peers(row: Row) -> list[dict]:
    """What every peer that does the row reaches; one that fails or is wrong is left out, and named on stderr."""
    tensors = Tensors(row)
    results = []
    for name, make in _peers.candidates(tensors).items():
        try:
            plan, run = make()
            if plan:
                plan()
            out = run()
            out = out[0] if isinstance(out, tuple) else out
            error = tensors.error(out.reshape(-1, row.qo_heads, row.head_dim))
            result = {"peer": name, "us": device_us(run, tensors.calls), "err": error, "run_host_us": host_us(run)}
            if plan:
                result["plan_host_us"] = host_us(plan, 20)
        except Exception as failure:  # noqa: BLE001: libraries fail in ways of their own; the others still run
            print(f"{row.name}: {name}: {type(failure).__name__}: {str(failure)[:300]}", file=sys.stderr)
            continue
        if error > MOST_ERROR:
            print(f"{row.name}: {name} is wrong: error {error:.1e}", file=sys.stderr)
            continue
        results.append(result)
    return results


def release_memory() -> None:
    """Of rows that are done: the next row's program needs it."""
    torch.cuda.empty_cache()
