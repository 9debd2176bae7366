#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws the mask of every ready-made variant: docs/images/mask_NAME.svg. Needs the Python module (scripts/install_module).

usage: scripts/draw_masks.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from tilewright import MaskMap, Variant, variants

LENGTH = 48
TILE = 8
IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"


def masks() -> dict[str, tuple[Variant, dict[str, Any], dict[str, int]]]:
    """By picture: a variant, its mask's parameters, and what differs from LENGTH queries and keys."""
    positions = np.arange(LENGTH)
    documents = (positions >= 13).astype(np.int32) + (positions >= 22) + (positions >= 40)
    spans = np.where((positions >= 6) & (positions < 16), 1, np.where((positions >= 27) & (positions < 38), 2, 0))
    begin, end = variants.document_bounds(documents)
    rng = np.random.default_rng(0)
    dense = rng.random((LENGTH, LENGTH)) < 0.25
    dense[16:32, 8:24] = False
    blocks = rng.random((1, LENGTH // TILE, LENGTH // TILE)) < 0.4
    draft = variants.tree_mask([0, 16], parents=[-1, 0, 0, 0, 1, 1, 2, 3, 4, 4, 5, 6, 8, 8, 9, 12])
    last = {"q_len": 16}
    return {
        "full": (variants.full(), {}, {}),
        "causal": (variants.causal(), {}, {}),
        "causal_window": (variants.causal(window_left=11), {}, {}),
        "sliding_window": (variants.sliding_window(10, 5), {}, {}),
        "attention_sink": (variants.attention_sink(4, 11), {}, {}),
        "prefix_lm": (variants.prefix_lm(), {"prefix_len": np.array([19], np.int32)}, {}),
        "causal_by_request": (variants.causal_by_request(), {"causal": np.array([1], np.int32)}, {}),
        "chunked_local": (variants.chunked_local(16), {}, {}),
        "block_causal": (variants.block_causal(12), {}, {}),
        "document": (variants.document(), {"document_begin": begin}, {}),
        "document_full": (variants.document(causal=False), {"document_begin": begin, "document_end": end}, {}),
        "bidirectional_spans": (variants.bidirectional_spans(), {"span_end": variants.span_ends(spans)}, {}),
        "tree": (variants.tree(), {"tree_mask": draft}, last),
        "dense_mask": (variants.dense_mask(), {"mask": dense}, {}),
        "packed_mask": (
            variants.packed_mask(),
            {"packed_mask": np.packbits(dense, bitorder="little"), "packed_mask_indptr": np.array([0], np.int32)},
            {},
        ),
        "block_sparse": (variants.block_sparse(TILE, TILE), {"block_mask": blocks}, {}),
        "alibi": (variants.alibi(), {}, {}),
        "t5_relative_bias": (variants.t5_relative_bias(bidirectional=False), {}, {}),
        "additive_bias": (variants.additive_bias(), {}, {}),
        "sigmoid": (variants.sigmoid(), {}, {}),
    }


def maps() -> dict[str, MaskMap]:
    return {
        name: variant.explain(size.get("q_len", LENGTH), LENGTH, params, q_tile=TILE, kv_block=TILE)
        for name, (variant, params, size) in masks().items()
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    for name, seen in maps().items():
        (folder / f"mask_{name}.svg").write_text(seen.svg())


if __name__ == "__main__":
    main()
