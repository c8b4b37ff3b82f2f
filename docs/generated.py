"""What the documentation says of the code by reading it: the configuration reference, models, the picture of the DAG.

`mkdocs build` puts the reference into the site (docs/hooks.py); there is no copy of it to go stale. The picture is
docs/dag.svg, which a test compares with what the Snakefile says; docs/models.md is what a table of the tests says, and
compared with it. By hand:

    python docs/generated.py configuration
    python docs/generated.py models > docs/models.md
    python docs/generated.py differences > docs/differences.md
    python docs/generated.py graph > docs/dag.svg
"""

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import griffe
import yaml

from pipeline.config import budget, experiment, profile, schema
from pipeline.config.compose import CONF, compose_hydra
from pipeline.config.paths import spell

ROOT = Path(__file__).parents[1]
# Dataclass to where its keys are set.
SECTIONS = {
    schema.RunConfig: "`conf/config.yaml`, and the groups below",
    profile.Profile: "`conf/profile/`, under `profile`",
    budget.Budget: "`conf/profile/`, under `budget`",
    schema.Model: "`conf/model/`",
    schema.Method: "`conf/method/`",
    schema.Task: "`conf/task/`",
    schema.Classification: "`conf/task/`, under `classification`",
    schema.Translation: "`conf/task/`, under `translation`",
    schema.Instructions: "`conf/task/`, under `instructions`",
    schema.Scoring: "`conf/task/`, under `scoring`",
    schema.Benchmark: "`conf/task/`, under `scoring.benchmark`",
    schema.Trainer: "`conf/recipe/`, and `sharding` in `conf/trainer/`; under `trainer`",
    experiment.Experiment: "`conf/experiment/`",
    experiment.Setting: "`conf/experiment/`, each of `settings`",
    experiment.Steps: "`conf/experiment/`, under `steps`",
    experiment.Halving: "`conf/experiment/`, under `halving`",
    experiment.Bar: "`conf/experiment/`, under `bar`",
    experiment.Plot: "`conf/experiment/`, under `plot`",
    experiment.Statistics: "`conf/config.yaml`, under `statistics`",
}
# Enough of the mini profile for every rule to have a part in it.
GRAPH_OF = "search,table2,table4,table5,figure3,figure6,pareto"


def configuration() -> str:
    """Returns the configuration reference as Markdown, from conf/ and the dataclasses of pipeline/config/."""
    parts = [
        "# Configuration reference",
        "Made from `conf/` and the dataclasses of `pipeline/config/` when this site was built. A key can be given on "
        "the command line of a run as `key=value`, below its group: `method.dropout=0.1`, `budget.max_steps=10`. Every "
        "value is checked before any work starts. [How it works](how-it-works.md) explains where a run then lives.",
        "## Keys",
        "A key that says nothing under *if left out* has to be in the file. Other keys than these are refused.",
        *(part for kind, place in SECTIONS.items() for part in _section(kind, place)),
        "## Files",
        *(part for group in _groups() for part in _files(group)),
        "## Learning rates",
        "`method.lr`, by model. A tuned table takes its search's choice instead.",
        _table(["model", *_names("method")], _learning_rates()),
        "## conf/config.yaml",
        "`conf/differences.yaml` is no part of a configuration: [Differences](differences.md) is made of it.",
        _source(CONF / "config.yaml"),
        *(part for file in _paths("profile") for part in (f"## conf/profile/{file.name}", _source(file))),
    ]
    return "\n\n".join(parts) + "\n"


def differences() -> str:
    """Returns docs/differences.md, from conf/differences.yaml."""
    rows = [
        [item["about"], item["paper"], item["here"]]
        for item in yaml.safe_load((CONF / "differences.yaml").read_text())
    ]
    return (
        "\n\n".join(
            [
                "# Where this reproduction differs from the paper",
                "Made from `conf/differences.yaml`, which a test compares with the paper profile's configurations.",
                _table(["what", "the paper", "here"], rows),
            ]
        )
        + "\n"
    )


def _section(kind: type, place: str) -> Iterator[str]:
    yield f"### {kind.__name__}"
    summary, described = _docstring(kind)
    yield f"{place}. {summary}"
    rows = [
        [f"`{item.name}`", described[item.name], f"`{_type(item)}`", _allowed(item), _default(item)]
        for item in fields(kind)
    ]
    yield _table(["key", "what it is", "type", "value", "if left out"], rows)


