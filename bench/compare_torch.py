# SPDX-License-Identifier: Apache-2.0
"""Attention and sampling against torch on the CPU: one process, the same threads, rounds that alternate.

Needs torch and the tilewright module. Prints a table of what both reach, best and median of the rounds, and how they
relate to each other, to the read bandwidth measured between the rounds, or to the ideal. `--json FILE` writes the same
figures.

Prefill counts the operations of causal pairs only, decode the bytes of K and V. torch has no paged attention: it gets
contiguous tensors, Tilewright a paged cache [pages, 16, heads, dim] whose pages lie in random order.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import tilewright as tw
import torch

HEADS, KV_HEADS, DIM, PAGE = 32, 8, 128, 16
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


class Batch:
    """Requests of (query tokens, KV tokens) on a paged cache."""

    def __init__(self, dtype: str, requests: list[tuple[int, int]], variant: tw.Variant | None = None) -> None:
        generator = torch.Generator().manual_seed(1)
        self.kind = DTYPES[dtype]
        self.requests = requests
        q_lens, kv_lens = zip(*requests)
        pages = [-(-n // PAGE) for n in kv_lens]
        order = torch.randperm(sum(pages), generator=generator).numpy().astype(np.int32)
        # Positive values of no extreme size: what they are does not matter for speed.
        self.q = torch.rand(sum(q_lens), HEADS, DIM, generator=generator).to(self.kind)
        self.cache = torch.rand(2, sum(pages), PAGE, KV_HEADS, DIM, generator=generator).to(self.kind)
        self.out = torch.empty_like(self.q)
        self.attention = tw.Attention(
            num_qo_heads=HEADS,
            num_kv_heads=KV_HEADS,
            head_dim=DIM,
            dtype=str(self.kind).removeprefix("torch."),
            variant=variant or tw.variants.causal(),
        )
        self.plan = self.attention.plan(
            qo_indptr=np.cumsum([0, *q_lens]).astype(np.int32),
            kv_indptr=np.cumsum([0, *pages]).astype(np.int32),
            kv_indices=order,
            kv_last_page_len=np.array([(n - 1) % PAGE + 1 for n in kv_lens], np.int32),
            page_size=PAGE,
        )

    def run(self) -> None:
        self.attention.run(self.plan, self.q, (self.cache[0], self.cache[1]), out=self.out)

    def flops(self) -> float:
        pairs = sum(q * kv - q * (q - 1) / 2 for q, kv in self.requests)
        return 4 * DIM * HEADS * pairs

    def kv_bytes(self) -> float:
        return sum(kv for _, kv in self.requests) * 2 * KV_HEADS * DIM * self.kind.itemsize


def torch_attention(dtype: str, batch: int, q_len: int, kv_len: int) -> Callable[[], None]:
    kind = DTYPES[dtype]

    def tensor(heads: int, tokens: int) -> torch.Tensor:
        return torch.rand(batch, tokens, heads, DIM).to(kind).transpose(1, 2)

    q, k, v = tensor(HEADS, q_len), tensor(KV_HEADS, kv_len), tensor(KV_HEADS, kv_len)

    def run() -> None:
        with torch.inference_mode():
            torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=q_len > 1, enable_gqa=True)

    return run


def read_bandwidth() -> Callable[[], None]:
    """Reads 512 MB with all threads."""
    x = torch.ones(128 << 20)
    return lambda: x.sum()  # type: ignore[return-value]


READ_BYTES = 512 << 20


def measure(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, tuple[float, float]]:
    """Best and median seconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: (min(all_times), statistics.median(all_times)) for name, all_times in times.items()}


