"""Selective recomputation for frozen networks (paper §3.2): a ladder of what is kept for backward."""

from lorafa.recompute.apply import apply_recompute, available, recomputing, remove_recompute

__all__ = ["apply_recompute", "available", "recomputing", "remove_recompute"]
