# SPDX-License-Identifier: Apache-2.0
"""Ready-made attention variants, and the tables that some of them read.

Masks of two variants combine: `tw.Variant(mask=variants.document().mask & variants.causal(4095).mask)`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._tilewright import (
    _alibi_slopes,
    _document_bounds,
    _span_ends,
    _tree_from_links,
    _tree_from_matrices,
    _tree_from_parents,
    additive_bias,
    alibi,
    attention_sink,
    bidirectional_spans,
    block_causal,
    block_sparse,
    causal,
    causal_by_request,
    chunked_local,
    dense_mask,
    document,
    full,
    packed_mask,
    prefix_lm,
    sliding_window,
    t5_relative_bias,
    tree,
)
from ._tilewright import sigmoid_attention as sigmoid
from ._typing import Array

__all__ = [
    "additive_bias",
    "alibi",
    "alibi_slopes",
    "attention_sink",
    "bidirectional_spans",
    "block_causal",
    "block_sparse",
    "causal",
    "causal_by_request",
    "chunked_local",
    "dense_mask",
    "document",
    "document_bounds",
    "full",
    "packed_mask",
    "prefix_lm",
    "sigmoid",
    "sliding_window",
    "span_ends",
    "t5_relative_bias",
    "tree",
    "tree_mask",
]


def _integers(array: Any) -> np.ndarray:
    return np.asarray(array, dtype=np.int32)


def alibi_slopes(num_heads: int) -> np.ndarray:
    """The slopes of ALiBi's paper, float32 [num_heads]."""
    return _alibi_slopes(num_heads)


def document_bounds(document: Array | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each position of one request, where its document begins and ends (one past its last position).

    `document` names the document of each position: neighbours with equal numbers belong together. "document_begin" and
    "document_end" of a batch are the entries of its query tokens, request after request.
    """
    return _document_bounds(_integers(document))


def span_ends(span: Array | Sequence[int]) -> np.ndarray:
    """For each position of one request, one past the last position of its span, 0 for text.

    `span` numbers the spans of the positions, 0 for text. "span_end" of a batch has the entries of its query tokens.
    """
    return _span_ends(_integers(span))


def tree_mask(
    qo_indptr: Array | Sequence[int],
    *,
    parents: Array | Sequence[int] | None = None,
    next_token: Array | Sequence[int] | None = None,
    next_sibling: Array | Sequence[int] | None = None,
    matrices: Sequence[Array] | None = None,
) -> np.ndarray:
    """The parameter "tree_mask" of `tree`, int32 [nodes, words]: bit j % 32 of word j / 32 of row i says that i sees j.

    One of: parents [nodes], -1 for roots; next_token and next_sibling [nodes], first children and next siblings or -1, as
    EAGLE's kernels give them; matrices, for each request [its nodes, its nodes]. Node numbers count within a request.
    """
    indptr = _integers(qo_indptr)
    links = next_token is not None or next_sibling is not None
    if (parents is not None) + links + (matrices is not None) != 1 or (next_token is None) != (next_sibling is None):
        raise ValueError("tree_mask needs one of parents, next_token with next_sibling, or matrices")
    if parents is not None:
        return _tree_from_parents(indptr, _integers(parents).reshape(-1))
    if matrices is None:
        return _tree_from_links(indptr, _integers(next_token).reshape(-1), _integers(next_sibling).reshape(-1))
    flat = [_integers(np.asarray(matrix) != 0).reshape(-1) for matrix in matrices]
    return _tree_from_matrices(indptr, np.concatenate([_integers([]), *flat]))
