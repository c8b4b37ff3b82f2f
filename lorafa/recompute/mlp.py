"""Gated feed-forward networks that keep neither gate nor up, but compute both again from the norm before them.

They go through a chunk of tokens at a time, forward and backward, so that of a long sequence no more is d_ff wide at
once than of a short one.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from lorafa.recompute import activation
from lorafa.recompute.activation import Gated, GatedActivation
from lorafa.recompute.again import Replay, computes_again, made_again, source
from lorafa.recompute.classes import extended

_CHUNK = 4096  # tokens whose gate, up and product exist at a time


class _RecomputedGated(Gated):
    """A gated feed-forward network that keeps neither gate nor up."""

    def network(self, x: Tensor, name: str | None) -> Tensor:
        """The network, (..., d)."""
        if name is None or not computes_again(self):
            return super().network(x, name)
        has_input = source(x)
        parts = [
            self.down(
                self._product(rows, partial(has_input, slice(number * _CHUNK, (number + 1) * _CHUNK)), name)
            )
            for number, rows in enumerate(x.flatten(0, -2).split(_CHUNK))
        ]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return y.view(*x.shape[:-1], y.shape[-1])

    def _product(self, rows: Tensor, has_rows: Callable[[], Tensor], name: str) -> Tensor:
        replay = Replay(lambda: self.gate_and_up(has_rows()), self, rows.device)
        gate, up = self.gate_and_up(rows)
        with made_again((gate, up), replay):
            return GatedActivation.apply(gate, up, name)


CLASSES = extended("Recomputed", _RecomputedGated, activation.GATED)
