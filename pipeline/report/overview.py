"""What the report says of each claim and each experiment, as plain data for its templates."""

import re
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.comparison.verdict import Verdict
from pipeline.config.experiment import KINDS
from pipeline.config.plan import Plan
from pipeline.report import judges
from pipeline.report.judges import Finding, Judgement, LeftOutError, NotMadeError
from pipeline.report.paper import CLAIMS, Claim
from pipeline.tables.memory import GIB
from pipeline.tables.stamp import MEANINGLESS
from pipeline.tables.table import Cell, Row, Table


def facts(plan: Plan, runs: pd.DataFrame) -> dict[str, Any]:
    """Judges every claim.

    Args:
        plan: The profile's plan.
        runs: Its finished runs, as `pipeline.report.runs.read` returns them.

    Returns:
        `profile`, `meaningful` (whether its numbers mean anything), `margin` (points), `confidence`, `runs` (how many
        are finished), `unfinished` (runs), `stand_ins`, `claims` (each with `text`, `section`, `answers`, `topic`,
        `basis`, `verdict`, `found` and `links`), `costs` (our questions, each with `topic`, `found` and `links`) and
        `experiments` (by name: `title`, `caption`, `found` and the indices of their `claims`).
    """
    stand_ins = sorted({text for texts in runs.stand_ins for text in texts})
    claims = [_claim(plan, claim, bool(stand_ins)) for claim in CLAIMS]
    experiments = {
        name: {
            "title": experiment.title,
            "caption": experiment.caption,
            "found": _found(plan, name),
            "claims": [number for number, claim in enumerate(CLAIMS) if name in claim.evidence],
        }
        for name, experiment in plan.experiments.items()
    }
    return {
        "profile": plan.profile.name,
        "meaningful": plan.profile.judged,
        "margin": plan.statistics.margin,
        "confidence": plan.statistics.confidence,
        "runs": len(runs),
        "unfinished": len(plan.wanted()) - len(runs),
        "stand_ins": stand_ins,
        "claims": claims,
        "costs": [_cost(plan, name) for name, one in plan.experiments.items() if one.pairs],
        "experiments": experiments,
    }


def table(facts: dict[str, Any]) -> Table:
    """Lays the claims out."""
    rows, stand_ins = [], "; ".join(facts["stand_ins"])
    for claim in facts["claims"]:
        evidence = ", ".join(link["title"] for link in claim["links"])
        verdict = Cell(claim["verdict"], bold=claim["verdict"] == Judgement.CONFIRMED)
        texts = [claim["text"], claim["section"], claim["found"], claim["basis"], evidence]
        rows.append(Row([verdict, *map(Cell, texts)], rule=True))
    return Table(
        name="claims",
        title="What the paper claims, and what was found",
        notice=" ".join(
            [
                *([] if facts["meaningful"] else [MEANINGLESS]),
                *([f"Not the paper's material. Stand-ins: {stand_ins}."] if stand_ins else []),
            ]
        ),
        caption=(
            f"The paper's claims and the verdict of profile {facts['profile']}, computed from its tables and figures. "
            f"As accurate means: not inferior at a margin of {facts['margin']:g} points (docs/statistics.md)."
        ),
        columns=["Judgement", "The paper says", "Section", "Found", "How", "Shown in"],
        rows=rows,
        data=[{**claim, "links": [link["path"] for link in claim["links"]]} for claim in facts["claims"]],
        text_columns=6,
    )


def _claim(plan: Plan, claim: Claim, stand_ins: bool) -> dict[str, Any]:
    try:
        finding = claim.judge(plan)
    except LeftOutError as error:
        finding = Finding(Judgement.LEFT_OUT, str(error))
    except NotMadeError as error:
        finding = Finding(Judgement.NOT_MADE, str(error))
    experiment = plan.experiments.get(claim.evidence[0])
    trained = "trained on stand-ins" if stand_ins else "trained"
    return {
        "text": claim.text,
        "section": claim.section,
        "answers": claim.answers,
        "topic": claim.topic,
        "basis": KINDS[experiment.kind].basis or trained if experiment else "",
        "verdict": str(finding.verdict),
        "found": finding.text,
        "links": [link for name in claim.evidence for link in _links(plan, name)],
    }


def _cost(plan: Plan, name: str) -> dict[str, Any]:
    """Returns where a question of ours has found that something is lost, of the pairs that it compares."""
    found = {"topic": _short(plan.experiments[name].title), "links": _links(plan, name)}
    try:
        lines = judges.read(plan, name)
    except NotMadeError as error:
        return found | {"found": str(error)}
    pairs = lines.dropna(subset=["verdict"])
    lost = [
        f"{line.candidate} loses {-line.difference:.1f} points to {line.reference}"
        for line in pairs[pairs.verdict == Verdict.INFERIOR].itertuples()
    ]
    others = pairs.verdict[pairs.verdict != Verdict.INFERIOR].value_counts(sort=False)
    counts = [f"{verdict} in {count} of {len(pairs)} comparisons" for verdict, count in others.items()]
    return found | {"found": "; ".join(lost + counts)}


def _links(plan: Plan, name: str) -> list[dict[str, str]]:
    """Returns words, files and menu for links to an experiment's figure and table, as far as they have been made."""
    if name not in plan.experiments:
        return []
    experiment, results = plan.experiments[name], Path(plan.profile.results)
    title, section = _short(experiment.title), experiment.category
    files = {title: results / "figures" / f"{name}.html"} if experiment.drawn else {}
    if experiment.tabled:
        files["its numbers" if files else title] = results / "tables" / f"{name}.html"
    return [
        {"title": title, "path": str(path), "section": section}
        for title, path in files.items()
        if path.is_file()
    ]


def _short(title: str) -> str:
    """Returns "Table 2" of "Table 2: GLUE", and else what stands behind the colon: a rebuttal has many tables."""
    name, _, rest = title.partition(": ")
    return (
        name if not rest or re.fullmatch(r"(Table|Figure) \w+|Verdicts", name) else rest[0].upper() + rest[1:]
    )


def _found(plan: Plan, name: str) -> str:
    """Returns what an experiment found besides the verdicts: for memory, how close the estimates are to the paper's."""
    if plan.experiments[name].kind != "memory":
        return ""
    try:
        cells = judges.read(plan, name)
    except NotMadeError:
        return ""
    theirs = pd.to_numeric(cells.paper, errors="coerce")
    errors = (cells.fitted / GIB / theirs - 1).abs().dropna()
    if errors.empty:
        return "The paper prints no numbers to compare these with, only a picture."
    return (
        f"{len(errors)} of its numbers are printed; the estimates are within {100 * errors.max():.0f} % of them, half "
        f"within {100 * errors.median():.0f} %."
    )
