# SPDX-License-Identifier: Apache-2.0
"""The pictures of masks in the documents are those of this version."""

import re
from pathlib import Path
from xml.etree import ElementTree

from script_loader import load_script
from tilewright import variants

ROOT = Path(__file__).resolve().parent.parent.parent
draw_masks = load_script("draw_masks")


def test_pictures_are_current():
    maps = draw_masks.maps()
    for name, seen in maps.items():
        svg = seen.svg()
        ElementTree.fromstring(svg)
        path = ROOT / "docs" / "images" / f"mask_{name}.svg"
        assert path.read_text() == svg, f"{path} is out of date: run scripts/draw_masks.py"
    assert {path.stem for path in (ROOT / "docs" / "images").glob("mask_*.svg")} == {f"mask_{name}" for name in maps}


def test_every_ready_made_variant_is_drawn_and_documented():
    helpers = {"alibi_slopes", "document_bounds", "span_ends", "tree_mask"}
    ready_made = set(variants.__all__) - helpers
    assert ready_made <= set(draw_masks.masks())
    text = (ROOT / "docs" / "variants.md").read_text()
    for name in ready_made:
        assert f"variants::{name}(" in text, name
    shown = set(re.findall(r"images/mask_(\w+)\.svg", text))
    assert shown == set(draw_masks.masks())


def test_the_planner_proves_what_the_pictures_promise():
    maps = draw_masks.maps()
    by_class = {"tree", "dense_mask", "packed_mask", "block_sparse"}
    for name, seen in maps.items():
        assert (seen.mask_class == "elementwise") == (name in by_class), name
        if name not in by_class:
            assert (seen.tiles == seen.exact).all(), name
