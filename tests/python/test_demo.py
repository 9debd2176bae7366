# SPDX-License-Identifier: Apache-2.0
"""scripts/demo.py against a stand-in for the command line, and the prompts that come with the project."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from script_loader import SCRIPTS, load_script

FAKE_CLI = Path(__file__).with_name("fake_cli.py")
PROMPTS = SCRIPTS.parent / "examples/prompts.jsonl"


@pytest.fixture
def run_demo(tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(
        "".join(
            json.dumps({"id": name, "messages": [{"role": "user", "content": f"Question {name}?"}]}) + "\n"
            for name in ("one", "two")
        )
    )

    def run(fault="", input_file=prompts):
        command = [sys.executable, SCRIPTS / "demo.py", "--model", "m.gguf", "--cli", FAKE_CLI, "--input", input_file]
        return subprocess.run(
            command, env={**os.environ, "FAKE_CLI": fault}, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_answers_and_table(run_demo):
    result = run_demo()
    assert result.returncode == 0, result.stderr
    assert "[one] Question one?\n    w1 w2 w3 ...\n" in result.stdout
    assert "prefix sharing on" in result.stdout and "90 of 100" in result.stdout and "0 of 100" in result.stdout
    assert "same tokens with sharing on and off: yes" in result.stdout
    assert "1.00 s (50 %)" in result.stdout
    assert "one: 3 tokens" in result.stderr


def test_other_tokens_are_a_failure(run_demo):
    result = run_demo("other tokens")
    assert result.returncode == 1
    assert "same tokens with sharing on and off: NO" in result.stdout


def test_unanswered_request_is_a_failure(run_demo):
    result = run_demo("error")
    assert result.returncode == 1
    assert "not answered: ['two']" in result.stderr
    assert "prompt is longer than the context" in result.stderr
    assert "a message that is no event" in result.stderr


def test_lacking_statistics_are_named(run_demo):
    result = run_demo("no statistics")
    assert result.returncode == 1
    assert "kv_pages_peak" in result.stderr


def test_malformed_prompts_name_the_line(run_demo, tmp_path):
    prompts = tmp_path / "bad.jsonl"
    prompts.write_text('{"id": "a", "messages": [{"role": "user", "content": "x"}]}\n{"id": \n')
    result = run_demo(input_file=prompts)
    assert result.returncode == 1
    assert "bad.jsonl, line 2" in result.stderr


def test_live_lines_are_redrawn_in_place(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    screen = load_script("demo").Screen({"a": "?", "b": "?"}, stream)
    screen.event({"event": "admitted", "id": "a", "generated": 0})
    screen.event({"event": "token", "id": "a", "generated": 1, "text": "hi\x1b[2J there"})
    frames = stream.getvalue().split("\033[2A")
    assert len(frames) == 2
    line = frames[1].split("\n")[0].removeprefix("\r\033[K")
    assert line.split() == ["a", "writing", "1", "tokens", "hi[2J", "there"]
    assert len(line) < 60


def test_examples_share_one_long_system_prompt():
    requests = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert len(requests) >= 8
    assert len({request["id"] for request in requests}) == len(requests)
    systems = {request["messages"][0]["content"] for request in requests}
    assert len(systems) == 1
    assert len(systems.pop().split()) > 500
    assert len({request["messages"][1]["content"] for request in requests}) == len(requests)
