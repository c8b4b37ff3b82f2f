# %% [markdown]
# # Reading the results
#
# Every run leaves a `metrics.json`, and a run that has been scored an `evaluation.json`. This notebook reads all of
# them as one data frame and draws two pictures. It works while the pipeline is still running.

# %%
import json
import os
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

root = next(folder for folder in (Path.cwd(), *Path.cwd().parents) if (folder / "Snakefile").exists())
results = Path(os.environ.get("LORAFA_RESULTS", root / "results/mini"))

# %% [markdown]
# ## One line
#
# A record is nested JSON; pandas names its columns by their path, such as `train_info.best.score`.

# %%
runs = pd.json_normalize(
    [json.loads(file.read_text()) for file in sorted(results.rglob("runs/**/metrics.json"))]
)

# %% [markdown]
# ## The columns that are used most
#
# `reindex` keeps the notebook working where there are no runs at all, or where none of them has some column.

# %%
COLUMNS = {
    "run_info.config.model.name": "model",
    "run_info.config.method.name": "method",
    "run_info.config.task.name": "task",
    "run_info.config.lr": "lr",
    "run_info.config.seed": "seed",
    "train_info.status": "status",
    "train_info.metric": "metric",
    "train_info.best.score": "score",
    "train_info.trainable_parameters": "trainable",
    "train_info.peak_memory_bytes.resident": "peak",
    "train_info.wall_time_seconds": "seconds",
    "train_info.losses": "losses",
}
runs = runs.reindex(columns=list(COLUMNS)).rename(columns=COLUMNS)
if runs.empty:
    print(f"No run is finished in {results} yet. `make tables PROFILE=smoke` finishes some in minutes.")
else:
    print(f"{len(runs)} runs are finished in {results}.")
runs.drop(columns="losses").head()

# %% [markdown]
# `status` is `done`, `diverged` or `out_of_memory`: the last two are results, too.

# %%
runs.groupby(["model", "task", "method"]).status.value_counts().unstack(fill_value=0)

# %% [markdown]
# ## A table of one's own
#
# The best validation score: its mean over the seeds, at the learning rate where that is best. Where the metric
# is the loss, the lowest is the best. The paper's tables choose the learning rate by a search instead.

# %%
by_rate = runs.groupby(["model", "task", "method", "lr"], dropna=False).agg(
    mean=("score", "mean"), std=("score", "std"), metric=("metric", "first")
)
by_rate["goodness"] = by_rate["mean"].where(by_rate.metric != "loss", -by_rate["mean"])
best = by_rate.sort_values("goodness").groupby(["model", "task", "method"]).tail(1).sort_index().reset_index()
best.pivot(index=["model", "method"], columns="task", values="mean").round(3)

# %% [markdown]
# ## Evaluations
#
# What was scored after training is in `evaluation.json`. Its scores have a name for each split or test.

# %%
evaluations = pd.json_normalize(
    [json.loads(file.read_text()) for file in sorted(results.rglob("runs/**/evaluation.json"))]
)
print(f"{len(evaluations)} of these runs are scored.")
identity = [f"run_info.config.{key}" for key in ("model.name", "method.name", "task.name", "lr", "seed")]
evaluations.reindex(columns=[*identity, "evaluation.status", "evaluation.scores.score"]).head()

# %% [markdown]
# ## Score by learning rate
#
# One line for each method, on the task that has the most runs. The bar is the deviation of the seeds.

# %%
if not runs.empty:
    model, task = runs.groupby(["model", "task"]).size().idxmax()
    figure, axes = plt.subplots(figsize=(6, 4))
    for method, line in by_rate.loc[model, task].groupby("method"):
        line = line.droplevel("method").sort_index()
        axes.errorbar(line.index, line["mean"], line["std"], marker="o", capsize=3, label=method)
    axes.set(xscale="log", xlabel="learning rate", ylabel="best validation score", title=f"{model}, {task}")
    axes.legend()

# %% [markdown]
# ## Losses

# %%
if not runs.empty:
    figure, axes = plt.subplots(figsize=(6, 4))
    chosen = best[(best.model == model) & (best.task == task)][["method", "lr"]]
    for run in runs[(runs.model == model) & (runs.task == task)].merge(chosen).itertuples():
        losses = pd.DataFrame(run.losses, columns=["step", "loss"])
        axes.plot(
            losses.step, losses.loss, label=run.method, color=f"C{list(chosen.method).index(run.method)}"
        )
    handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))  # one entry for all seeds
    axes.legend(handles.values(), handles)
    axes.set(
        xlabel="step", ylabel="training loss", title=f"{model}, {task}, at each method's best learning rate"
    )

# %% [markdown]
# ## What is trained, and what it costs
#
# Peak memory is that of the process, Python and its libraries included. For the memory of the paper's models see the
# notebook `what_fits`.

# %%
runs.groupby(["model", "method"])[["trainable", "peak", "seconds"]].median()
