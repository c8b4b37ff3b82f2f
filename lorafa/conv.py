"""LoRA-FA over convolutions: A is a convolution like the base layer's, B one with kernels of size 1."""

from typing import Any, cast

import torch
from peft.tuners.lora import LoraConfig
from peft.tuners.lora.layer import Conv1d as PeftConv1d
from peft.tuners.lora.layer import Conv2d as PeftConv2d
from peft.tuners.lora.layer import Conv3d as PeftConv3d
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad as gradients

from lorafa.autograd import Context, TensorFunction, remembered
from lorafa.functional import dtype_of_product, projection
from lorafa.gradients import project_gradient
from lorafa.layers import LoraFaLayer, is_frozen, is_plain
from lorafa.recompute.dropout import replayed_dropout

# By the number of a kernel's dimensions: the convolution, and its gradients by input and by kernel.
_CONV = {
    3: (F.conv1d, gradients.conv1d_input, gradients.conv1d_weight),
    4: (F.conv2d, gradients.conv2d_input, gradients.conv2d_weight),
    5: (F.conv3d, gradients.conv3d_input, gradients.conv3d_weight),
}


@remembered
class FrozenConv(TensorFunction):
    """Convolution with a frozen kernel, which keeps no input: its gradient needs only the kernel."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        dilation: tuple[int, ...],
        groups: int,
    ) -> Tensor:
        """Convolve; under autocast, copies of the kernel die here."""
        conv, _, _ = _CONV[weight.ndim]
        dtype = dtype_of_product(x)
        bias = None if bias is None else bias.to(dtype)
        return conv(x.to(dtype), weight.to(dtype), bias, stride, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep a reference to the kernel."""
        x, weight, _, *ctx.geometry = inputs
        ctx.save_for_backward(weight)
        ctx.shape, ctx.dtype = x.shape, x.dtype

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Convolve the gradient with the kernel turned round."""
        (weight,) = ctx.saved_tensors
        _, conv_input, _ = _CONV[weight.ndim]
        grad_x = conv_input(ctx.shape, weight.to(grad.dtype), grad, *ctx.geometry).to(ctx.dtype)
        return grad_x, None, None, None, None, None, None


@remembered
class AddUp(TensorFunction):
    """base + s·(XA)B, B a convolution with kernels of size 1."""

    generate_vmap_rule = True

    @staticmethod
    def forward(base: Tensor, xa: Tensor, B: Tensor, scaling: float, groups: int) -> Tensor:
        """Add the adapter's output."""
        conv, _, _ = _CONV[B.ndim]
        return base.add(conv(xa, B.to(xa.dtype), groups=groups), alpha=scaling)

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep XA."""
        _, xa, B, ctx.scaling, ctx.groups = inputs
        ctx.save_for_backward(xa if ctx.needs_input_grad[2] else None, B)
        ctx.shape, ctx.dtype = xa.shape, xa.dtype

    @staticmethod
    def backward(ctx: Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Give B its gradient from XA."""
        xa, B = ctx.saved_tensors
        _, conv_input, conv_weight = _CONV[B.ndim]
        grad_xa = grad_B = None
        if ctx.needs_input_grad[1]:
            grad_xa = conv_input(ctx.shape, B.to(ctx.dtype), grad, groups=ctx.groups) * ctx.scaling
        if ctx.needs_input_grad[2]:
            grad_B = (conv_weight(xa, B.shape, grad, groups=ctx.groups) * ctx.scaling).to(B.dtype)
        return grad, grad_xa, grad_B, None, None


def frozen_conv(x: Tensor, module: Any) -> Tensor:
    """Apply a frozen convolution without keeping its input.

    Args:
        x: (batch, channels, ...).
        module: `torch.nn.Conv1d`, `Conv2d` or `Conv3d`. Padding by "reflect" or "replicate" keeps its input, as
            torch's gradient of it does.
    """
    padding = module.padding
    if isinstance(padding, str) or module.padding_mode != "zeros":  # as the module itself pads
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode)
        padding = (0,) * (x.ndim - 2)
    geometry = module.stride, padding, module.dilation, module.groups
    return FrozenConv.apply(x, module.weight, module.bias, *geometry)


class LoraFaConv(LoraFaLayer):
    """What makes one of PEFT's LoRA convolutions a LoRA-FA one."""

    _kernel_dim: int

    def update_layer(
        self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **kwargs: Any
    ) -> None:
        """Add an adapter; A takes the base layer's dilation, which PEFT leaves out."""
        super().update_layer(adapter_name, r, lora_alpha, config=config, **kwargs)
        lora_A: Any = self.lora_A[adapter_name]
        lora_A.dilation = self.get_base_layer().dilation

    def _adapted_forward(self, x: Tensor, names: list[str]) -> Tensor:
        batch = x if x.ndim == self._kernel_dim else x.unsqueeze(0)
        base: Any = self.base_layer
        y = frozen_conv(batch, base) if is_plain(base) and is_frozen(base) else base(batch)
        for name in names:
            y = self._add(y, batch, name)
        return y if x.ndim == self._kernel_dim else y.squeeze(0)

    def _add(self, y: Tensor, x: Tensor, name: str) -> Tensor:
        if not self._is_lean(name):
            self._refuse_projected([name])
            return y + self._lora(name, x).to(y.dtype)
        lora_A: Any = self.lora_A[name]
        xa = frozen_conv(replayed_dropout(x, self.lora_dropout[name]), lora_A).to(y.dtype)
        B = cast(Tensor, self.lora_B[name].weight)
        groups = cast(int, self.get_base_layer().groups)
        if name in self._projections:
            each = [projection(A, self.scaling[name]) for A in lora_A.weight.flatten(1).chunk(groups)]
            rows = B.reshape(groups, B.shape[0] // groups, B.shape[1])
            B = project_gradient(rows, torch.stack(each)).reshape(B.shape)
        return AddUp.apply(y, xa, B, self.scaling[name], groups)


class LoraFaConv1d(LoraFaConv, PeftConv1d):
    """A `torch.nn.Conv1d` with LoRA-FA adapters."""


class LoraFaConv2d(LoraFaConv, PeftConv2d):
    """A `torch.nn.Conv2d` with LoRA-FA adapters."""


class LoraFaConv3d(LoraFaConv, PeftConv3d):
    """A `torch.nn.Conv3d` with LoRA-FA adapters."""
