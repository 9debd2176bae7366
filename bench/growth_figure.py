# SPDX-License-Identifier: Apache-2.0
"""Draws how time grows, from figures of `ladder.py --set growth --json FILE`: ours beside the best peer of each library.

usage: python bench/growth_figure.py FILE... [--out docs/img/growth.svg]

Needs nothing but Python. Both axes are logarithmic: work that takes time in proportion is a line of slope 1.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

OUT = Path(__file__).resolve().parent.parent / "docs/img/growth.svg"

WIDTH, HEIGHT = 300, 240  # of a panel's axes
LEFT, TOP, GAP, BOTTOM = 60, 76, 70, 60

OURS = "Tilewright"
# By the first word of a peer's name in ladder.py's figures. Blue, orange and green of Okabe and Ito, which the
# colour-blind can tell apart.
LIBRARIES = {"flashinfer": "FlashInfer (best backend)", "fa3": "FlashAttention-3"}
COLOURS = {OURS: "#0072b2", LIBRARIES["flashinfer"]: "#d55e00", LIBRARIES["fa3"]: "#009e73"}


class Panel(NamedTuple):
    title: str
    x_label: str
    has: Callable[[dict], bool]
    x_of: Callable[[dict], int]


PANELS = (
    Panel("Decode, one request", "KV tokens", lambda row: row["kind"] == "decode" and row["requests"] == 1,
          lambda row: row["kv_len"]),
    Panel("Decode, requests of 1024 tokens", "requests", lambda row: row["kind"] == "decode" and row["kv_len"] == 1024,
          lambda row: row["requests"]),
    Panel("Causal prefill, one request", "tokens", lambda row: row["kind"] == "prefill" and row["requests"] == 1,
          lambda row: row["kv_len"]),
)  # fmt: skip

Points = list[tuple[int, float]]  # x and microseconds, by x


def lines_of(panel: Panel, rows: list[dict]) -> dict[str, Points]:
    """By name of the line; lines without points are not there."""
    lines: dict[str, dict[int, float]] = {name: {} for name in COLOURS}
    for row in filter(panel.has, rows):
        x = panel.x_of(row)
        lines[OURS][x] = row["us"]
        for peer in row.get("peers", []):
            line = lines.get(LIBRARIES.get(peer["peer"].split()[0], ""))
            if line is not None:
                line[x] = min(peer["us"], line.get(x, math.inf))
    return {name: sorted(points.items()) for name, points in lines.items() if points}


def tokens_text(number: int) -> str:
    return f"{number // 1024}k" if number >= 1024 else str(number)


def time_text(us: float) -> str:
    return f"{us / 1000:g} ms" if us >= 1000 else f"{us:g} µs"


class Scale:
    """Logarithms of a range, onto `length` pixels from `start`."""

    def __init__(self, least: float, most: float, start: float, length: float) -> None:
        self._least = math.log(least)
        self._step = length / (math.log(most) - self._least)
        self._start = start

    def __call__(self, value: float) -> float:
        return self._start + (math.log(value) - self._least) * self._step


class Picture:
    def __init__(self, panels: int) -> None:
        width, height = LEFT + panels * (WIDTH + GAP) - GAP + 20, TOP + HEIGHT + BOTTOM
        size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11">',
            '<rect width="100%" height="100%" fill="#fff"/>',
        ]

    def text(self, x: float, y: float, text: str, anchor: str = "start", **style: object) -> None:
        attributes = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in style.items())
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{attributes}>{escape(text)}</text>')

    def path(self, data: str, stroke: str, width: float) -> None:
        self._parts.append(f'<path d="{data}" fill="none" stroke="{stroke}" stroke-width="{width}"/>')

    def dot(self, x: float, y: float, colour: str, title: str) -> None:
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"><title>{escape(title)}</title>'
                           "</circle>")  # fmt: skip

    def draw(self) -> str:
        return "\n".join([*self._parts, "</svg>\n"])


def draw_panel(picture: Picture, panel: Panel, lines: dict[str, Points], left: float) -> None:
    xs = sorted({x for points in lines.values() for x, _ in points})
    times = [us for points in lines.values() for _, us in points]
    bottom = TOP + HEIGHT
    decades = range(math.floor(math.log10(min(times))), math.ceil(math.log10(max(times) * 1.0001)) + 1)
    x_of = Scale(min(xs) / 1.15, max(xs) * 1.15, left, WIDTH)
    y_of = Scale(10 ** decades[0], 10 ** decades[-1], bottom, -HEIGHT)
    picture.text(left, TOP - 12, panel.title, font_size=13)
    for decade in decades:
        y = y_of(10**decade)
        picture.path(f"M{left:.1f} {y:.1f}h{WIDTH}", "#ddd", 1)
        picture.text(left - 6, y + 4, time_text(10**decade), "end")
    for x in xs:
        at = x_of(x)
        picture.path(f"M{at:.1f} {TOP}V{bottom}", "#f0f0f0", 1)
        picture.text(at, bottom + 15, tokens_text(x), "middle")
    picture.path(f"M{left:.1f} {TOP}V{bottom}h{WIDTH}", "#444", 1)
    picture.text(left + WIDTH / 2, bottom + 34, panel.x_label, "middle", fill="#444")
    # Ours last: on top.
    for name in sorted(lines, key=lambda name: name == OURS):
        places = [(x_of(x), y_of(us)) for x, us in lines[name]]
        picture.path("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places), COLOURS[name], 1.8)
        for (x, us), place in zip(lines[name], places):
            picture.dot(*place, COLOURS[name], f"{name}: {tokens_text(x)} {panel.x_label}, {us:.1f} µs")


def figure(rows: list[dict]) -> str:
    """ValueError where there is nothing to draw."""
    rows = [row for row in rows if row.get("set") == "growth" and row.get("ok")]
    drawn = [(panel, lines) for panel in PANELS if (lines := lines_of(panel, rows))]
    if not drawn:
        raise ValueError("no rows of ladder.py --set growth that are right")
    picture = Picture(len(drawn))
    gpus = sorted({row["gpu"] for row in rows if "gpu" in row})
    picture.text(LEFT, 22, "Attention: how time grows" + (f" ({', '.join(gpus)})" if gpus else ""), font_size=15)
    x = LEFT
    for name, colour in COLOURS.items():
        if any(name in lines for _, lines in drawn):
            picture.path(f"M{x} 40h18", colour, 1.8)
            picture.text(x + 24, 44, name)
            x += 44 + 7 * len(name)
    for i, (panel, lines) in enumerate(drawn):
        draw_panel(picture, panel, lines, LEFT + i * (WIDTH + GAP))
    return picture.draw()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="of ladder.py --json; later ones win")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    rows = [row for file in arguments.files for row in json.loads(file.read_text())]
    try:
        svg = figure(rows)
    except ValueError as error:
        print(f"growth_figure.py: {error}", file=sys.stderr)
        return 1
    arguments.out.write_text(svg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
