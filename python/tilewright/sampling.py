# SPDX-License-Identifier: Apache-2.0
"""Sampling tokens from logits, without sorting."""

from ._tilewright import sample

__all__ = ["sample"]
