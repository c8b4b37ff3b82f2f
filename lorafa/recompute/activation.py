"""Activations that save what they are computed from, and recompute the rest.

GELU before a frozen linear layer, as in RoBERTa, is left alone: it saves its input and nothing else, which
nobody can recompute without the product that made it.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.activations import GELUActivation, GELUTanh, NewGELUActivation, SiLUActivation
from transformers.models.gemma.modeling_gemma import GemmaMLP
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.mistral.modeling_mistral import MistralMLP
from transformers.models.phi3.modeling_phi3 import Phi3MLP
from transformers.models.qwen2.modeling_qwen2 import Qwen2MLP
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense

from lorafa.autograd import Context, TensorFunction
from lorafa.recompute.classes import derived

_aten = torch.ops.aten
_Map = Callable[[Tensor], Tensor]
_Activation = tuple[_Map, Callable[[Tensor, Tensor], Tensor]]

# Each with its derivative: (gradient of the output, input) to the gradient of the input.
ACTIVATIONS: dict[str, _Activation] = {
    "silu": (F.silu, _aten.silu_backward),
    "gelu": (F.gelu, _aten.gelu_backward),
    "gelu_tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda grad, x: _aten.gelu_backward(grad, x, approximate="tanh"),
    ),
    "relu": (F.relu, lambda grad, x: _aten.threshold_backward(grad, x, 0)),
}

_NAMES: dict[type[nn.Module], str] = {
    nn.SiLU: "silu",
    SiLUActivation: "silu",
    GELUActivation: "gelu",
    NewGELUActivation: "gelu_tanh",
    GELUTanh: "gelu_tanh",
    nn.ReLU: "relu",
}


def activation_name(module: nn.Module) -> str | None:
    """Name of a module's activation in `ACTIVATIONS`, None if it is not there."""
    name = _NAMES.get(type(module))
    if name is None and isinstance(module, LeanReLU | LeanNewGELU):
        name = _NAMES[type(module).__mro__[1]]
    return name


def gated_gradients(grad: Tensor, gate: Tensor, up: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up, from that of act(gate)·up; act(gate) is computed again."""
    act, derivative = ACTIVATIONS[name]
    return derivative(grad * up, gate), act(gate).mul_(grad)


class GatedActivation(TensorFunction):
    """act(gate)·up; saves gate and up, which the linear layers before it made, and not act(gate)."""

    @staticmethod
    def forward(ctx: Context, gate: Tensor, up: Tensor, name: str) -> Tensor:
        """Save the two inputs."""
        ctx.save_for_backward(gate, up)
        ctx.activation = name
        return ACTIVATIONS[name][0](gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Recompute act(gate)."""
        gate, up = ctx.saved_tensors
        return *gated_gradients(grad, gate, up, ctx.activation), None


class Relu(TensorFunction):
    """ReLU that saves where its input is not positive, one byte an element, and not its output."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        """Save the sign."""
        y = F.relu(x)
        ctx.save_for_backward(y <= 0)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Context, grad: Tensor) -> Tensor:
        """Pass the gradient where the input was positive."""
        (closed,) = ctx.saved_tensors
        return grad.masked_fill(closed, 0)  # a product would make NaN of an infinite gradient


class Gated(nn.Module):
    """LLaMA's SwiGLU, and its relatives with another activation, without the saved act(gate)."""

    act_fn: nn.Module
    gate_proj: _Map
    up_proj: _Map
    down_proj: _Map

    def forward(self, x: Tensor) -> Tensor:
        """Apply the feed-forward network to (..., d)."""
        return self.network(x, activation_name(self.act_fn))

    def network(self, x: Tensor, name: str | None) -> Tensor:
        """The network with an activation of `ACTIVATIONS`, or as the library has it where the activation is none."""
        return cast(Tensor, super().forward(x)) if name is None else self.down(self.product(x, name))

    def product(self, x: Tensor, name: str) -> Tensor:
        """act(gate)·up, (..., d_ff), by an activation of `ACTIVATIONS`."""
        return GatedActivation.apply(*self.gate_and_up(x), name)

    def gate_and_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two products of the input, (..., d_ff) each."""
        return self.gate_proj(x), self.up_proj(x)

    def down(self, product: Tensor) -> Tensor:
        """What the network makes of act(gate)·up, (..., d)."""
        return self.down_proj(product)


class GatedPhi3(Gated):
    """Phi-3's SwiGLU, whose gate and up are one product, without the saved act(gate)."""

    activation_fn: nn.Module
    gate_up_proj: _Map

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Apply the feed-forward network to (..., d)."""
        return self.network(hidden_states, activation_name(self.activation_fn))

    def gate_and_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two halves of one product, (..., d_ff) each."""
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return gate, up


class GatedT5(Gated):
    """T5 v1.1's gated GELU without the saved gelu(gate) and its composite steps."""

    act: nn.Module
    wi_0: _Map
    wi_1: _Map
    dropout: _Map
    wo: nn.Linear

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Apply the feed-forward network to (..., d)."""
        return self.network(hidden_states, activation_name(self.act))

    def gate_and_up(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The two products of the input, (..., d_ff) each."""
        return self.wi_0(x), self.wi_1(x)

    def down(self, product: Tensor) -> Tensor:
        """What the network makes of act(gate)·up, (..., d)."""
        product = self.dropout(product)
        if self.wo.weight.is_floating_point():  # T5 keeps wo in fp32 in half-precision models
            product = product.to(self.wo.weight.dtype)
        return cast(Tensor, self.wo(product))


class LeanReLU(nn.ReLU):
    """`torch.nn.ReLU` that saves a byte an element."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply ReLU to a tensor of any shape."""
        return super().forward(x) if self.inplace else Relu.apply(x)


class LeanNewGELU(NewGELUActivation):
    """The tanh approximation of GELU in one kernel, where the composite one saves each of its steps."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply GELU to a tensor of any shape."""
        return F.gelu(x, approximate="tanh")


# Gated feed-forward networks, and those that other kinds of recomputation build on.
GATED = derived("Lean", Gated, LlamaMLP, Qwen2MLP, Qwen3MLP, MistralMLP, GemmaMLP)
GATED |= derived("Lean", GatedPhi3, Phi3MLP) | derived("Lean", GatedT5, T5DenseGatedActDense)
CLASSES = {**GATED, NewGELUActivation: LeanNewGELU, nn.ReLU: LeanReLU}
