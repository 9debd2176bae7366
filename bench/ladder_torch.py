# SPDX-License-Identifier: Apache-2.0
"""What ladder.py does with torch: the tensors of a row, what attention over them is, how calls are timed, and what
calls of the Python module cost.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import torch
from ladder_rows import Row

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
        self.kv_dtype = torch.bfloat16 if row.kv_dtype == "bf16" else torch.float8_e4m3fn

        def drawn(shape: tuple[int, ...]) -> torch.Tensor:
            values = torch.randn(shape, device=DEVICE, dtype=torch.bfloat16, generator=generator)
            return values.zero_() if row.zeros else values

        kv = drawn(shape).to(self.kv_dtype)
        copies = -(-COLD_BYTES // row.kv_bytes())
        self.calls = max(10, copies)
        self.kvs = [kv] + [kv.clone() for _ in range(copies - 1)]
        self._turn = itertools.cycle(self.kvs)
        self.q = drawn((sum(row.q_lens), row.qo_heads, row.head_dim))
        self.sinks = None
        if row.sinks:
            # As large as the logarithm of the sum of some 2000 keys' exponentials: without them a result is wrong.
            # Of values that bf16 holds exactly, as some libraries take them so.
            normal = torch.randn(row.qo_heads, device=DEVICE, generator=generator)
            self.sinks = (normal * 4).round() / 4 + 8
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

    def expected(self, request: int, at: torch.Tensor) -> torch.Tensor:
        """Attention in float64 of a request's query tokens `at`."""
        row = self.row
        group = row.qo_heads // row.kv_heads
        q_len, kv_len = row.q_lens[request], row.kv_lens[request]
        # Of fp8 not every operator is there.
        bits = self.kvs[0].view(torch.uint8) if self.kv_dtype.itemsize == 1 else self.kvs[0]
        pages = bits[self.pages[request].long()].view(self.kv_dtype).transpose(0, 1).float()
        k, v = (x.reshape(-1, row.kv_heads, row.head_dim)[:kv_len].double() for x in pages)
        q = self.q[int(self.qo_indptr[request]) + at].double().reshape(len(at), row.kv_heads, group, row.head_dim)
        logits = torch.einsum("qhgd,khd->hgqk", q, k) * row.head_dim**-0.5
        if row.causal:
            behind = (at + kv_len - q_len)[:, None] - torch.arange(kv_len, device=DEVICE)
            seen = (behind >= 0) & (behind < (row.window or kv_len))
            logits = logits.masked_fill(~seen, -torch.inf)
        if self.sinks is not None:
            sinks = self.sinks.double().reshape(row.kv_heads, group, 1, 1).expand(-1, -1, len(at), 1)
            logits = torch.cat([logits, sinks], dim=-1)
        weights = logits.softmax(-1)[..., :kv_len]
        return torch.einsum("hgqk,khd->qhgd", weights, v).reshape(len(at), row.qo_heads, -1)

    def error(self, out: torch.Tensor) -> float:
        """The largest relative error of sampled rows; inf where one is not finite."""
        row, worst = self.row, 0.0
        for request in {0, len(row.q_lens) - 1, max(range(len(row.kv_lens)), key=row.kv_lens.__getitem__)}:
            at = torch.unique(torch.linspace(0, row.q_lens[request] - 1, 32, device=DEVICE).long())
            expected = self.expected(request, at)
            actual = out[int(self.qo_indptr[request]) + at].double()
            difference = (actual - expected).norm(dim=-1) / expected.norm(dim=-1)
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


def host_us(work: Callable[[], object], device_us: float = 0, calls: int = 200) -> float:
    """Microseconds of the host a call, median; the device's queue never fills. Calls that take the device long are
    fewer: half a second's worth."""
    calls = max(10, min(calls, int(5e5 / max(device_us, 1))))
    times = []
    for i in range(calls):
        if i % 20 == 0:
            torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    torch.cuda.synchronize()
    return statistics.median(times) * 1e6


def host_times(row: Row, run_us: float) -> dict:
    """Of calls of the Python module with torch tensors. A run takes the device `run_us`."""
    import tilewright as tw

    tensors = Tensors(row)
    variant = tw.variants.causal(window_left=row.window - 1) if row.causal else tw.variants.full()
    attention = tw.Attention(num_qo_heads=row.qo_heads, num_kv_heads=row.kv_heads, head_dim=row.head_dim,
                             q_dtype="bfloat16", kv_dtype=str(tensors.kv_dtype).removeprefix("torch."),
                             variant=variant, device=DEVICE)  # fmt: skip
    limits = tw.Limits(requests=len(row.q_lens), q_tokens=sum(row.q_lens), q_len=max(row.q_lens),
                       kv_len=max(row.kv_lens))  # fmt: skip
    plan = tw.Plan([attention], limits).prepare()
    batch = tw.Batch(qo_indptr=tensors.qo_indptr.to(DEVICE), kv_lens=tensors.kv_lens.to(DEVICE))
    tables = {attention: tw.PageTable.padded(tensors.table, row.page_size)}
    out = torch.empty_like(tensors.q)

    def update() -> None:
        plan.update(batch, tables=tables)

    def run() -> None:
        attention.run(plan, tensors.q, tensors.kvs[0], out=out, sinks=tensors.sinks)

    update()
    run()
    error = tensors.error(out)
    result = {"python_err": error, "python_update_us": host_us(update), "python_run_us": host_us(run, run_us)}
    if error > MOST_ERROR:
        result["ok"] = False
    return result


def release_memory() -> None:
    """Of rows that are done: the next row's program needs it."""
    torch.cuda.empty_cache()
