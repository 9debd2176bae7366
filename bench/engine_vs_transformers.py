# SPDX-License-Identifier: Apache-2.0
"""The engine against transformers: the same SmolLM2 weights, prompts, threads and greedy answers, on the CPU or a GPU.

Needs torch, transformers, accelerate and gguf (from PyPI), the model (scripts/get_model.py) and a build of the command
line. Prints a line for each dtype and batch size: generated tokens a second of both, and their ratio. Both
serve all requests at once; rounds alternate and the best of each counts. The engine's time is that of its steps, that of
transformers of `generate()`: neither loads or tokenizes in it.

On a GPU (`--device cuda`) transformers has SDPA, and two more lines say of the engine: the time between tokens and the share
of it in which the GPU waits; and, of a run without graphs, the share of each kind of work.

On a machine that others use too, `--cpu-time --threads 1` compares CPU time instead, of decoding alone: what the answers
cost beyond their first token.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import tempfile
import time
from pathlib import Path

VOCABULARY = 49152


def prompts(batch: int, length: int) -> list[list[int]]:
    """Random tokens: what they are does not matter for speed, and none begins like another."""
    generator = random.Random(1)
    return [[generator.randrange(100, VOCABULARY) for _ in range(length)] for _ in range(batch)]


class Engine:
    """A run of the command line for each measurement."""

    def __init__(self, cli: str, model: Path, dtype: str, threads: int, device: str) -> None:
        self.command = [cli, "generate", "--model", str(model), "--dtype", dtype, "--threads", str(threads), "--json",
                        "--device", device, "--ignore-eos", "--kv-pages", "16384", "--input", "-"]  # fmt: skip
        self.reports: list[dict] = []

    @staticmethod
    def cpu_seconds() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def report(self, requests: list[list[int]], new_tokens: int, *more: str) -> dict:
        lines = "".join(json.dumps({"tokens": tokens, "max_new_tokens": new_tokens}) + "\n" for tokens in requests)
        with tempfile.NamedTemporaryFile() as stats:
            command = [*self.command, "--max-batch", str(len(requests)), "--stats", stats.name, *more]
            subprocess.run(command, input=lines, text=True, stdout=subprocess.DEVNULL, check=True)
            report = json.loads(Path(stats.name).read_text())
        assert report["generated_tokens"] == len(requests) * new_tokens
        return report

    def seconds(self, requests: list[list[int]], new_tokens: int) -> float:
        self.reports.append(self.report(requests, new_tokens))
        return self.reports[-1]["seconds"]

    def print_gpu(self, requests: list[list[int]], new_tokens: int) -> None:
        """What the best run so far, and one more without graphs, tell of the GPU."""
        best = min(self.reports, key=lambda report: report["seconds"])
        busy, idle = best["device_busy_s"], best["device_idle_s"]
        itl = best["itl_ms"]
        print(f"      {itl['p50']:.3f} ms between tokens (p99 {itl['p99']:.3f}), the GPU waits {idle / (busy + idle):.1%}")
        times = self.report(requests, new_tokens, "--profile")["time_s"]
        of_host = min(report["time_s"]["other"] for report in self.reports)  # the engine's own, on the host
        times["other"] -= of_host
        whole = sum(times.values())
        print("      " + ", ".join(f"{kind} {seconds / whole:.0%}" for kind, seconds in times.items()), flush=True)


class Transformers:
    """The model in this process, made from the same file."""

    def __init__(self, model: Path, dtype: str, threads: int, device: str) -> None:
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        self.torch = torch
        self.device = device
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            str(model.parent), gguf_file=model.name, dtype={"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
        ).to(device).eval()

    @staticmethod
    def cpu_seconds() -> float:
        return time.process_time()

    def seconds(self, requests: list[list[int]], new_tokens: int) -> float:
        tokens = self.torch.tensor(requests, device=self.device)
        start = time.perf_counter()
        with self.torch.inference_mode():
            out = self.model.generate(
                tokens,
                attention_mask=self.torch.ones_like(tokens),
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                pad_token_id=0,
            )
            out[0, -1].item()  # waits for a GPU
        seconds = time.perf_counter() - start
        assert out.shape[1] == tokens.shape[1] + new_tokens
        return seconds


class WallClock:
    """The best time of whole answers."""

    def __init__(self, requests: list[list[int]], new_tokens: int) -> None:
        self.requests, self.new_tokens, self.best = requests, new_tokens, float("inf")

    def measure(self, side: "Engine | Transformers") -> None:
        self.best = min(self.best, side.seconds(self.requests, self.new_tokens))

    def rate(self) -> float:
        return len(self.requests) * self.new_tokens / self.best


class DecodingCpuTime:
    """The least CPU time of whole answers, without the least of their first tokens."""

    def __init__(self, requests: list[list[int]], new_tokens: int) -> None:
        self.requests, self.best = requests, {1: float("inf"), new_tokens: float("inf")}

    def measure(self, side: "Engine | Transformers") -> None:
        for count, best in self.best.items():
            before = side.cpu_seconds()
            side.seconds(self.requests, count)
            self.best[count] = min(best, side.cpu_seconds() - before)

    def rate(self) -> float:
        (first, of_first), (last, of_all) = self.best.items()
        return len(self.requests) * (last - first) / (of_all - of_first)


def main() -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cli", default="build/release/bin/tilewright")
    parser.add_argument("--model", type=Path, default=cache / "tilewright/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtypes", nargs="+", default=["f32", "bf16"], choices=["f32", "bf16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu-time", action="store_true", help="CPU seconds of decoding alone")
    arguments = parser.parse_args()
    print(f"{'dtype':<6}{'batch':>6}{'engine tok/s':>14}{'transformers':>14}{'ratio':>8}")
    for dtype in arguments.dtypes:
        peer = Transformers(arguments.model, dtype, arguments.threads, arguments.device)
        for batch in arguments.batches:
            engine = Engine(arguments.cli, arguments.model, dtype, arguments.threads, arguments.device)
            requests = prompts(batch, arguments.prompt_tokens)
            clock = DecodingCpuTime if arguments.cpu_time else WallClock
            own, others = (clock(requests, arguments.new_tokens) for _ in range(2))
            peer.seconds(requests, 4)  # warm
            for _ in range(arguments.rounds):
                own.measure(engine)
                others.measure(peer)
            rates = own.rate(), others.rate()
            ratio = f"{rates[0] / rates[1]:.2f}"
            print(f"{dtype:<6}{batch:>6}{rates[0]:>14.1f}{rates[1]:>14.1f}{ratio:>8}", flush=True)
            if arguments.device != "cpu":
                engine.print_gpu(requests, arguments.new_tokens)


if __name__ == "__main__":
    main()
