# SPDX-License-Identifier: Apache-2.0
"""bench/ladder.py: its rows, and the program on the CPU, which computes and checks rows there too."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ladder import Table, run_program
from ladder_rows import SETS, Row, decode_row, extra, growth, ladder, ladder_of, prefill_row

BENCH = Path(__file__).resolve().parents[2] / "bench"
PROGRAM = BENCH.parent / "build/release/bin/ladder"
SMALL = {"qo_heads": 4, "kv_heads": 2, "head_dim": 16}

needs_program = pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM} is not built")


@pytest.mark.parametrize("name", SETS)
def test_rows_are_the_same_each_time_and_have_names_of_their_own(name):
    rows = SETS[name]()
    assert rows == SETS[name]()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert len(row.q_lens) == len(row.kv_lens)
        assert all(0 < q_len <= kv_len - row.prefix for q_len, kv_len in zip(row.q_lens, row.kv_lens))


def test_other_heads_have_the_same_lengths():
    for row, other in zip(ladder(), ladder_of(64), strict=True):
        assert other == dataclasses.replace(row, name=f"{row.name}_d64", head_dim=64)


def test_growth_is_in_powers_of_two():
    rows = growth()
    one = [row.kv_lens[0] for row in rows if row.kind == "decode" and len(row.kv_lens) == 1]
    many = [len(row.kv_lens) for row in rows if row.kind == "decode" and set(row.kv_lens) == {1024}]
    prefill = [row.q_lens for row in rows if row.kind == "prefill"]
    assert one == [1024 << i for i in range(8)]
    assert many == [1 << i for i in range(11)]
    assert prefill == [[1024 << i] for i in range(8)]


def test_extra_rows_time_decode_under_both_limits():
    names = {row.name for row in extra() if row.prefill_limit}
    assert names == {row.name for row in ladder() if row.kind == "decode"}


def test_zeros_are_the_rows_that_power_may_bound():
    names = {row.name for row in ladder() if row.kind in ("prefill", "mixed")}
    assert {row.name.removesuffix("_zeros") for row in SETS["zeros"]() if row.zeros} == names


def test_lines_have_only_options_that_are_set():
    row = decode_row("name", [33], **SMALL)
    assert row.line() == "name decode 4 2 16 16 1 1 1 33"
    row = dataclasses.replace(row, window=5, sinks=True, kv_dtype="f8e4m3", prefill_limit=7, zeros=True)
    assert row.line() == "name decode 4 2 16 16 1 1 1 33 window=5 sinks=1 kv_dtype=f8e4m3 prefill_limit=7 zeros=1"


def test_bytes_are_those_that_a_run_reads():
    assert decode_row("", [100, 50], **SMALL).kv_bytes() == 150 * 2 * 2 * 16 * 2
    assert decode_row("", [100, 50], kv_dtype="f8e4m3", **SMALL).kv_bytes() == 150 * 2 * 2 * 16
    assert decode_row("", [100, 50], window=60, **SMALL).kv_bytes() == 110 * 2 * 2 * 16 * 2
    assert prefill_row("", [40], kv_lens=[100], window=10, **SMALL).kv_bytes() == 49 * 2 * 2 * 16 * 2
    assert Row("", "levels", [1, 1], [40, 50], prefix=32, **SMALL).kv_bytes() == 58 * 2 * 2 * 16 * 2


ROWS = [
    decode_row("decode", [40, 100], **SMALL),
    prefill_row("prefill", [40, 100], **SMALL),
    prefill_row("full", [40, 100], causal=False, **SMALL),
    decode_row("fp8", [40, 100], kv_dtype="f8e4m3", **SMALL),
    decode_row("sinks", [40, 100], sinks=True, **SMALL),
    prefill_row("window", [40, 100], window=20, **SMALL),
    decode_row("mixed", [40, 100], prefill_limit=64, **SMALL),
    prefill_row("all", [40, 100], window=20, sinks=True, kv_dtype="f8e4m3", **SMALL),
    Row("levels", "levels", [1, 1], [40, 50], prefix=16, **SMALL),
]


@needs_program
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_program_is_right_about_every_option(row):
    result = run_program(PROGRAM, "cpu", row)
    assert result["ok"], result
    assert 0 < result["err"] < 1e-2
    begin, end = result["timed_s"]
    assert 0 < begin <= end
    assert ("mixed_us" in result, "mixed_update_us" in result) == (row.prefill_limit > 0,) * 2
    assert ("flat_us" in result) == (row.prefix > 0)


@needs_program
def test_zeros_give_zeros():
    result = run_program(PROGRAM, "cpu", prefill_row("zeros", [40, 100], zeros=True, **SMALL))
    assert result["ok"], result
    assert result["err"] == 0


@needs_program
def test_a_row_that_cannot_run_says_why():
    result = run_program(PROGRAM, "cpu", decode_row("odd", [40], qo_heads=3, kv_heads=2))
    assert "num_kv_heads" in result["error"]
    result = run_program(PROGRAM, "cpu", decode_row("bad", [40], window=4, causal=False))
    assert "status 2" in result["error"]


@needs_program
def test_several_sets_in_one_command(tmp_path):
    file = tmp_path / "rows.json"
    command = [sys.executable, BENCH / "ladder.py", "--device", "cpu", "--rows", "decode_1x1024", "--json", file]
    command += ["--set", "ladder", "extra", "head_dim_64"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(file.read_text())
    assert [result["set"] for result in results] == ["ladder", "extra", "head_dim_64"]
    assert [(result["requests"], result["kv_len"]) for result in results] == [(1, 1024)] * 3
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["decode_1x1024", "decode_1x1024", "decode_1x1024_d64"]
    assert "mixed limits: " in lines[2]


def test_an_unknown_set_is_refused():
    command = [sys.executable, BENCH / "ladder.py", "--set", "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "'none'" in done.stderr


def test_the_table_names_the_best_peer_and_throttling(capsys):
    result = {"name": "row", "us": 10.0, "tflops": 1.0, "gbs": 2, "update_us": 3, "run_host_us": 4, "update_host_us": 5,
              "ok": True, "clocks": {"sm_mhz": 1410, "watts": 699, "power_throttled": 0.5, "heat_throttled": 0.0},
              "peers": [{"peer": "slow", "us": 30.0}, {"peer": "fast", "us": 12.0}]}  # fmt: skip
    table = Table(peers=True, python=False)
    table.add(result)
    header, line = capsys.readouterr().out.splitlines()
    assert "MHz" in header
    figures = "10.0 1.0 2.0 3.0 4.0 5.0 1410.0 699.0 12.0 1.20"
    assert " ".join(line.split()) == f"row {figures} fast power held the clock down 50% of the time"
