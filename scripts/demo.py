#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demo: runs `tilewright generate` on a file of prompts, shows the answers as they grow, and measures.

Three runs over the same prompts, greedy in float32: with prefix sharing, without it, and at another batch size and thread
count. All three must give the same tokens; what they cost closes the demo as a table. Standard library only.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


@dataclasses.dataclass
class Settings:
    """What one run of the command line differs in."""

    title: str
    share: bool
    max_batch: int
    threads: int


@dataclasses.dataclass
class Run:
    """What one run gave: the finished requests by id, and the statistics of the whole."""

    settings: Settings
    answers: dict
    stats: dict


def one_line(text: str) -> str:
    """Model text for a terminal: one line, without control characters."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


class Screen:
    """A line for each request, redrawn in place on a terminal; elsewhere a line when a request is finished."""

    def __init__(self, questions: dict, stream=sys.stderr):
        self.questions = questions
        self.stream = stream
        size = shutil.get_terminal_size((100, 24))
        self.live = stream.isatty() and os.environ.get("TERM") != "dumb" and len(questions) < size.lines
        self.color = self.live and "NO_COLOR" not in os.environ
        self.width = size.columns
        self.generated = dict.fromkeys(questions, 0)
        self.text = dict.fromkeys(questions, "")
        self.state = dict.fromkeys(questions, "waiting")
        self.lines_drawn = 0

    def style(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self.color else text

    def event(self, event: dict) -> None:
        request = str(event["id"])
        if request not in self.questions:
            return
        kind = event["event"]
        self.generated[request] = event["generated"]
        self.text[request] += event.get("text", "")
        self.state[request] = {"admitted": "reading", "token": "writing", "finished": "done"}[kind]
        if self.live:
            self.draw()
        elif kind == "finished":
            print(f"  {request}: {self.generated[request]} tokens", file=self.stream, flush=True)

    def draw(self) -> None:
        name_width = max(map(len, self.questions))
        lines = []
        for request in self.questions:
            state = self.state[request]
            head = f"  {request:<{name_width}}  {state:<7} {self.generated[request]:>4} tokens  "
            room = max(0, self.width - len(head) - 1)
            tail = one_line(self.text[request])[-room:] if room else ""
            code = {"waiting": "2", "reading": "33", "writing": "36", "done": "32"}[state]
            lines.append(self.style(code, head[: self.width - 1]) + self.style("2", tail))
        up = f"\033[{self.lines_drawn}A" if self.lines_drawn else ""
        self.stream.write(up + "".join(f"\r\033[K{line}\n" for line in lines))
        self.stream.flush()
        self.lines_drawn = len(lines)


def read_questions(path: Path) -> dict:
    """The last user message of each request, by id."""
    questions = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            questions[str(request["id"])] = request["messages"][-1]["content"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise DemoError(f"{path}, line {number}: not a chat request: {error!r}") from error
    return questions


def follow_events(pipe, screen: Screen, messages: list) -> None:
    """Reads the child's stderr: progress events go to the screen, everything else is kept as messages."""
    for line in pipe:
        try:
            event = json.loads(line)
            screen.event(event)
        except (ValueError, KeyError, TypeError):
            messages.append(line.rstrip("\n"))


def parse_answers(stdout: str, messages: list) -> dict:
    answers = {}
    for line in stdout.splitlines():
        answer = json.loads(line)
        if "error" in answer:
            messages.append(f"request {answer.get('id')}: {answer['error']}")
        else:
            answers[str(answer["id"])] = answer
    return answers


def generate(arguments, settings: Settings, questions: dict) -> Run:
    """One run of `tilewright generate`; raises unless every request was answered."""
    print(f"\n{settings.title}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="tilewright-demo-") as folder:
        stats_file = Path(folder) / "stats.json"
        command = [
            arguments.cli, "generate", "--json", "--progress",
            "--model", arguments.model,
            "--input", arguments.input,
            "--max-new-tokens", arguments.max_new_tokens,
            "--temperature", 0,
            "--dtype", "f32",
            "--share", "on" if settings.share else "off",
            "--max-batch", settings.max_batch,
            "--threads", settings.threads,
            "--stats", stats_file,
        ]  # fmt: skip
        messages = []
        screen = Screen(questions)
        with subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
        ) as child:
            reader = threading.Thread(target=follow_events, args=(child.stderr, screen, messages))
            reader.start()
            try:
                stdout = child.stdout.read()
                child.wait()
            except BaseException:
                child.terminate()
                raise
            finally:
                reader.join()
        answers = parse_answers(stdout, messages)
        missing = [request for request in questions if request not in answers]
        if child.returncode != 0 or missing:
            detail = "".join(f"\n  {message}" for message in messages)
            raise DemoError(
                f"tilewright generate ended with status {child.returncode}; not answered: {missing or 'none'}{detail}"
            )
        return Run(settings, answers, json.loads(stats_file.read_text(encoding="utf-8")))


