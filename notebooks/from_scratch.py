# %% [markdown]
# # LoRA-FA from scratch
#
# The method in fifty lines of torch, compared with the library `lorafa`: the same outputs, the same gradients, and the
# same bytes saved for the backward pass.

# %%
import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from lorafa import lora_fa_linear
from lorafa.memory.meter import SavedTensorMeter

_ = torch.manual_seed(0)

# %% [markdown]
# ## The fifty lines
#
# A linear layer computes $Y = XW + sXAB$. $W$ and $A$ are frozen, so backward needs $XA$ for the gradient of $B$, and
# only parameters for the gradient of $X$. Dropout would add a mask of the size of $X$; it is drawn again from its seed.
# Shapes are those of `torch.nn.Linear`: $W$ is (out, in), $A$ is (r, in) and $B$ is (out, r).


# %%
class LoraFaFunction(Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, A: Tensor, B: Tensor, scaling: float, p: float) -> Tensor:
        seed = torch.randint(2**63 - 1, ())
        xa = (x * keep(x, p, seed)) @ A.T
        ctx.save_for_backward(xa, weight, A, B, seed)  # weight, A and B are references, not copies
        ctx.scaling, ctx.p = scaling, p
        return x @ weight.T + scaling * xa @ B.T

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        xa, weight, A, B, seed = ctx.saved_tensors
        grad_xa = ctx.scaling * grad @ B
        grad_x = grad @ weight + (grad_xa @ A) * keep(grad, ctx.p, seed, A.shape[1])
        grad_B = ctx.scaling * grad.flatten(0, -2).T @ xa.flatten(0, -2)
        return grad_x, None, None, grad_B, None, None


def keep(like: Tensor, p: float, seed: Tensor, width: int | None = None) -> Tensor | float:
    """The dropout mask that belongs to a seed, divided by the probability of keeping an element."""
    if p == 0:
        return 1.0
    shape = (*like.shape[:-1], width or like.shape[-1])
    generator = torch.Generator().manual_seed(int(seed))
    return (torch.rand(shape, generator=generator) >= p) / (1 - p)


class LoraFaLinear(nn.Module):
    """A linear layer with a frozen weight and an adapter of which only B is trained."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.weight = base.weight.requires_grad_(False)
        self.A = nn.Parameter(torch.empty(rank, base.in_features), requires_grad=False)
        self.B = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.scaling, self.dropout = alpha / rank, dropout

    def forward(self, x: Tensor) -> Tensor:
        p = self.dropout if self.training else 0.0
        return LoraFaFunction.apply(x, self.weight, self.A, self.B, self.scaling, p)


# %% [markdown]
# ## The same numbers as the library
#
# In float64, with a $B$ that is not zero, so that every term counts.

# %%
batch, length, width, rank = 4, 128, 512, 8
ours = LoraFaLinear(nn.Linear(width, width, bias=False), rank, alpha=4 * rank).double()
nn.init.normal_(ours.B)
x = torch.randn(batch, length, width, dtype=torch.float64)
target = torch.randn(batch, length, width, dtype=torch.float64)


def outcome(layer) -> dict[str, Tensor]:
    leaf = x.clone().requires_grad_()
    ours.B.grad = None
    y = layer(leaf)
    F.mse_loss(y, target).backward()
    return {"output": y.detach(), "gradient of B": ours.B.grad, "gradient of X": leaf.grad}


mine = outcome(ours)
library = outcome(lambda x: lora_fa_linear(x, ours.weight, None, ours.A, ours.B, ours.scaling))
autograd = outcome(lambda x: F.linear(x, ours.weight + ours.scaling * ours.B @ ours.A))
for other in (library, autograd):
    torch.testing.assert_close(mine, other)
pd.DataFrame(
    {
        "from the library": {key: (mine[key] - library[key]).abs().max().item() for key in mine},
        "from autograd": {key: (mine[key] - autograd[key]).abs().max().item() for key in mine},
    }
).rename_axis("largest difference")

# %% [markdown]
# With dropout the two draw other masks, so the gradient is compared with finite differences instead, for one seed.

# %%
small = LoraFaLinear(nn.Linear(6, 5, bias=False), rank=2, alpha=2, dropout=0.5).double()
nn.init.normal_(small.B)


def replayed(x: Tensor, B: Tensor) -> Tensor:
    torch.manual_seed(1)
    return LoraFaFunction.apply(x, small.weight, small.A, B, small.scaling, small.dropout)


assert torch.autograd.gradcheck(
    replayed, (torch.randn(3, 6, dtype=torch.float64, requires_grad=True), small.B)
)
print("the gradient through dropout agrees with finite differences")

# %% [markdown]
# ## What is saved for backward
#
# `SavedTensorMeter` counts the bytes of the tensors that a forward pass keeps, without the parameters. The plain
# versions are what autograd makes of the formula: with a trained $A$ it keeps $X$, with a frozen one only $XA$, but
# with dropout it keeps a mask again.


# %%
class Plain(LoraFaLinear):
    """The formula, left to autograd."""

    def forward(self, x: Tensor) -> Tensor:
        adapter = F.dropout(x, self.dropout) @ self.A.T @ self.B.T
        return F.linear(x, self.weight) + self.scaling * adapter


class Library(LoraFaLinear):
    """The library's function."""

    def forward(self, x: Tensor) -> Tensor:
        return lora_fa_linear(x, self.weight, None, self.A, self.B, self.scaling, self.dropout)


