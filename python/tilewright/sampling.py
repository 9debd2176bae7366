# SPDX-License-Identifier: Apache-2.0
"""Sampling tokens from logits, without sorting."""

from ._tilewright import SamplingStatus, sample

__all__ = ["SamplingStatus", "sample"]
