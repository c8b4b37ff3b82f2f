"""How a claim of the paper is judged: from the numbers of a finished table or figure, never from memory.

A judge reads CSV files that the tables and figures rules wrote and returns a verdict with its numbers in words.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from pipeline.comparison.verdict import AVERAGE, Verdict
from pipeline.config.paths import spell
from pipeline.config.plan import Plan
from pipeline.tables.memory import GIB, METHODS
from pipeline.tables.sensitivity import LABELS, OURS, TOLERANCE

MEMORY_COLUMNS = ("method", "paper", "nominal", "fitted", "allocated", "saved")
OPTIMIZATIONS = {"flash-attention": "FlashAttention", "qlora": "QLoRA", "zero-3": "ZeRO-3"}
SIGNIFICANT = 0.05


class Judgement(StrEnum):
    """What our results say about a claim."""

    CONFIRMED = "confirmed"
    NOT_CONFIRMED = "not confirmed"
    INCONCLUSIVE = "inconclusive"
    NOT_MADE = "not made"
    LEFT_OUT = "left out"


@dataclass(frozen=True)
class Finding:
    """A verdict, and the numbers that it follows from."""

    verdict: Judgement
    text: str


class NotMadeError(Exception):
    """What a judge needs is not there."""


class LeftOutError(NotMadeError):
    """What a judge needs is none of the profile's experiments."""


def as_good(plan: Plan, table: str, reference: str) -> Finding:
    """Asks whether LoRA-FA is not inferior to a reference, by the verdicts under a table.

    Confirmed: not inferior (or better) for every model. Not confirmed: inferior for one of them.
    """
    comparisons = read(plan, "verdicts")
    label = plan.methods.get(reference, {}).get("label")
    found = comparisons[(comparisons.table == table) & (comparisons.reference == label)]
    averages = found[found.task == AVERAGE]
    judged = pd.concat([averages, found[~found.model.isin(averages.model)]])
    if judged.empty:
        raise NotMadeError(f"the verdicts have no comparison with {label or reference} in {table}")
    parts = [
        f"{line.model}: "
        + (
            f"{_signed(line.difference)} points [{_signed(line.low)}, {_signed(line.high)}], {line.verdict}"
            if pd.notna(line.difference)
            else f"{line.verdict}, {line.reason}"
        )
        for line in judged.itertuples()
    ]
    return Finding(_combined(set(judged.verdict)), f"LoRA-FA − {label}, {'; '.join(parts)}")


def _combined(verdicts: set[str]) -> Judgement:
    if Verdict.INFERIOR in verdicts:
        return Judgement.NOT_CONFIRMED
    passed = verdicts <= {Verdict.BETTER, Verdict.NOT_INFERIOR}
    return Judgement.CONFIRMED if passed else Judgement.INCONCLUSIVE


def saves(plan: Plan, table: str, reference: str, claimed: float) -> Finding:
    """Asks whether LoRA-FA's peak memory is smaller than a reference's by a factor, in the best cell of a table."""
    wide = _peaks(plan, table)
    ratios = wide[reference] / wide["lora-fa"]
    best = ratios.idxmax()
    text = (
        f"up to {ratios.max():.1f} × less: {_named(wide, best)}, {wide.loc[best, reference]:.1f} → "
        f"{wide.loc[best, 'lora-fa']:.1f} GiB"
    )
    if "lora-fa-lean" in wide:
        text += f"; with lorafa's recomputation up to {(wide[reference] / wide['lora-fa-lean']).max():.1f} ×"
    return Finding(_if(round(ratios.max(), 1) >= claimed), text)


def always_less(plan: Plan, table: str) -> Finding:
    """Asks whether LoRA-FA needs less memory than LoRA in every cell of a table."""
    wide = _peaks(plan, table)
    gaps = wide["lora"] - wide["lora-fa"]
    text = f"less in {(gaps > 0).sum()} of {len(gaps)} cells, by {gaps.min():.2f} to {gaps.max():.2f} GiB"
    return Finding(_if(bool((gaps > 0).all())), text)


