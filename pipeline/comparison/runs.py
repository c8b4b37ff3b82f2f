"""A run's record and predictions as outcomes, for whatever compares runs; and what counts for one that diverged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.comparison import clusters
from pipeline.comparison.outcomes import METRICS, Outcomes, bleu, mean
from pipeline.comparison.paired import TaskRuns
from pipeline.errors import RecordError
from pipeline.results import records
from pipeline.results.records import Record


@dataclass(frozen=True)
class Run:
    """What a run did with each example.

    Attributes:
        status: Of its evaluation.
        outcomes: What it did; None unless it is done.
        constant: What the best constant answer would have done: the majority class.
        groups, clusters: As in `TaskRuns`.
    """

    status: str
    outcomes: Outcomes | None = None
    constant: Outcomes | None = None
    groups: list[str] | None = None
    clusters: list[str] | None = None

    @property
    def collapsed(self) -> bool:
        """Whether it has learnt nothing: it diverged, or is no better than a constant answer."""
        if self.outcomes is None or self.constant is None:
            return self.status == records.DIVERGED
        return self.outcomes.value <= self.constant.value


def read(directory: str | Path) -> Run:
    """Reads a scored run.

    Raises:
        RecordError: Its record, evaluation or predictions are missing or damaged, or no verdict reads such a task.
    """
    evaluation = records.read_evaluation(directory).evaluation
    if not evaluation.done:
        return Run(evaluation.status)
    record = records.read(directory)
    kind = record.run_info.config["task"]["kind"]
    file = Path(directory, records.PREDICTIONS)
    try:
        return READERS[kind](record, pd.read_parquet(file))
    except (OSError, KeyError, AttributeError) as error:
        raise RecordError(
            f"{file} holds no predictions of a task of kind {kind} ({error}): score the run again"
        ) from error


def pair(
    task: str, candidate: Mapping[int, Run], reference: Mapping[int, Run], untuned: Run | None = None
) -> TaskRuns:
    """Returns two methods' runs of a task, by seed, for `compare`.

    A run that diverged is scored as what it leaves its user with: the untuned model, or else the majority class. What
    ran out of memory says nothing of its seed and is left out.
    """
    done = next((run for run in (*candidate.values(), *reference.values()) if run.outcomes), None)
    if done is None:
        return TaskRuns(task, {}, {})
    baseline = untuned.outcomes if untuned and untuned.outcomes else done.constant

    def outcomes(runs: Mapping[int, Run]) -> dict[int, Outcomes]:
        scored = {seed: run.outcomes or baseline for seed, run in runs.items() if _counts(run)}
        return {seed: outcomes for seed, outcomes in scored.items() if outcomes}

    def collapsed(runs: Mapping[int, Run]) -> set[int]:
        return {seed for seed, run in runs.items() if run.collapsed}

    return TaskRuns(
        task,
        outcomes(candidate),
        outcomes(reference),
        done.groups,
        done.clusters,
        baseline,
        (collapsed(candidate), collapsed(reference)),
    )


def _counts(run: Run) -> bool:
    return run.status in (records.DONE, records.DIVERGED)


def _classification(record: Record, predictions: pd.DataFrame) -> Run:
    metric = METRICS[record.train_info.metric]
    labels = predictions.label
    most_common = np.full(len(labels), labels.mode().iloc[0])
    groups = predictions.split.tolist() if predictions.split.nunique() > 1 else None
    return Run(
        records.DONE,
        metric(predictions.prediction, labels),
        metric(most_common, labels),
        groups,
        clusters.of_sentences(record, predictions),
    )


def _translation(_record: Record, predictions: pd.DataFrame) -> Run:
    first = predictions[predictions.split == predictions.split.iloc[0]]
    references, sources = first.reference.tolist(), first.source.tolist()
    nothing = bleu([""] * len(first), references)
    return Run(records.DONE, bleu(first.prediction.tolist(), references), nothing, clusters=sources)


def _instructions(record: Record, predictions: pd.DataFrame) -> Run:
    benchmark = record.run_info.config["task"]["scoring"]["benchmark"]
    return _benchmark(predictions) if benchmark else _responses(predictions)


def _benchmark(predictions: pd.DataFrame) -> Run:
    """MMLU's score is a mean over subjects, which are drawn as a whole."""
    by_subject = predictions.assign(
        hit=predictions.prediction == predictions.answer,
        constant=predictions.answer == predictions.answer.mode().iloc[0],
    ).groupby("subject")[["hit", "constant"]]
    shares = by_subject.mean()
    subjects = shares.index.tolist()
    return Run(records.DONE, mean(shares.hit), mean(shares.constant), clusters=subjects)


def _responses(predictions: pd.DataFrame) -> Run:
    """Super-NaturalInstructions' score is a mean over instances; those of one passage are drawn together."""
    passages = None
    if "input" in predictions:  # which runs that were scored earlier did not store
        passages = [clusters.sentence(text.splitlines() or [""]) for text in predictions.input]
    outcomes = mean(predictions.rouge_l / 100)
    return Run(records.DONE, outcomes, mean(0 * predictions.rouge_l), clusters=passages)


# By the kind of the task.
READERS: dict[str, Callable[[Record, pd.DataFrame], Run]] = {
    "classification": _classification,
    "translation": _translation,
    "instructions": _instructions,
}
