#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Stands in for build/release/bin/tilewright in the tests of scripts/demo.py; FAKE_CLI says what goes wrong."""

import argparse
import json
import os
import sys

parser = argparse.ArgumentParser()
parser.add_argument("command")
for flag in ("--model", "--input", "--temperature", "--dtype", "--share", "--stats"):
    parser.add_argument(flag)
for flag in ("--max-new-tokens", "--max-batch", "--threads"):
    parser.add_argument(flag, type=int)
parser.add_argument("--json", action="store_true")
parser.add_argument("--progress", action="store_true")
options = parser.parse_args()
fault = os.environ.get("FAKE_CLI", "")


def event(kind, request, generated, **more):
    print(json.dumps({"event": kind, "id": request, "generated": generated, **more}), file=sys.stderr, flush=True)


with open(options.input, encoding="utf-8") as file:
    requests = [json.loads(line) for line in file]
for index, request in enumerate(requests):
    event("admitted", request["id"], 0)
    if fault == "error" and index == 1:
        print(json.dumps({"id": request["id"], "error": "prompt is longer than the context", "line": 2}))
        continue
    tokens = [10 + index, 20, 30]
    if fault == "other tokens" and options.share == "off":
        tokens[2] = 31
    for generated in range(1, 4):
        event("token", request["id"], generated, text=f"w{generated} ")
    event("finished", request["id"], 3)
    print(json.dumps({"id": request["id"], "tokens": tokens, "text": "w1 \033w2\nw3", "finish_reason": "length"}))
print("a message that is no event", file=sys.stderr)

stats = {
    "seconds": 2.0, "requests": len(requests), "prompt_tokens": 100, "shared_tokens": 90 if options.share == "on" else 0,
    "generated_tokens": 6, "tokens_per_s": 3.0, "ttft_ms": {"p50": 1.0, "p99": 2.0}, "itl_ms": {"p50": 3.0, "p99": 4.0},
    "kv_pages_peak": 7, "kv_bytes_read": 3 << 20, "steps": 3, "preemptions": 0,
    "time_s": {"attention": 0.5, "matmul": 1.0, "sampling": 0.1, "plan": 0.1, "other": 0.3},
    "threads": options.threads, "dtype": "f32", "max_batch": options.max_batch, "page_size": 16,
}  # fmt: skip
if fault == "no statistics":
    del stats["kv_pages_peak"]
with open(options.stats, "w", encoding="utf-8") as file:
    json.dump(stats, file)
sys.exit(1 if fault == "error" else 0)