def combines(plan: Plan, table: str) -> Finding:
    """Asks whether each further optimization lowers LoRA-FA's memory at every batch size."""
    cells = read(plan, table)
    wide = cells[cells.method == "lora-fa"].pivot(index="batch_size", columns="optimization", values="fitted")
    shares = wide.drop(columns="none").div(wide["none"], axis=0)
    parts = [f"{OPTIMIZATIONS.get(name, name)} {_range(100 * shares[name], '.0f')} %" for name in shares]
    return Finding(
        _if(bool((shares < 1).all(axis=None))), f"of LoRA-FA's memory there remain: {'; '.join(parts)}"
    )


def activations(plan: Plan, table: str, claimed: float) -> Finding:
    """Asks whether activations shrink by a factor, in the breakdown of the memory."""
    sizes = read(plan, table).set_index("component").loc["activations"]
    lora, ours = sizes["LoRA, estimated"], sizes[f"{METHODS['lora-fa']}, estimated"]
    text = f"{lora:.1f} → {ours:.1f} GiB of activations, {lora / ours:.2f} × less"
    return Finding(_if(round(lora / ours, 1) >= claimed), text)


def counted(plan: Plan, table: str) -> Finding:
    """Asks whether the bytes counted on a real layer are those of the paper's formulas."""
    entries = read(plan, table)
    exact = entries.metered == entries.predicted
    sizes = entries[entries.quantity == "activation"].set_index("method").metered
    text = (
        f"{exact.sum()} of {len(exact)} quantities are exact; saved for backward by one layer: LoRA "
        f"{sizes['lora']:,} bytes, LoRA-FA {sizes['lora-fa']:,}"
    )
    return Finding(_if(bool(exact.all())), text)


def fewer_parameters(plan: Plan, table: str, claimed: float) -> Finding:
    """Asks whether LoRA-FA trains fewer parameters than LoRA by a factor, in the best of the models."""
    counts = read(plan, table).pivot(index="model", columns="method", values="trainable_parameters")
    ratios = (counts["lora"] / counts["lora-fa"]).dropna()
    text = f"{_range(ratios, '.2f')} × fewer over {len(ratios)} models; most for {ratios.idxmax()}"
    return Finding(_if(round(ratios.max(), 1) >= claimed), text)


def faster(plan: Plan, table: str) -> Finding:
    """Asks whether LoRA-FA has the higher throughput at every batch size."""
    speeds = read(plan, table).pivot(index="batch_size", columns="method", values="tokens_per_second")
    ratios = speeds["lora-fa"] / speeds["lora"]
    return Finding(_if(bool((ratios > 1).all())), f"{_range(ratios, '.2f')} × LoRA's tokens per second")


def converges(plan: Plan, figure: str) -> Finding:
    """Asks whether LoRA-FA comes within the margin of LoRA's best score as soon, but for one evaluation."""
    curves = read(plan, figure, "figures")
    curves = curves[curves.quantity == "score"]
    margin, parts, late = plan.statistics.margin, [], False
    for task, of_task in curves.groupby("task", sort=False):
        means = of_task.pivot_table(index="step", columns="method", values="value")
        aim = means["lora"].max() - margin
        steps = {method: means.index[means[method] >= aim] for method in ("lora", "lora-fa")}
        first = means.index.get_loc(steps["lora"][0])
        late |= not len(steps["lora-fa"]) or means.index.get_loc(steps["lora-fa"][0]) > first + 1
        reached = f"step {steps['lora-fa'][0]}" if len(steps["lora-fa"]) else "never"
        label = plan.tasks[str(task)]["label"]
        parts.append(f"{label}: {reached}, LoRA at step {steps['lora'][0]}")
    return Finding(_if(not late), f"within {margin:g} points of LoRA's best score: {'; '.join(parts)}")


def same_space(plan: Plan, figure: str) -> Finding:
    """Asks whether LoRA-FA, at its best learning rate, keeps up with LoRA's best at every rank."""
    cells = _finished(read(plan, figure, "figures"))
    best = cells.groupby(["rank", "method"])["mean"].max().unstack()
    deficits = best["lora"] - best["lora-fa"]
    works = cells[cells["mean"] >= cells.groupby("method")["mean"].transform("max") - TOLERANCE]
    counts = works.method.value_counts()
    text = (
        f"at the best η LoRA-FA is at most {max(deficits.max(), 0):.1f} points below LoRA (rank "
        f"{deficits.idxmax()}; up to {TOLERANCE:g} counts as the same); cells within {TOLERANCE:g} points of the "
        f"method's best: LoRA-FA {counts.get('lora-fa', 0)}, LoRA {counts.get('lora', 0)}"
    )
    return Finding(_if(bool((deficits <= TOLERANCE).all())), text)


