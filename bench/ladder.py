# SPDX-License-Identifier: Apache-2.0
"""Attention on a GPU over fixed sets of work; ladder_rows.py has them:

  ladder        prefill, decode, mixed batches, shared prefixes
  extra         an fp8 cache, learned sinks, windows; decode under the limits of mixed batches
  head_dim_64, head_dim_256
                the ladder with other heads
  growth        1k to 128k tokens, 1 to 1024 requests (growth_figure.py draws it)
  zeros         prefill and the mixed batch with inputs of zeros, which take little power to multiply

The rows are timed and checked by the program `ladder` (bench/ladder.cpp says what its figures are). With `--peers
FOLDER`, FlashInfer and FlashAttention-3 from that folder do the same work, row by row between ours, on the same GPU; the
folder's setup.sh must have been sourced, and torch is needed. `--python` adds what calls of the Python module cost the
host. Where NVML is, the SM clock and the power are those while the row was timed. Prints a table; `--json FILE` writes
all figures.

Needs NumPy, which draws the lengths.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from clocks import Clocks
from ladder_rows import SETS, Row

ROOT = Path(__file__).resolve().parent.parent


def run_program(program: Path, device: str, row: Row) -> dict:
    """The program's object of one row."""
    command = [program, "-"] + (["--device", "cpu"] if device == "cpu" else [])
    done = subprocess.run(command, input=row.line() + "\n", stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    if not lines:
        return {"name": row.name, "error": f"{program} ended with status {done.returncode}"}
    return json.loads(lines[-1])


class Table:
    def __init__(self, peers: bool, python: bool) -> None:
        self.peers, self.python = peers, python
        columns = ["us", "TFLOP/s", "GB/s", "update us", "run() us", "update()", "MHz", "W"]
        columns += ["py run()", "py upd()"] * python + ["best peer", "ratio"] * peers
        print(f"{'':30}" + "".join(f"{column:>10}" for column in columns) + "  of")

    def add(self, result: dict) -> None:
        if "error" in result:
            print(f"{result['name']:30}  {result['error']}", flush=True)
            return
        clocks = result.get("clocks", {})
        numbers = [result["us"], result["tflops"], result["gbs"], result["update_us"], result["run_host_us"],
                   result["update_host_us"], clocks.get("sm_mhz", 0), clocks.get("watts", 0)]  # fmt: skip
        if self.python:
            numbers += [result.get("python_run_us", 0), result.get("python_update_us", 0)]
        text = f"{result['name']:30}" + "".join(f"{number:10.1f}" for number in numbers)
        best = min(result.get("peers", []), key=lambda peer: peer["us"], default=None)
        if best:
            # Above 1: ours is faster.
            text += f"{best['us']:10.1f}{best['us'] / result['us']:10.2f}  {best['peer']}"
        if "flat_us" in result:
            text += f"  flat: {result['flat_us']:.1f} us"
        if "mixed_us" in result:
            text += f"  mixed limits: {result['mixed_us']:.1f} us, update {result['mixed_update_us']:.1f} us"
        for cause in ("power", "heat"):
            share = clocks.get(f"{cause}_throttled", 0)
            text += f"  {cause} held the clock down {share:.0%} of the time" if share else ""
        if not result["ok"]:
            text += f"  WRONG: error {result['err']}, same bits {result['same']}, bad requests {result['status']}"
        print(text, flush=True)


class WithTorch:
    """What takes torch: peers, and calls of the Python module."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import ladder_torch

        self._torch = ladder_torch
        self._python = arguments.python
        self._peers = None
        if arguments.peers:
            from ladder_peers import Peers

            self._peers = Peers(arguments.peers, arguments.xqa)
        self._broken = False

    def figures(self, row: Row, run_us: float, clocks: Clocks) -> dict:
        if self._broken:
            return {}
        result: dict = {}
        try:
            if self._python:
                result |= self._torch.host_times(row, run_us)
            # Decode under other limits is for comparison with itself.
            if self._peers and not row.prefill_limit:
                result["peers"] = self._peers.measure(row, clocks)
            self._torch.release_memory()
        except Exception as failure:  # noqa: BLE001
            # A kernel that faults takes torch's context with it. The program has its own.
            print(f"{row.name}: {type(failure).__name__}: {failure}: nothing with torch from here on", file=sys.stderr)
            self._broken = True
        return result


def measured_rows(arguments: argparse.Namespace, rows: list[tuple[str, Row]], clocks: Clocks) -> Iterator[dict]:
    """What --json has of each row."""
    with_torch = WithTorch(arguments) if arguments.peers or arguments.python else None
    for set_name, row in rows:
        result = {"set": set_name, "requests": len(row.q_lens), "kv_len": max(row.kv_lens)}
        result |= run_program(arguments.program, arguments.device, row)
        seen = clocks.between(*result["timed_s"]) if "timed_s" in result else None
        if seen:
            result |= {"clocks": seen} | clocks.about
        if "error" not in result and with_torch:
            result |= with_torch.figures(row, result["us"], clocks)
        yield result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", nargs="+", default=["ladder"], choices=SETS, metavar="SET", dest="sets")
    parser.add_argument("--rows", default="", metavar="SUBSTRING", help="only rows whose names have it")
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/bin/ladder")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="of the program")
    parser.add_argument("--peers", type=Path, metavar="FOLDER", help="made by its own `prepare`")
    parser.add_argument("--xqa", action="store_true", help="TensorRT-LLM's decode kernels are peers, too; FlashInfer "
                        "builds them for minutes")  # fmt: skip
    parser.add_argument("--python", action="store_true", help="time the Python module's calls too")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--list", action="store_true", help="print the rows as the program reads them, and stop")
    arguments = parser.parse_args()
    rows = [(name, row) for name in arguments.sets for row in SETS[name]() if arguments.rows in row.name]
    if arguments.list:
        print("\n".join(row.line() for _, row in rows))
        return 0
    table = Table(arguments.peers is not None, arguments.python)
    results = []
    with Clocks.of_this_machine() as clocks:
        for result in measured_rows(arguments, rows, clocks):
            table.add(result)
            results.append(result)
            if arguments.json:  # after each row: nothing is lost when the time is up
                Path(arguments.json).write_text(json.dumps(results, indent=1) + "\n")
    return 0 if all(result.get("ok") for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
