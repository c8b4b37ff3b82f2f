"""LoRA-FA in one file: an adapter that keeps XA for the backward pass where LoRA keeps X.

A frozen layer Y = XW + b becomes Y = XW + b + s·XAB, with s = alpha / r (LoRA-FA, arXiv 2308.03303, eq. 2). A is random
and frozen, B starts at zero and is trained, so the change of the weight, s·AB, stays in the column space of A (eq. 3).
The paper writes A as (in, r) and B as (r, out); here they are stored as `torch.nn.Linear` does, A (r, in), B (out, r).

Run `python examples/lora_fa_minimal.py` to train a tiny network both ways and see what each keeps. The library `lorafa`
adds dropout, mixed precision, quantised weights and checkpoints that PEFT reads.
"""

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F


class LoRAFA(Function):
    """Y = XW + b + s·XAB (eq. 2), which saves XA; what else it refers to are parameters, which exist anyway."""

    @staticmethod
    def forward(
        ctx, x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, s: float
    ) -> Tensor:
        """Compute Y, (..., out), of X, (..., in), and save XA, (..., r)."""
        xa = F.linear(x, A)
        ctx.save_for_backward(xa, weight, A, B)
        ctx.s = s
        return F.linear(x, weight, bias) + s * F.linear(xa, B)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        """With G = ∂L/∂Y: ∂L/∂B = s·(XA)ᵀG (§3.3), which needs no X, and ∂L/∂X = GWᵀ + s·GBᵀAᵀ (of eq. 2)."""
        xa, weight, A, B = ctx.saved_tensors
        grad_x = grad @ weight + ctx.s * (grad @ B) @ A if ctx.needs_input_grad[0] else None
        grad_B = ctx.s * grad.reshape(-1, grad.shape[-1]).T @ xa.reshape(-1, xa.shape[-1])
        return grad_x, None, None, None, grad_B, None


class LoRAFALinear(nn.Module):
    """A frozen `nn.Linear` with an adapter of rank r of which only B is trained (eq. 2)."""

    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.A = nn.Parameter(base.weight.new_empty(r, base.in_features), requires_grad=False)
        self.B = nn.Parameter(base.weight.new_zeros(base.out_features, r))
        self.s = alpha / r
        nn.init.kaiming_uniform_(self.A, a=5**0.5)  # as LoRA's and the paper's; A stays what it is here

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return LoRAFA.apply(x, self.base.weight, self.base.bias, self.A, self.B, self.s)


class LoRALinear(LoRAFALinear):
    """LoRA, to compare with: A is trained too, and ∂L/∂A = s·XᵀGBᵀ needs X (eq. 1)."""

    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__(base, r, alpha)
        self.A.requires_grad_()

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out), by autograd."""
        return self.base(x) + self.s * F.linear(F.linear(x, self.A), self.B)


def adapt(
    model: nn.Module, suffixes: list[str], r: int, alpha: float, layer: type[LoRAFALinear] = LoRAFALinear
) -> nn.Module:
    """Freeze a model and give the linear layers of some names an adapter, in place.

    Args:
        model: Any model.
        suffixes: Ends of the layers' names, in whole parts: "up" is blocks.0.up, and not blocks.0.setup.
        r: Rank.
        alpha: The adapter is scaled by alpha / r.
        layer: The kind of adapter.

    Raises:
        ValueError: If no `nn.Linear` has such a name.
    """
    model.requires_grad_(False)
    ends = tuple(f".{suffix}" for suffix in suffixes)
    linear = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = [(name, module) for name, module in linear if f".{name}".endswith(ends)]
    if not found:
        raise ValueError(f"no nn.Linear of the model has a name that ends in one of {', '.join(suffixes)}")
    for name, module in found:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer(module, r, alpha))
    return model


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """Count the bytes that a forward pass keeps for backward: each storage once, parameters not at all."""
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor.detach()

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    return sum(storage.nbytes() for address, storage in kept.items() if address not in parameters)


class Block(nn.Module):
    """The feed-forward half of a transformer's block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (rows, width) to the same shape."""
        return x + self.down(F.gelu(self.up(self.norm(x))))


def main(rows: int = 256, width: int = 64, r: int = 4, steps: int = 100) -> None:
    """Train two blocks with LoRA and with LoRA-FA to add a made-up function of one direction to their output."""
    print(f"{'':8}{'trained':>8}{'saved by a layer':>18}{'by the network':>16}   loss")
    for name, layer in (("LoRA", LoRALinear), ("LoRA-FA", LoRAFALinear)):
        torch.manual_seed(0)
        model, x = nn.Sequential(Block(width), Block(width)), torch.randn(rows, width)
        y = model(x).detach() + torch.tanh(x @ torch.randn(width, 1)) * torch.randn(width)
        adapt(model, ["up", "down"], r, 2 * r, layer)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer, losses = torch.optim.AdamW(trained, lr=1e-2), []
        for _ in range(steps):
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        count, layer_bytes = sum(p.numel() for p in trained), saved_bytes(model[0].up, x)
        row = f"{name:8}{count:8,}{layer_bytes:12,} bytes{saved_bytes(model, x):10,} bytes"
        print(f"{row}   {losses[0]:.3f} -> {losses[-1]:.3f}")


if __name__ == "__main__":
    main()