class Report:
    def __init__(self) -> None:
        self.rows: list[dict] = []
        print(f"{'':34}{'unit':>9}{'best':>9}{'median':>9}{'other':>9}{'median':>9}{'ratio':>8}{'':3}against")

    def add(self, name: str, unit: str, amount: float, ours: tuple[float, float], other: tuple[float, float],
            against: str, ideal: float = 1.0) -> None:  # fmt: skip
        """`amount` a second for both; the ratio of the best ones, over `ideal`."""
        figures = [amount / seconds for seconds in (*ours, *other)]
        ratio = figures[0] / figures[2] / ideal
        keys = ("best", "median", "other_best", "other_median")
        self.rows.append({"name": name, "unit": unit, **dict(zip(keys, figures)), "ratio": ratio, "against": against})
        print(f"{name:34}{unit:>9}" + "".join(f"{figure:9.1f}" for figure in figures) + f"{ratio:8.2f}   {against}",
              flush=True)  # fmt: skip


def prefill(report: Report, rounds: int) -> None:
    for dtype in DTYPES:
        for batch, length in ((8, 1024), (1, 4096)):
            ours = Batch(dtype, [(length, length)] * batch)
            runs = {"ours": ours.run, "torch": torch_attention(dtype, batch, length, length)}
            times = measure(runs, rounds)
            report.add(f"prefill {batch} x {length} {dtype}", "GFLOP/s", ours.flops() / 1e9, times["ours"],
                       times["torch"], "torch SDPA")  # fmt: skip


def decode(report: Report, rounds: int) -> None:
    for dtype in DTYPES:
        ours = Batch(dtype, [(1, 2048)] * 16)
        runs = {"ours": ours.run, "torch": torch_attention(dtype, 16, 1, 2048), "read": read_bandwidth()}
        times = measure(runs, rounds)
        name, size = f"decode 16 x 2048 {dtype}", ours.kv_bytes()
        report.add(name, "GB/s", size / 1e9, times["ours"], times["torch"], "torch SDPA")
        read = tuple(seconds * size / READ_BYTES for seconds in times["read"])
        report.add(name, "GB/s", size / 1e9, times["ours"], read, "read bandwidth")


def skewed(report: Report, rounds: int) -> None:
    for dtype in DTYPES:
        long_one = Batch(dtype, [(1, 32768)] + [(1, 256)] * 31)
        even = Batch(dtype, [(1, (32768 + 31 * 256) // 32)] * 32)
        times = measure({"skewed": long_one.run, "even": even.run}, rounds)
        report.add(f"decode 32k + 31 x 256 {dtype}", "GB/s", long_one.kv_bytes() / 1e9, times["skewed"], times["even"],
                   "as many tokens, even")  # fmt: skip


def window(report: Report, rounds: int) -> None:
    for dtype in DTYPES:
        for q_len in (1, 1024):
            requests = [(q_len, 16384)] * (16 if q_len == 1 else 1)
            windowed = Batch(dtype, requests, tw.variants.causal(window_left=511))
            full = Batch(dtype, requests)
            # Pairs that are left: the ideal saving.
            pairs = full.flops() / (4 * DIM * HEADS * len(requests))
            ideal = pairs / (q_len * 512)
            times = measure({"window": windowed.run, "full": full.run}, rounds)
            report.add(f"window 512, {q_len} of 16384 {dtype}", "runs/s", 1.0, times["window"], times["full"],
                       f"ideal saving, {ideal:.0f}", ideal)  # fmt: skip


def sampling(report: Report, rounds: int) -> None:
    logits = torch.randn(1, 128256, generator=torch.Generator().manual_seed(1)) * 3
    step = iter(range(10**9))

    def ours() -> None:
        tw.sampling.sample(logits, temperature=0.8, top_k=50, top_p=0.9, min_p=0.02, seeds=7, steps=next(step))

    times = measure({"ours": ours, "sort": lambda: torch.sort(logits, descending=True)}, rounds)  # type: ignore[dict-item]
    report.add("sampling 128256, all filters", "rows/s", 1.0, times["ours"], times["sort"], "torch.sort")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="*", default=["prefill", "decode", "skewed", "window", "sampling"])
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tw.set_num_threads(arguments.threads)
    report = Report()
    for name in arguments.only:
        globals()[name](report, arguments.rounds)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"threads": arguments.threads, "torch": torch.__version__, "rows": report.rows}, file, indent=1)


if __name__ == "__main__":
    main()
