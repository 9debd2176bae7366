# SPDX-License-Identifier: Apache-2.0
"""Sampling tokens from logits, without sorting."""

from __future__ import annotations

from dataclasses import dataclass

from ._tilewright import SamplingStatus, sample, top_k
from ._typing import Array

__all__ = ["LogProbs", "SamplingOutputs", "SamplingStatus", "sample", "top_k"]


@dataclass
class LogProbs:
    """Natural logarithms of probabilities, arrays that sample() writes; None: not wanted.

    chosen: float32 [rows]: of the token that is drawn. ranks: int32 [rows]: of that token: 1 + how many tokens have a
    larger logit. best, best_ids: float32 and int32 [rows, n], 1 <= n <= 2048: the n most likely tokens, by falling
    logit and among equal ones by rising id; behind the last token -inf and id -1.
    """

    chosen: Array | None = None
    ranks: Array | None = None
    best: Array | None = None
    best_ids: Array | None = None


@dataclass
class SamplingOutputs:
    """What sample() writes beside its tokens; None: not wanted.

    kept: int32 [rows, ceil(vocabulary / 32)]: bits of the tokens that all filters keep and whose logit is not -inf.
    probabilities: float32 [rows, vocabulary]: of the draw; 0 for tokens that are dropped. masked_logits: float32 or
    logits' dtype [rows, vocabulary]: logits after processing, -inf for tokens that are dropped; not for probabilities.
    raw: log-softmax of the row as it is given. processed: of `probabilities`.

    A row without a draw keeps its token alone: one of temperature 0 or without a candidate.
    """

    kept: Array | None = None
    probabilities: Array | None = None
    masked_logits: Array | None = None
    raw: LogProbs | None = None
    processed: LogProbs | None = None