def lower_rates(plan: Plan, name: str, folder: str, axis: str) -> Finding:
    """Asks whether the best learning rate of LoRA-FA falls as the rank or α grows (Spearman's rank correlation)."""
    cells = _finished(read(plan, name, folder))
    if "method" in cells:
        cells = cells[cells.method == "lora-fa"]
    best = cells.loc[cells.groupby(axis)["mean"].idxmax()].sort_values(axis)
    first, last = best.iloc[0], best.iloc[-1]
    if best.lr.nunique() < 2:
        return Finding(Judgement.NOT_CONFIRMED, f"the best η is {spell(float(first.lr))} for every {axis}")
    correlation, p_value = spearmanr(best[axis], best.lr)
    falls = Judgement.CONFIRMED if p_value < SIGNIFICANT else Judgement.INCONCLUSIVE
    text = (
        f"best η {spell(float(first.lr))} at {axis} {first[axis]:g}, {spell(float(last.lr))} at {last[axis]:g}; "
        f"ρ = {_signed(correlation, 2)}, p = {p_value:.3f} over {len(best)} values"
    )
    return Finding(falls if correlation < 0 else Judgement.NOT_CONFIRMED, text)


def robust(plan: Plan, table: str, axis: str) -> Finding:
    """Asks whether each of the paper's values of an axis has a learning rate that works, with bests that are close."""
    means = read(plan, table)
    means = means[~means[axis].isin(OURS)]
    best = means[means.works].groupby(axis, sort=False)["mean"].max()
    failed = sorted(set(means[axis]) - set(best.index))
    if failed:
        names = ", ".join(LABELS.get(value, value) for value in failed)
        return Finding(Judgement.NOT_CONFIRMED, f"no learning rate works with {names}")
    parts = [f"{LABELS.get(str(value), value)} {score:.1f}" for value, score in best.items()]
    spread = best.max() - best.min()
    text = (
        f"{', '.join(parts)} at the best η: {spread:.1f} points apart; up to {TOLERANCE:g} counts as robust"
    )
    return Finding(_if(spread <= TOLERANCE), text)


def read(plan: Plan, name: str, folder: str = "tables") -> pd.DataFrame:
    """Reads the numbers of a table or figure.

    Raises:
        LeftOutError: It is none of the profile's.
        NotMadeError: It has not been made.
    """
    path = Path(plan.profile.results, folder, f"{name}.csv")
    if name not in plan.experiments:
        raise LeftOutError(f"this profile is without {name}")
    if not path.is_file():
        raise NotMadeError(f"{path} does not exist")
    return pd.read_csv(path)


def _peaks(plan: Plan, table: str) -> pd.DataFrame:
    """Returns a table's fitted peaks in GiB: one row a cell, one column a method."""
    cells = read(plan, table)
    keys = [column for column in cells if column not in MEMORY_COLUMNS]
    return cells.pivot(index=keys, columns="method", values="fitted") / GIB


def _named(wide: pd.DataFrame, cell: object) -> str:
    values = cell if isinstance(cell, tuple) else (cell,)
    words = zip(wide.index.names, values, strict=True)
    return ", ".join(
        str(value) if key == "model" else f"{str(key).replace('_', ' ')} {value}" for key, value in words
    )


def _finished(cells: pd.DataFrame) -> pd.DataFrame:
    finished = cells.dropna(subset=["mean"])
    if finished.empty:
        raise NotMadeError("no run has a score")
    return finished


def _range(values: pd.Series, form: str) -> str:
    low, high = f"{values.min():{form}}", f"{values.max():{form}}"
    return low if low == high else f"{low} to {high}"


def _signed(number: float, digits: int = 1) -> str:
    return f"{number:+.{digits}f}".replace("-", "−")


def _if(holds: bool) -> Judgement:
    return Judgement.CONFIRMED if holds else Judgement.NOT_CONFIRMED
