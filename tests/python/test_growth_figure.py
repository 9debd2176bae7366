# SPDX-License-Identifier: Apache-2.0
"""bench/growth_figure.py, on figures that are made up."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import growth_figure
import pytest
from ladder_rows import growth

BENCH = Path(__file__).resolve().parents[2] / "bench"
SVG = "{http://www.w3.org/2000/svg}"


def figures(peers=()):
    """Every row takes a microsecond a token, the n-th peer n + 2 times as long."""
    rows = []
    for row in growth():
        us = float(sum(row.kv_lens))
        rows.append({"set": "growth", "kind": row.kind, "requests": len(row.q_lens), "kv_len": max(row.kv_lens), "us": us,
                     "ok": True, "peers": [{"peer": peer, "us": us * (i + 2)} for i, peer in enumerate(peers)]})  # fmt: skip
    return rows


def panel(title):
    return next(panel for panel in growth_figure.PANELS if panel.title.startswith(title))


def titles(svg):
    return [title.text for title in ElementTree.fromstring(svg).iter(f"{SVG}title")]


def test_every_row_is_a_point():
    seen = titles(growth_figure.figure(figures()))
    assert len(seen) == 8 + 11 + 8
    assert "Tilewright: 128k KV tokens, 131072.0 µs" in seen
    assert "Tilewright: 512 requests, 524288.0 µs" in seen
    assert "Tilewright: 1k tokens, 1024.0 µs" in seen


def test_a_library_has_one_line_of_its_best_backends():
    rows = figures(["flashinfer fa2", "flashinfer auto", "fa3", "fa3 unsplit", "other"])
    rows[0]["peers"][1]["us"] = 1.0
    lines = growth_figure.lines_of(panel("Decode, one request"), rows)
    assert list(lines) == ["Tilewright", "FlashInfer (best backend)", "FlashAttention-3"]
    assert lines["FlashInfer (best backend)"][:2] == [(1024, 1.0), (2048, 4096.0)]
    assert lines["FlashAttention-3"][0] == (1024, 4096.0)
    assert len(titles(growth_figure.figure(rows))) == 3 * 27


def test_proportional_times_are_a_straight_line():
    root = ElementTree.fromstring(growth_figure.figure(figures()))
    centres = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in root.iter(f"{SVG}circle")]
    for points in (centres[:8], centres[8:19], centres[19:]):
        steps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(points)]
        assert all(step == pytest.approx(steps[0], abs=0.15) for step in steps)
        assert steps[0][0] > 0 > steps[0][1]


def test_rows_that_are_wrong_or_of_other_sets_are_left_out():
    rows = figures()
    rows[0]["ok"] = False
    rows[1] = {"set": "growth", "error": "no memory"}
    rows[2]["set"] = "ladder"
    assert len(titles(growth_figure.figure(rows))) == 27 - 3 - 1  # the first is in two panels
    with pytest.raises(ValueError, match="no rows"):
        growth_figure.figure(rows[:3])


def test_a_single_point_is_drawn():
    assert len(titles(growth_figure.figure(figures()[1:2]))) == 1


def test_files_add_up(tmp_path):
    rows = figures()
    first, second, out = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "out.svg"
    first.write_text(json.dumps(rows))
    second.write_text(json.dumps([{**rows[1], "us": 7.0, "gpu": "Fake <GPU>"}]))
    command = [sys.executable, BENCH / "growth_figure.py", first, second, "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    svg = out.read_text()
    assert "Tilewright: 2k KV tokens, 7.0 µs" in titles(svg)
    assert "Fake &lt;GPU&gt;" in svg
    second.write_text("[]")
    done = subprocess.run([*command[:2], second, "--out", out], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "no rows" in done.stderr
