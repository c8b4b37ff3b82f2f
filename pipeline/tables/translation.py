"""Table 3: methods against T5 models by BLEU and ROUGE-L, beside the paper's numbers."""

import pandas as pd

from pipeline.config.metrics import METRICS
from pipeline.config.plan import Plan
from pipeline.tables import outcomes, sanity, verdicts
from pipeline.tables.table import Cell, Row, Table

SHOWN = ("bleu", "rouge_l")
PLAIN = "bleu_without_diacritics"


def build(plan: Plan, name: str) -> Table:
    """Builds the table of a `translation` experiment; test splits after the first get columns of their own.

    Raises:
        RecordError: A run's record or evaluation is missing or damaged.
    """
    experiment = plan.experiments[name]
    results = outcomes.read(plan, name)
    published = outcomes.published(plan, name)
    found = [key for scores in results.scores for key in scores]
    metrics = {key: _heading(key) for key in dict.fromkeys([*SHOWN, *found])}
    for metric in metrics:
        results[metric] = [scores.get(metric) for scores in results.scores]
    findings = sanity.judge(plan, name, results)
    rows: list[Row] = []
    for model in experiment.models:
        of_model = results[results.model == model]
        best = of_model.groupby("method")[list(metrics)].mean().max()
        for method in experiment.methods:
            runs = of_model[of_model.method == method]
            label = f"{plan.models[model]['label']} ({plan.methods[method]['label']})"
            cells = [outcomes.mean_cell(runs, metric, best[metric]) for metric in metrics]
            parameters = Cell(outcomes.count(runs.trainable_parameters.iloc[0]))
            flawed = sanity.flaws(findings, model=model, method=method)
            row = Row([Cell(label), parameters, *cells], rule=True)
            rows.append(sanity.mark(row, ["", "# TPs", *metrics], flawed))
            rows += _published_rows(plan, published, model, method, list(metrics))
    signatures = sorted({details["bleu_signature"] for details in results.details if details})
    return Table(
        name=name,
        title=outcomes.title(plan, name, results),
        notice=outcomes.notice(results),
        caption=experiment.caption,
        columns=["Model & method", "# TPs", *metrics.values()],
        rows=rows,
        notes=[
            *verdicts.lines(plan, name),
            "Rows in italics are the paper's own numbers (Table 3), for its models and data.",
            *(f"BLEU by sacrebleu: {signature}." for signature in signatures),
            *(
                f"BLEU without diacritics: {signature}, of texts whose letters have lost their marks (NFD)."
                for signature in signatures
                if PLAIN in metrics
            ),
            "ROUGE-L by rouge-score, whose words are a–z and 0–9: letters such as ă, ș and ț do not count.",
            *outcomes.footnotes(results),
            *sanity.notes(plan, name, findings),
        ],
        data=_data(results, published, list(metrics)),
    )


def _heading(key: str) -> str:
    for metric in (*SHOWN, PLAIN):
        if key.endswith(metric):
            heading, split = METRICS[metric].label, key.removesuffix(metric).strip("_")
            return f"{heading}, {split.removeprefix('test_')}" if split else heading
    return key


def _published_rows(
    plan: Plan, published: pd.DataFrame, model: str, method: str, metrics: list[str]
) -> list[Row]:
    theirs = published[(published.model == plan.models[model]["paper"]) & (published.method == method)]
    rows = []
    for line in theirs.to_dict("records"):
        label = f"paper: {line['model'].replace('t5', 'T5')} ({plan.methods[method]['label']})"
        numbers = [Cell(f"{line[metric]:g}" if metric in line else "–") for metric in metrics]
        rows.append(Row([Cell(label), Cell(line["trainable_parameters"]), *numbers], published=True))
    return rows


def _data(results: pd.DataFrame, published: pd.DataFrame, metrics: list[str]) -> list[dict[str, object]]:
    columns = ["model", "method", "seed", "rank", "lr", "status", "trainable_parameters", *metrics]
    ours = [{"source": "ours", **line} for line in results[columns].to_dict("records")]
    return ours + [{"source": "paper", **line} for line in published.to_dict("records")]
