"""Gated feed-forward networks that keep neither gate nor up, but compute both again from the norm before them.

They do it for a chunk of tokens at a time, so that a long sequence has no more of both at once than a short one.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lorafa.recompute import activation
from lorafa.recompute.activation import Gated, GatedActivation
from lorafa.recompute.again import Replay, computes_again, made_again, source
from lorafa.recompute.classes import extended

_CHUNK = 4096  # tokens whose gate and up exist at a time


class _RecomputedGated(Gated):
    """A gated feed-forward network that keeps neither gate nor up."""

    def product(self, x: Tensor, name: str) -> Tensor:
        """act(gate)·up, (..., d_ff)."""
        if not computes_again(self):
            return super().product(x, name)
        has_input = source(x)
        parts = [
            self._part(rows, partial(has_input, slice(number * _CHUNK, (number + 1) * _CHUNK)), name)
            for number, rows in enumerate(x.flatten(0, -2).split(_CHUNK))
        ]
        product = parts[0] if len(parts) == 1 else torch.cat(parts)
        return product.view(*x.shape[:-1], product.shape[-1])

    def _part(self, rows: Tensor, has_rows: Callable[[], Tensor], name: str) -> Tensor:
        replay = Replay(lambda: self.gate_and_up(has_rows()), self, rows.device)
        gate, up = self.gate_and_up(rows)
        with made_again((gate, up), replay):
            return GatedActivation.apply(gate, up, name)


CLASSES = extended("Recomputed", _RecomputedGated, activation.GATED)
