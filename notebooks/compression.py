# %% [markdown]
# # LoRA-FA as gradient compression
#
# Section 3.3 of the paper says that a step of LoRA-FA changes $W$ by a compressed gradient: $-\eta AA^T dW$, where $dW$
# is what full fine-tuning would have used. This notebook checks the statement, and shows what the compression keeps.
# The pictures have the paper's orientation: $W$ is $d \times k$ and $A$ is $d \times r$, the transpose of torch's.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from lorafa import LoraFaConfig, get_lora_fa_model

torch.manual_seed(0)
digits = load_digits()
X = torch.tensor(digits.data / 16, dtype=torch.float32)
y = torch.tensor(digits.target)

# %% [markdown]
# ## A real gradient
#
# A small network learns eight of the ten digits. What follows is about one of its layers, whose weight is 128 × 128,
# and about the gradient that it gets when all ten digits are asked for.

# %%
d = 128


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU(), nn.Linear(d, 10))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, rows: Tensor, steps: int) -> float:
    for _ in range(steps):
        loss = F.cross_entropy(model(X[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


pretrained = network()
train(pretrained, torch.optim.Adam(pretrained.parameters(), lr=1e-3), y < 8, steps=200)
state = {name: value.clone() for name, value in pretrained.state_dict().items()}


def fresh() -> nn.Sequential:
    model = network()
    model.load_state_dict(state)
    return model


model = fresh()
F.cross_entropy(model(X), y).backward()
dW = model[2].weight.grad.T.double()

# %% [markdown]
# ## One step of SGD is the compressed gradient
#
# The layer gets an adapter of the library, and SGD makes one step. The change of the whole weight, $sAB$, is compared
# with $-\eta s^2 AA^T dW$; the paper leaves the scaling $s$ out.


# %%
def adapted(rank: int, **options) -> tuple[nn.Module, nn.Module]:
    """The network with an adapter on its second layer alone, and that layer; the scaling is 1."""
    model = get_lora_fa_model(
        fresh(), LoraFaConfig(r=rank, lora_alpha=rank, target_modules=["2"], lora_dropout=0.0, **options)
    )
    return model, model.base_model.model[2]


def change(layer: nn.Module) -> Tensor:
    return layer.get_delta_weight("default").detach().T.double()


def sgd_step(rank: int, lr: float = 1.0, **options) -> tuple[Tensor, Tensor]:
    """The change of W by one step of SGD on B, and the A that it was made with."""
    model, layer = adapted(rank, **options)
    train(model, torch.optim.SGD(model.parameters(), lr=lr), torch.arange(len(X)), steps=1)
    return change(layer), layer.lora_A["default"].weight.detach().T.double()


stepped, A = sgd_step(rank=16)
torch.testing.assert_close(stepped, -A @ A.T @ dW, rtol=1e-4, atol=1e-7)
print(f"largest difference: {(stepped + A @ A.T @ dW).abs().max():.1e}, of {stepped.abs().max():.1e}")

# %% [markdown]
# ## What the compression keeps
#
# The gradient, and what remains of it after $A^T$ (compression to $r$ rows) and $A$ (decompression), each scaled to fit
# best. At $r = d$ a random $A$ is still not the identity; an orthonormal one is.


# %%
def fitted(change: Tensor) -> Tensor:
    """The multiple of a change that is closest to the gradient."""
    return change * (change * dW).sum() / (change * change).sum()


def error(change: Tensor) -> float:
    return ((fitted(change) - dW).norm() / dW.norm()).item()


ranks = [1, 4, 16, 64, 128]
figure, grid = plt.subplots(2, len(ranks) + 1, figsize=(14, 5), layout="constrained")
limit = dW.abs().quantile(0.99)
for row, init in zip(grid, ("normal", "orthogonal"), strict=True):
    pictures = {"gradient": dW} | {
        f"{init}, r = {r}": fitted(-sgd_step(r, lr=1e-3, init_A=init)[0]) for r in ranks
    }
    for axes, (title, picture) in zip(row, pictures.items(), strict=True):
        axes.imshow(picture, cmap="RdBu", vmin=-limit, vmax=limit)
        axes.set_title(title, fontsize="small")
        axes.axis("off")

# %% [markdown]
# ## In expectation it keeps everything
#
# With independent normal elements, $E[AA^T] = rI$: the compression is unbiased up to a factor, and the mean over many
# draws comes closer to $I$ as one over the square root of their number. PEFT's initialisation, uniform with variance
# $1/(3d)$, differs by a factor alone: $E[AA^T] = \frac{r}{3d} I$.

# %%
r, draws = 8, 1024
generator = torch.Generator().manual_seed(1)
mean, distance = torch.zeros(d, d), {}
for count in range(1, draws + 1):
    A = torch.randn(d, r, generator=generator)
    mean += (A @ A.T / r - mean) / count
    if count & (count - 1) == 0:
        distance[count] = ((mean - torch.eye(d)).norm() / d**0.5).item()
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.imshow(A @ A.T / r, cmap="RdBu", vmin=-1, vmax=1)
left.set_title("$AA^T/r$, one draw")
right.loglog(list(distance), list(distance.values()), "o", label="measured")
right.loglog(list(distance), [((d + 1) / (r * n)) ** 0.5 for n in distance], label=r"$\sqrt{(d+1)/(rn)}$")
right.set(xlabel="draws n", ylabel=r"$\|\mathrm{mean} - I\|_F / \sqrt{d}$")
right.legend()
kaiming = nn.init.kaiming_uniform_(torch.empty(4096, d), a=5**0.5).T
print(
    f"PEFT's A: E[AAᵀ]/r has the diagonal {(kaiming @ kaiming.T / 4096).diag().mean():.5f}, 1/(3d) is {1 / (3 * d):.5f}"
)

# %% [markdown]
# One draw is far from its mean. A training run has one draw, for all of its steps.
#
# ## The error by rank
#
# How much of the gradient is lost, relative to its norm. An orthonormal $A$ projects onto a random subspace, which
# loses $\sqrt{1 - r/d}$ on average. `gradient="projected"` makes the same of any $A$. The best change of rank $r$ is
# the truncated singular value decomposition: it needs the gradient that LoRA-FA never computes.

# %%
values = torch.linalg.svdvals(dW)
ranks = [1, 2, 4, 8, 16, 32, 64, 128]
table = pd.DataFrame(
    {
        "A normal": [error(sgd_step(r, lr=1e-3, init_A="normal")[0]) for r in ranks],
        "A uniform (PEFT's)": [error(sgd_step(r)[0]) for r in ranks],
        "A uniform, projected": [error(sgd_step(r, gradient="projected")[0]) for r in ranks],
        "A orthonormal": [error(sgd_step(r, init_A="orthogonal")[0]) for r in ranks],
        "√(1 − r/d)": [(1 - r / d) ** 0.5 for r in ranks],
        "best of rank r": [(values[r:].norm() / values.norm()).item() for r in ranks],
    },
    pd.Index(ranks, name="rank"),
)
table.plot(marker="o", logx=True, figsize=(7, 5), ylabel="relative error of one step")
table.round(3)

# %% [markdown]
# ## The whole change has low rank
#
# However many steps there are, $\Delta W = sAB$ lies in the column space of $A$ (eq. 3), so its rank is at most $r$.
# That holds for Adam as for SGD, though a step of Adam is no longer a compressed step of full fine-tuning.

# %%
r, steps = 8, 300
everything = torch.arange(len(X))
changes = {}
for name, optimizer in (("SGD", torch.optim.SGD), ("Adam", torch.optim.Adam)):
    lr = {"SGD": 0.5, "Adam": 5e-3}[name]
    model, layer = adapted(r)
    loss = train(
        model, optimizer([p for p in model.parameters() if p.requires_grad], lr=lr), everything, steps
    )
    changes[f"LoRA-FA, {name}, loss {loss:.3f}"] = change(layer)
    basis = torch.linalg.qr(layer.lora_A["default"].weight.detach().T.double()).Q
    outside = change(layer) - basis @ basis.T @ change(layer)
    print(
        f"{name}: {outside.norm() / change(layer).norm():.1e} of the change is outside of the column space of A"
    )
    model = fresh().requires_grad_(False)
    model[2].weight.requires_grad_(True)
    loss = train(model, optimizer([model[2].weight], lr={"SGD": 0.5, "Adam": 1e-3}[name]), everything, steps)
    changes[f"Full-FT, {name}, loss {loss:.3f}"] = (model[2].weight.detach() - state["2.weight"]).T.double()
figure, axes = plt.subplots(figsize=(7, 5))
for name, delta in changes.items():
    spectrum = torch.linalg.svdvals(delta)
    axes.semilogy(np.arange(1, d + 1), spectrum / spectrum[0], label=name)
axes.axvline(r, color="grey", linestyle=":")
axes.set(
    xlabel="number",
    ylabel="singular value / largest",
    ylim=(1e-9, 2),
    title=f"the change of W after {steps} steps",
)
axes.legend()
assert all(
    torch.linalg.matrix_rank(delta, rtol=1e-5) <= r for name, delta in changes.items() if "LoRA" in name
)