def print_answers(run: Run, questions: dict) -> None:
    print()
    for request, question in questions.items():
        answer = run.answers[request]
        print(f"[{request}] {question}")
        print(f"    {one_line(answer['text'])}{' ...' if answer['finish_reason'] == 'length' else ''}\n")


def same_tokens(left: Run, right: Run) -> bool:
    return all(left.answers[request]["tokens"] == right.answers[request]["tokens"] for request in left.answers)


def table(rows: list) -> str:
    """Rows of cells as aligned text; the first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for index, row in enumerate(rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]
        lines.append("  " + "   ".join(cells).rstrip())
        if index == 0:
            lines.append("  " + "   ".join("-" * width for width in widths))
    return "\n".join(lines)


def measurements(stats: dict) -> list:
    """The cells of one column, in the order of LABELS."""
    time = stats["time_s"]
    percent = {key: f"{time[key]:.2f} s ({100 * time[key] / max(stats['seconds'], 1e-9):.0f} %)" for key in time}
    return [
        f"{stats['seconds']:.2f} s",
        f"{stats['kv_pages_peak']}",
        f"{stats['kv_bytes_read'] / 2**20:,.0f} MiB",
        f"{stats['shared_tokens']} of {stats['prompt_tokens']}",
        f"{stats['generated_tokens']} at {stats['tokens_per_s']:.0f}/s",
        f"{stats['ttft_ms']['p50']:.0f} / {stats['ttft_ms']['p99']:.0f} ms",
        f"{stats['itl_ms']['p50']:.1f} / {stats['itl_ms']['p99']:.1f} ms",
        *(percent[key] for key in ("attention", "matmul", "sampling", "plan", "other")),
    ]


LABELS = [
    "time", "KV pages at most", "KV bytes read", "prompt tokens shared", "tokens generated",
    "time to first token p50 / p99", "inter-token latency p50 / p99",
    "in attention", "in matrix products", "in sampling", "in planning", "in everything else",
]  # fmt: skip


def print_summary(shared: Run, unshared: Run, other: Run) -> bool:
    """Prints the closing table; true when all runs gave the same tokens."""
    runs = (shared, unshared, other)
    header = ["", "prefix sharing on", "prefix sharing off", f"batch {other.settings.max_batch}, threads {other.settings.threads}"]
    columns = [measurements(run.stats) for run in runs]
    print(table([header, *([label, *cells] for label, *cells in zip(LABELS, *columns))]))
    print(f"\n  {shared.stats['requests']} requests, {shared.stats['dtype']}, page size {shared.stats['page_size']}, "
          f"batch {shared.stats['max_batch']}, {shared.stats['threads']} threads (first two columns)")  # fmt: skip
    sharing, batching = same_tokens(shared, unshared), same_tokens(shared, other)
    print(f"  same tokens with sharing on and off: {'yes' if sharing else 'NO'}")
    print(f"  same tokens at batch {other.settings.max_batch} with {other.settings.threads} threads: {'yes' if batching else 'NO'}")
    return sharing and batching


def default_threads() -> int:
    return len(os.sched_getaffinity(0))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--cli", default=str(ROOT / "build/release/bin/tilewright"))
    parser.add_argument("--input", type=Path, default=ROOT / "examples/prompts.jsonl")
    parser.add_argument("--max-new-tokens", type=int, default=48)
    return parser.parse_args()


def demo(arguments: argparse.Namespace) -> bool:
    questions = read_questions(arguments.input)
    threads = default_threads()
    batch = len(questions)
    shared = generate(arguments, Settings(f"{batch} requests at once, prefix sharing on", True, batch, threads), questions)
    print_answers(shared, questions)
    unshared = generate(arguments, Settings("The same without prefix sharing", False, batch, threads), questions)
    small, other_threads = max(1, batch // 2 - 1), 1 if threads > 1 else 2
    title = f"The same {small} at a time, threads: {other_threads}"
    other = generate(arguments, Settings(title, True, small, other_threads), questions)
    print()
    return print_summary(shared, unshared, other)


def main() -> int:
    sys.stdout.reconfigure(errors="replace")
    sys.stderr.reconfigure(errors="replace")
    try:
        if demo(parse_arguments()):
            return 0
        print("error: the runs did not give the same tokens", file=sys.stderr)
    except DemoError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyError as error:
        print(f"error: the command line's output lacks {error}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main())