def saved(kind: type[LoraFaLinear], dropout: float, train_A: bool = False) -> float:
    layer = kind(nn.Linear(width, width, bias=False), rank, 4 * rank, dropout)
    layer.A.requires_grad_(train_A)
    x = torch.randn(batch, length, width, requires_grad=True)  # as from an earlier layer
    with SavedTensorMeter(layer) as meter:
        layer(x)
    return meter.total / 2**10


rows = {
    "LoRA: A is trained": (Plain, True),
    "A is frozen, autograd": (Plain, False),
    "from scratch": (LoraFaLinear, False),
    "lorafa": (Library, False),
}
memory = pd.DataFrame(
    {
        f"dropout {p}": {name: saved(kind, p, train) for name, (kind, train) in rows.items()}
        for p in (0.0, 0.1)
    }
).rename_axis("KiB saved for backward")
floor = batch * length * rank * 4 / 2**10
assert (memory.loc[["from scratch", "lorafa"]] - floor).abs().to_numpy().max() < 1
print(f"XA alone is {floor:g} KiB, X {batch * length * width * 4 / 2**10:g} KiB")
memory.round(1)

# %%
axes = memory.plot.barh(figsize=(7, 3), logx=True, xlabel="KiB saved for backward, one layer")
axes.invert_yaxis()

# %% [markdown]
# ## It learns
#
# A layer is to become another one that differs from it by a change of rank four. The columns of the random $A$ do not
# span that change, so a larger rank gets closer; full fine-tuning would get to zero.

# %%
width = 64
base = nn.Linear(width, width, bias=False)
change = torch.randn(width, 4) @ torch.randn(4, width) / width
x = torch.randn(512, width)
target = x @ (base.weight.detach() + change).T
losses = {}
for rank in (4, 16, 64):
    layer = LoraFaLinear(nn.Linear(width, width, bias=False), rank, alpha=rank)
    layer.weight.data.copy_(base.weight.detach())
    optimizer = torch.optim.Adam([layer.B], lr=0.05)
    losses[f"rank {rank}"] = []
    for _ in range(300):
        loss = F.mse_loss(layer(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[f"rank {rank}"].append(loss.item())
axes = pd.DataFrame(losses).plot(logy=True, figsize=(6, 4), xlabel="step", ylabel="loss")
