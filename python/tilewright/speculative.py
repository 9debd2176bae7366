# SPDX-License-Identifier: Apache-2.0
"""Speculative verification: which draft tokens a target model accepts, and the token behind them."""

from ._tilewright import tree_links, verify_chain, verify_tree, verify_workspace_size

__all__ = ["tree_links", "verify_chain", "verify_tree", "verify_workspace_size"]