def _docstring(kind: type) -> tuple[str, dict[str, str]]:
    """Returns a dataclass's own words, and those on its attributes."""
    words, described = [], {}
    for section in griffe.parse_google(griffe.Docstring(kind.__doc__ or ""), warnings=False):
        if section.kind is griffe.DocstringSectionKind.text:
            words.append(section.value)
        elif section.kind is griffe.DocstringSectionKind.attributes:
            described = {item.name: " ".join(item.description.split()) for item in section.value}
    return "\n\n".join(words), described


def _type(item: Field[Any]) -> str:
    name = item.type.__name__ if type(item.type) is type else str(item.type)
    return re.sub(r"typing\.|pipeline\.config\.\w+\.", "", name)


def _allowed(item: Field[Any]) -> str:
    return item.metadata["check"][1].removeprefix("must be ") if "check" in item.metadata else ""


def _default(item: Field[Any]) -> str:
    if item.default_factory is not MISSING:
        return "empty"
    return {MISSING: "", None: "`null`"}.get(item.default, f"`{item.default}`")


def _groups() -> list[str]:
    return sorted(str(folder.relative_to(CONF)) for folder in CONF.rglob("*") if any(folder.glob("*.yaml")))


def _paths(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"))


def _names(group: str) -> list[str]:
    return [path.stem for path in _paths(group)]


def _files(group: str) -> Iterator[str]:
    yield f"### conf/{group}/"
    rows = []
    for path in _paths(group):
        text = path.read_text()
        content = yaml.safe_load(text) or {}
        comment = re.match(r"(?:# @package.*\n)?# (?!@)(.+)", text)
        words = [content.get("title") or content.get("label"), comment and comment[1]]
        rows.append([f"`{path.stem}`", content.get("kind", ""), ". ".join(filter(None, words))])
    yield _table(["file", "kind", ""], rows)


def _learning_rates() -> list[list[str]]:
    rates = {method: compose_hydra([f"method={method}"]).method.lr for method in _names("method")}
    rows = [
        [model, *(spell(lr[model]) if model in lr else "" for lr in rates.values())]
        for model in _names("model")
    ]
    return rows


def _table(headings: list[str], rows: list[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)  # a bar in code font needs no escape there


def _source(path: Path) -> str:
    return f"```yaml\n{path.read_text().strip()}\n```"


def _recomputed(ladder: dict[str, Any]) -> list[list[str]]:
    """The rows of kinds of recomputation, with the families that have each."""
    from lorafa.options import Recompute
    from lorafa.recompute import available

    have = [available(ladder["built"](family)) for family in ladder["MODELS"]]
    return [
        [f"`{kind}`", *("yes" if kind in kinds else "–" for kinds in have)] for kind in get_args(Recompute)
    ]


def models() -> str:
    """Returns docs/models.md: which modules and models LoRA-FA adapts, from its dispatch and the tests' table."""
    from lorafa.dispatch import KEPT
    from lorafa.refusals import REASONS

    table = runpy.run_path(str(ROOT / "tests/lorafa/architectures.py"))["ARCHITECTURES"]
    ladder = runpy.run_path(str(ROOT / "tests/lorafa/ladder.py"))
    rows = [
        [
            model.family,
            model.name,
            f"`{model.model}`",
            f'`"{model.targets}"`'
            if isinstance(model.targets, str)
            else ", ".join(f"`{target}`" for target in model.targets),
            model.note,
        ]
        for model in table
    ]
    parts = [
        "# What can be adapted",
        "Made by `python docs/generated.py models` from `lorafa/dispatch.py` and `tests/lorafa/architectures.py`.",
        "## Modules",
        "Whatever PEFT's LoRA adapts. The output and the gradients are those of PEFT's LoRA with A frozen, and plain "
        "PEFT loads what is saved; what backward keeps is less:",
        _table(["module", "kept for backward"], [[f"`{name}`", kept] for name, kept in KEPT.items()]),
        "## Models",
        "Each of these is held against PEFT's LoRA with A frozen by `tests/lorafa/test_architectures.py`, small, with "
        "random weights and in float32. Others of their families work alike; `lorafa.audit` says of any model what "
        "trains and what is kept.",
        _table(["family", "architecture", "class", "adapted", ""], rows),
        "## Mixtures of experts",
        '`target_modules="all-linear"` adapts the experts that transformers keeps in one parameter for a layer. PEFT '
        "has no dropout for parameters: with `lora_dropout` they are left out, and a warning names them. PEFT takes "
        "the names `gate_proj`, `up_proj` and `down_proj` for such experts (of twice the rank, where two are one "
        "parameter) and then adapts no linear layer of these names: a warning names those.",
        "The experts' inputs are kept nowhere if the model multiplies by one expert's matrix after another "
        "(`eager`) or by all at once (`grouped_mm`, `bmm`). An operation that the library does not know, "
        "`batched_mm`'s among them, has the sum of the weight and its adapter, and keeps what it keeps under PEFT.",
        "## What can be recomputed",
        "The kinds of `recompute` that a family has ([the ladder](lorafa.md#the-ladder) says what each is); any other "
        "is refused by name. `tests/lorafa/test_ladder.py` holds the gradients of each against autograd's, on the "
        "models of `tests/lorafa/ladder.py`.",
        _table(["kind", *ladder["MODELS"]], _recomputed(ladder)),
        "## What is refused",
        _table(["option", "why"], [[f"`{option}`", reason] for option, reason in REASONS.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def rules() -> dict[str, set[str]]:
    """Returns the rules of the DAG, each with those that it follows, as `snakemake --rulegraph` has them.

    Where nothing has been made yet: the results are put into a folder that does not exist.
    """
    overrides = f"overrides=profile.results=build/none profile.experiments=[{GRAPH_OF}]"
    command = [sys.executable, "-m", "snakemake", "--rulegraph", "dot", "--config", overrides]
    dot = subprocess.run(  # noqa: S603 - our own command
        [*command, "--", "tables", "figures"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    names = dict(re.findall(r'(\d+)\[label = "(\w+)"', dot))
    found: dict[str, set[str]] = {name: set() for name in sorted(names.values())}
    for before, after in re.findall(r"(\d+) -> (\d+)", dot):
        if before != after:  # repositories that are made of others
            found[names[after]].add(names[before])
    return found


def graph(follows: dict[str, set[str]]) -> str:
    """Draws rules as SVG, from left to right: a rule is left of all that follow it, as near as can be.

    An arrow over several columns has a place of its own in each of those between, or it would go through a box.
    """
    precedes = {name: {other for other in follows if name in follows[other]} for name in follows}
    after: dict[str, int] = {}
    for name in TopologicalSorter(precedes).static_order():
        after[name] = max((after[other] + 1 for other in precedes[name]), default=0)
    column = {name: max(after.values()) - steps for name, steps in after.items()}
    arrows = []
    columns: list[dict[str, list[str]]] = [
        {} for _ in range(max(after.values()) + 1)
    ]  # place to what is left of it
    for name, others in follows.items():
        columns[column[name]].setdefault(name, [])
        for other in sorted(others):
            between = [f"{other} → {name}, {at}" for at in range(column[other] + 1, column[name])]
            arrows.append([other, *between, name])
            for at, (left, place) in enumerate(pairwise(arrows[-1]), column[other] + 1):
                columns[at].setdefault(place, []).append(left)

    width, height, across, down = 96, 30, 150, 44
    middle = (max(map(len, columns)) - 1) / 2
    y: dict[str, float] = {}
    for places in columns:
        ordered = sorted(places, key=lambda place: (fmean([y[left] for left in places[place]] or [0]), place))
        for row, place in enumerate(ordered):
            y[place] = (middle + row - (len(places) - 1) / 2) * down + height / 2 + 4
    x = {place: at * across + 4 for at, places in enumerate(columns) for place in places}

    size = (len(columns) - 1) * across + width + 8, 2 * middle * down + height + 8
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]:g} {size[1]:g}" width="{size[0]:g}" '
        'font-family="sans-serif" font-size="13" text-anchor="middle">',
        "<title>The rules of the DAG</title>",
        '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#888"/></marker>',
    ]
    for arrow in arrows:
        path = f"M{x[arrow[0]] + width} {y[arrow[0]]:g}"
        for left, place in pairwise(arrow):
            half = (x[left] + width + x[place]) / 2
            path += f" C{half:g} {y[left]:g} {half:g} {y[place]:g} {x[place]} {y[place]:g}"
            path += f" H{x[place] + width}" if place != arrow[-1] else ""
        lines.append(
            f'<path d="{path}" fill="none" stroke="#888" stroke-width="1.5" marker-end="url(#tip)"/>'
        )
    for name in follows:
        lines.append(
            f'<rect x="{x[name]}" y="{y[name] - height / 2:g}" width="{width}" height="{height}" rx="6" '
            f'fill="#eef3fb" stroke="#3f6fb5"/>'
            f'<text x="{x[name] + width / 2:g}" y="{y[name] + 4.5:g}">{name}</text>'
        )
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    pages = {
        "configuration": configuration,
        "differences": differences,
        "graph": lambda: graph(rules()),
        "models": models,
    }
    sys.stdout.write(pages[sys.argv[1]]())
