# SPDX-License-Identifier: Apache-2.0
"""Attention on a GPU over a fixed ladder of work: prefill, decode, mixed batches, shared prefixes.

The rows are timed and checked by the program `ladder` (bench/ladder.cpp says what its figures are). With `--peers
FOLDER`, FlashInfer and FlashAttention-3 from that folder do the same work, row by row between ours, on the same GPU; the
folder's setup.sh must have been sourced, and torch is needed. `--python` adds what calls of the Python module cost the
host. Prints a table; `--json FILE` writes all figures.

Needs NumPy, which draws the lengths.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Row:
    name: str
    kind: str
    q_lens: list[int]
    kv_lens: list[int]  # with the prefix
    qo_heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    page_size: int = 16
    causal: bool = True
    prefix: int = 0  # tokens that all requests share

    def line(self) -> str:
        """What the program reads."""
        fields = [self.name, self.kind, self.qo_heads, self.kv_heads, self.head_dim, self.page_size, int(self.causal),
                  len(self.q_lens), *self.q_lens, *self.kv_lens]  # fmt: skip
        return " ".join(map(str, fields + [self.prefix] * (self.prefix > 0)))


def zipf_lens(rng: np.random.Generator, requests: int, mean: int) -> list[int]:
    """Few long requests, many short ones."""
    ranks = np.minimum(rng.zipf(1.3, size=requests), 4000).astype(float)
    return np.clip(ranks / ranks.mean() * mean, 16, 32768).astype(int).tolist()


def ladder() -> list[Row]:
    """The same rows each time: lengths are drawn in the order of the rows."""
    rng = np.random.default_rng(7)
    rows = []

    def prefill(name: str, q_lens: list[int], **options) -> None:
        rows.append(Row(name, "prefill", q_lens, options.pop("kv_lens", q_lens), **options))

    def decode(name: str, kv_lens: list[int], q_len: int = 1, **options) -> None:
        rows.append(Row(name, "decode", [q_len] * len(kv_lens), kv_lens, **options))

    for requests, length in ((16, 1024), (4, 4096), (1, 16384)):
        prefill(f"prefill_{requests}x{length}", [length] * requests)
    prefill("prefill_16384_noncausal_mha", [16384], kv_heads=32, causal=False)
    prefill("prefill_ragged16", rng.integers(128, 8192, size=16).tolist())
    prefill("prefill_1x16384_page1", [16384], page_size=1)
    prefill("chunk_2048_on_16k", [2048], kv_lens=[18432])
    for requests, length in ((1, 1024), (1, 32768), (16, 4096), (64, 4096), (128, 2048)):
        decode(f"decode_{requests}x{length}", [length] * requests)
    decode("decode_128_uniform512_2048", rng.integers(512, 2048, size=128).tolist())
    decode("decode_64_zipf", zipf_lens(rng, 64, 4096))
    decode("decode_16x4096_mha", [4096] * 16, kv_heads=32)
    decode("decode_64x8192_8q1kv", [8192] * 64, qo_heads=8, kv_heads=1)
    decode("decode_64x4096_page1", [4096] * 64, page_size=1)
    decode("spec_32x4_on_4096", [4096] * 32, q_len=4)
    rows.append(Row("mixed_64dec4096_1x2048on8192", "mixed", [1] * 64 + [2048], [4096] * 64 + [8192]))
    decode("decode_256_uniform512_2048", rng.integers(512, 2048, size=256).tolist())
    for requests, prefix in ((16, 8192), (64, 8192), (64, 32768)):
        rows.append(Row(f"shared_{requests}_on_{prefix}", "levels", [1] * requests, [prefix + 256] * requests,
                        prefix=prefix))  # fmt: skip
    return rows


def run_program(program: Path, row: Row) -> dict:
    """The program's object of one row."""
    done = subprocess.run([program, "-"], input=row.line() + "\n", stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    if not lines:
        return {"name": row.name, "error": f"{program} ended with status {done.returncode}"}
    return json.loads(lines[-1])


class Table:
    def __init__(self, peers: bool, python: bool) -> None:
        self.peers, self.python = peers, python
        columns = ["us", "TFLOP/s", "GB/s", "update us", "run() us", "update()"]
        columns += ["py run()", "py upd()"] * python + ["best peer", "ratio"] * peers
        print(f"{'':30}" + "".join(f"{column:>10}" for column in columns) + "  of")

    def add(self, result: dict) -> None:
        if "error" in result:
            print(f"{result['name']:30}  {result['error']}", flush=True)
            return
        numbers = [result["us"], result["tflops"], result["gbs"], result["update_us"], result["run_host_us"],
                   result["update_host_us"]]  # fmt: skip
        if self.python:
            numbers += [result.get("python_run_us", 0), result.get("python_update_us", 0)]
        text = f"{result['name']:30}" + "".join(f"{number:10.1f}" for number in numbers)
        best = min(result.get("peers", []), key=lambda peer: peer["us"], default=None)
        if best:
            # Above 1: ours is faster.
            text += f"{best['us']:10.1f}{best['us'] / result['us']:10.2f}  {best['peer']}"
        if "flat_us" in result:
            text += f"  flat: {result['flat_us']:.1f} us"
        if not result["ok"]:
            text += f"  WRONG: error {result['err']}, same bits {result['same']}, bad requests {result['status']}"
        print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", metavar="SUBSTRING", help="only rows whose names have it")
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/bin/ladder")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="made by its own `prepare`")
    parser.add_argument("--python", action="store_true", help="time the Python module's calls too")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--list", action="store_true", help="print the rows as the program reads them, and stop")
    arguments = parser.parse_args()
    rows = [row for row in ladder() if arguments.rows in row.name]
    if arguments.list:
        print("\n".join(row.line() for row in rows))
        return 0
    if arguments.peers or arguments.python:
        import ladder_torch

        if arguments.peers:
            ladder_torch.add_peers(arguments.peers)
    table = Table(arguments.peers is not None, arguments.python)
    results = []
    for row in rows:
        result = run_program(arguments.program, row)
        if "error" not in result and arguments.python:
            result |= ladder_torch.host_times(row)
        if "error" not in result and arguments.peers:
            result["peers"] = ladder_torch.run_peers(row)
        if arguments.python or arguments.peers:
            ladder_torch.release_memory()
        table.add(result)
        results.append(result)
        if arguments.json:  # after each row: nothing is lost when the time is up
            Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(result.get("ok") for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
