"""Selective recomputation for frozen networks (paper §3.2), without checkpointing blocks."""

from lorafa.recompute.apply import apply_recompute, recomputing, remove_recompute

__all__ = ["apply_recompute", "recomputing", "remove_recompute"]
