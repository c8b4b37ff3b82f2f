"""Activations that save what they are computed from, and recompute the rest.

GELU before a frozen linear layer, as in RoBERTa, is left alone: it saves its input and nothing else, which
nobody can recompute without the product that made it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.activations import GELUActivation, NewGELUActivation, SiLUActivation
from transformers.models.llama.modeling_llama import LlamaMLP
from transformers.models.t5.modeling_t5 import T5DenseGatedActDense

_aten = torch.ops.aten
_Activation = tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]

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
    nn.ReLU: "relu",
}


def activation_name(module: nn.Module) -> str | None:
    """Name of a module's activation in `ACTIVATIONS`, None if it is not there."""
    name = _NAMES.get(type(module))
    if name is None and isinstance(module, LeanReLU | LeanNewGELU):
        name = _NAMES[type(module).__mro__[1]]
    return name


class GatedActivation(Function):
    """act(gate)·up; saves gate and up, which the linear layers before it made, and not act(gate)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, name: str) -> Tensor:
        """Save the two inputs."""
        ctx.save_for_backward(gate, up)
        ctx.activation = name
        return ACTIVATIONS[name][0](gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Recompute act(gate)."""
        gate, up = ctx.saved_tensors
        act, derivative = ACTIVATIONS[ctx.activation]
        return derivative(grad * up, gate), act(gate).mul_(grad), None


class Relu(Function):
    """ReLU that saves where its input is not positive, one byte an element, and not its output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Save the sign."""
        y = F.relu(x)
        ctx.save_for_backward(y <= 0)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Pass the gradient where the input was positive."""
        (closed,) = ctx.saved_tensors
        return grad.masked_fill(closed, 0)  # a product would make NaN of an infinite gradient


class LeanLlamaMLP(LlamaMLP):
    """LLaMA's SwiGLU without the saved silu(gate)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the feed-forward network to (..., d)."""
        name = activation_name(self.act_fn)
        if name is None:
            return super().forward(x)
        return self.down_proj(GatedActivation.apply(self.gate_proj(x), self.up_proj(x), name))


class LeanT5DenseGatedActDense(T5DenseGatedActDense):
    """T5 v1.1's gated GELU without the saved gelu(gate) and its composite steps."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Apply the feed-forward network to (..., d)."""
        name = activation_name(self.act)
        if name is None:
            return super().forward(hidden_states)
        product = GatedActivation.apply(self.wi_0(hidden_states), self.wi_1(hidden_states), name)
        product = self.dropout(product)
        if self.wo.weight.is_floating_point():  # T5 keeps wo in fp32 in half-precision models
            product = product.to(self.wo.weight.dtype)
        return self.wo(product)


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
