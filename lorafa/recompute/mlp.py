"""Gated feed-forward networks that keep neither gate nor up, but compute both again from the norm before them."""

from torch import Tensor

from lorafa.recompute import activation
from lorafa.recompute.activation import Gated, GatedActivation
from lorafa.recompute.again import Replay, computes_again, made_again, source
from lorafa.recompute.classes import extended


class _RecomputedGated(Gated):
    """A gated feed-forward network that keeps neither gate nor up."""

    def product(self, x: Tensor, name: str) -> Tensor:
        """act(gate)·up, (..., d_ff)."""
        if not computes_again(self):
            return super().product(x, name)
        has_input = source(x)
        replay = Replay(lambda: self.gate_and_up(has_input()), self, x.device)
        gate, up = self.gate_and_up(x)
        with made_again((gate, up), replay):
            return GatedActivation.apply(gate, up, name)


CLASSES = extended("Recomputed", _RecomputedGated, activation.GATED)
