# %% [markdown]
# # What fits on my GPU?
#
# `lorafa.memory` predicts the peak memory of a training step without weights and without a GPU: it runs the real model,
# adapters and optimizer on fake tensors. `docs/memory.md` says how well it agrees with the paper's measurements.
# No GPU was used for the numbers below.
#
# Change the next cell to what you have.

# %%
MODEL = "llama-7b"  # a built-in name, a config.json, or a hub id
CARDS = {"24 GiB": 24, "40 GiB": 40, "80 GiB": 80}
RANK = 64
BATCH, LENGTH = 4, 512
BATCHES = [1, 2, 4, 8, 16, 32]
RANKS = [8, 32, 128]

# %%
from dataclasses import replace

import pandas as pd

from lorafa.memory.estimate import estimate
from lorafa.memory.fit import needed
from lorafa.memory.recipe import Recipe
from lorafa.memory.sizes import GIB

recipe = Recipe(MODEL, "lora-fa", rank=RANK, batch_size=BATCH, source_length=LENGTH, adapter_dropout=0.05)
recipes = {
    "Full-FT": replace(recipe, method="full-ft", adapter_dropout=0.0),
    "LoRA": replace(recipe, method="lora"),
    "LoRA, A frozen": replace(recipe, method="lora-frozen-a"),
    "LoRA-FA": recipe,
    "LoRA-FA, recomputing": replace(recipe, recompute=("norm", "activation", "dropout", "loss")),
}

# %% [markdown]
# ## Where the memory goes
#
# Everything that exists at the moment of the peak, in GiB. *Cache* is what PyTorch's allocator holds without using it.

# %%
parts = pd.DataFrame({name: estimate(one).breakdown for name, one in recipes.items()}).T / GIB
parts.assign(reserved=parts.sum(axis=1)).round(2)

# %%
axes = parts.plot.barh(
    stacked=True,
    figsize=(9, 4),
    xlabel=f"GiB at the peak: {MODEL}, rank {RANK}, batch {BATCH} × {LENGTH} tokens",
)
axes.invert_yaxis()
axes.legend(fontsize="small")

# %% [markdown]
# ## By batch size
#
# A step needs what PyTorch reserves and 0.7 GiB of CUDA context (`lorafa.memory.fit.needed`).

# %%
curves = pd.DataFrame(
    {
        name: [needed(replace(one, batch_size=size)) / GIB for size in BATCHES]
        for name, one in recipes.items()
    },
    BATCHES,
)
axes = curves.plot(marker="o", figsize=(7, 5), logx=True, logy=True, xlabel="batch size", ylabel="GiB needed")
axes.set_xticks(BATCHES, list(map(str, BATCHES)))
for card, size in CARDS.items():
    axes.axhline(size, color="grey", linestyle=":")
    axes.annotate(card, (BATCHES[0], size), va="bottom", fontsize="small")

# %% [markdown]
# ## On these cards
#
# The largest of these batch sizes that fits; 0 where not even one sequence does. For the exact largest batch and
# length, and for what would make a step fit, ask the command line:
# `python -m lorafa.memory --model llama-7b --rank 64 --batch 4 --device-memory 24GiB`.

# %%
pd.DataFrame({card: (curves <= size).mul(curves.index, axis=0).max() for card, size in CARDS.items()})

# %% [markdown]
# ## By rank
#
# LoRA's activation memory hardly depends on the rank, because it keeps $X$. LoRA-FA's does not either: $XA$ is small at
# every usual rank.

# %%
pd.DataFrame(
    {
        name: [estimate(replace(recipes[name], rank=rank)).saved / GIB for rank in RANKS]
        for name in ("LoRA", "LoRA, A frozen", "LoRA-FA", "LoRA-FA, recomputing")
    },
    pd.Index(RANKS, name="GiB saved for backward, by rank"),
).round(2)
