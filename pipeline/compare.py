"""Compares two models on the same items: `python -m pipeline.compare A.jsonl B.jsonl`.

A and B are files that lm-eval writes with `--log_samples`, of any two models on one task:

    lm_eval --model hf --model_args pretrained=MODEL --tasks TASK --log_samples --output_path FOLDER

Items are paired, so that what is easy for both models makes the difference no less certain. The interval is that of the
verdicts under the tables (docs/statistics.md). It is about these two models on other items of the kind, not about
other seeds. Where items come in clusters, such as questions on one passage, `--cluster` names the field of the document
that says which; these are then drawn together.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.cli import command_line, job
from pipeline.comparison.outcomes import OutcomesError, mean
from pipeline.comparison.paired import TaskRuns, compare
from pipeline.comparison.verdict import Comparison
from pipeline.errors import RecordError, unknown

Sample = dict[str, Any]


def read(file: Path, chosen: str | None = None) -> dict[Any, Sample]:
    """Reads a file of samples.

    Args:
        file: JSON lines, as lm-eval logs them.
        chosen: The filter of the answers that counts; needed where there are several.

    Returns:
        The samples by `doc_id`.

    Raises:
        RecordError: The file cannot be read, is not of samples, or has several filters or one item twice.
    """
    try:
        samples = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise RecordError(f"{file} cannot be read as JSON lines: {error}") from error
    if not samples or not all(isinstance(one, dict) and {"doc_id", "metrics"} <= set(one) for one in samples):
        raise RecordError(f"{file} has no samples with doc_id and metrics: lm_eval --log_samples writes them")
    filters = sorted({str(one.get("filter")) for one in samples})
    if chosen is None and len(filters) > 1:
        raise RecordError(f"{file} has the filters {', '.join(filters)}: choose one by --filter")
    if chosen is not None and chosen not in filters:
        raise RecordError(f"{file}: {unknown('filter', chosen, filters)}")
    kept = [one for one in samples if chosen is None or str(one.get("filter")) == chosen]
    found = {one["doc_id"]: one for one in kept}
    if len(found) < len(kept):
        raise RecordError(f"{file} has items twice: give one file of one task for each model")
    return found


def paired(
    a: dict[Any, Sample], b: dict[Any, Sample], metric: str | None = None, cluster: str | None = None
) -> tuple[str, TaskRuns]:
    """Returns the metric, and B's and A's outcomes on the items that both have.

    Raises:
        RecordError: The items are others, or a metric or field is missing.
        OutcomesError: A score is no number between 0 and 1, or there are fewer than two items.
    """
    common = [item for item in a if item in b]
    if not common:
        raise RecordError("the files have no item in common: give those of one task")
    for item in common:
        if a[item].get("doc_hash") != b[item].get("doc_hash"):
            raise RecordError(
                f"item {item} is another document in each file: give those of one task and version"
            )
    metrics = list(a[common[0]]["metrics"])
    metric = metric or next(iter(metrics), "")
    if metric not in metrics:
        raise RecordError(unknown("metric", metric, metrics))
    clusters = [_field(a[item], cluster) for item in common] if cluster else None
    theirs, ours = ({0: mean([_score(one[item], metric) for item in common])} for one in (a, b))
    return metric, TaskRuns(metric, ours, theirs, clusters=clusters)


def page(names: tuple[str, str], metric: str, runs: TaskRuns, found: Comparison, alone: int) -> str:
    """Returns what there is to say, for a terminal."""
    ours, theirs = (method[0] for method in (runs.candidate, runs.reference))
    ahead = np.sign(ours.summands[:, 1] - theirs.summands[:, 1])
    clusters = f" in {len(set(runs.clusters))} clusters" if runs.clusters else ""
    lines = [
        f"A: {metric} {theirs.value:.1f}, {names[0]}",
        f"B: {metric} {ours.value:.1f}, {names[1]}",
        f"{len(ahead)} items of both{clusters}: B is ahead on {(ahead > 0).sum()}, A on {(ahead < 0).sum()}",
        f"B − A: {found.finding}",
    ]
    return "\n".join([*lines, *([f"left out: {alone} items of one file alone"] if alone else [])])


def _score(sample: Sample, metric: str) -> float:
    value = sample.get(metric)
    if not isinstance(value, bool | int | float):
        raise OutcomesError(
            f"item {sample['doc_id']}: {metric} is {json.dumps(value)}, not a number for each item: choose another "
            "metric by --metric"
        )
    return float(value)


def _field(sample: Sample, name: str) -> str:
    try:
        return str(sample["doc"][name])
    except (KeyError, TypeError) as error:
        raise RecordError(
            f"item {sample['doc_id']}: its document has no field {name} to cluster by"
        ) from error


def _between(low: float, high: float) -> Any:
    def number(text: str) -> float:
        if not low < float(text) < high:
            raise argparse.ArgumentTypeError(f"must be above {low:g} and below {high:g}")
        return float(text)

    return number


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.compare", __doc__)
    parser.add_argument("a", type=Path, metavar="A.jsonl", help="samples of the model to compare with")
    parser.add_argument("b", type=Path, metavar="B.jsonl", help="samples of the model in question")
    parser.add_argument("--metric", help="such as acc_norm; the first of the file by default")
    parser.add_argument("--filter", help="such as strict-match, where a file has several")
    parser.add_argument("--cluster", metavar="FIELD", help="the field of a document that names its cluster")
    parser.add_argument(
        "--margin", type=_between(0, 100), default=1.0, help="points by which B may be worse; 1 by default"
    )
    parser.add_argument("--confidence", type=_between(0.5, 1), default=0.95, help="0.95 by default")
    given = parser.parse_args()
    a, b = read(given.a, given.filter), read(given.b, given.filter)
    metric, runs = paired(a, b, given.metric, given.cluster)
    report = compare([runs], "B", "A", margin=given.margin, fraction=0, confidence=given.confidence)
    print(page((str(given.a), str(given.b)), metric, runs, report.tasks[0], len(a.keys() ^ b.keys())))


if __name__ == "__main__":
    main()
