# SPDX-License-Identifier: Apache-2.0
"""Ready-made attention variants."""

from ._tilewright import alibi, causal, full, sliding_window

__all__ = ["alibi", "causal", "full", "sliding_window"]
