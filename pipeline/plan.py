"""Says what a target will cost before any of it is run.

  python -m pipeline.plan profile=paper                                  every experiment, one line each
  python -m pipeline.plan tables profile=paper --gpu rtx-4090            those that are tables, on another GPU
  python -m pipeline.plan table2 profile=paper --gpu a100-80gb --price-per-hour 1.80
  python -m pipeline.plan profile=paper --json                           the same for programs, with a line for each run

Operations are those of matrix products and attention, counted by PyTorch on the real models without weights; hours are
operations over a share of the GPU's peak (--utilisation). Memory is the estimate of lorafa.memory for the longest batch
that there may be. Nothing is trained or downloaded, and no GPU is needed. What is done already is counted, too:
`python -m pipeline.status` says what that is, and from finished runs how long the rest really takes.
"""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from lorafa.memory.margin import MARGIN, WITHIN
from lorafa.memory.sizes import GIB
from pipeline import status
from pipeline.cli import command_line, job
from pipeline.config.planner import plan_of_arguments
from pipeline.costs import cards
from pipeline.costs.cost import UTILISATION
from pipeline.costs.downloads import Download
from pipeline.costs.sizes import ON_DISK, PUBLISHED
from pipeline.costs.survey import Line, Misfit, Survey
from pipeline.errors import ConfigError

GB = 10**9
WIDTH = 160  # where there is no terminal
DOES_NOT_FIT = "*"


def experiments_table(survey: Survey, target: str | None, price: float | None) -> Table:
    """Lays the experiments out, one line each."""
    hours = [f"h on {gpu.name}" for gpu in survey.gpus]
    costs = ["cost"] if price is not None else []
    columns = ("runs", "steps", "EFLOP", *hours, *costs, "peak GiB", "safe GiB", "keeps GB")
    view = status.experiments_table(survey.plan, target, "experiment", columns)

    def add(name: str, line: Line, style: str | None = None) -> None:
        spent = [
            f"{line.seconds[gpu.name] / 3600:,.1f}{DOES_NOT_FIT * (line.safe_bytes > gpu.memory)}"
            for gpu in survey.gpus
        ]
        cost = [] if price is None else [f"{price * line.seconds[survey.gpus[0].name] / 3600:,.2f}"]
        view.add_row(
            name,
            f"{line.runs:,}",
            f"{line.steps:,}",
            f"{line.flops / 1e18:,.2f}",
            *spent,
            *cost,
            f"{line.device_bytes / GIB:.1f}",
            f"{line.safe_bytes / GIB:.1f}",
            f"{line.disk_bytes / GB:,.2f}",
            style=style,
        )

    for name, runs in survey.experiments.items():
        add(name, survey.line(runs))
    view.add_section()
    add(status.TOTAL, survey.line(survey.runs), "bold")
    return view


def downloads_table(downloads: list[Download]) -> Table:
    """Lays the repositories out, those to download and those that are here."""
    view = Table("repository", "GB", "size", title="Repositories", box=box.SIMPLE_HEAD)
    view.columns[1].justify = "right"
    for found in downloads:
        size = "unknown" if found.size is None else f"{found.size / GB:,.3f}"
        view.add_row(
            found.repository, f"{'more than ' * found.at_least}{size}", found.source if found.size else ""
        )
    return view


def misfits_table(survey: Survey) -> Table | None:
    """Lays out what will not fit, and what would; None where all fits."""
    misfits = survey.misfits()
    if not misfits:
        return None
    headings = (
        "GPU",
        "model",
        "method",
        "batch × tokens",
        "runs",
        "needs GiB",
        "safe GiB",
        "has GiB",
        "fits with",
    )
    view = Table(*headings, title="What will not fit", box=box.SIMPLE_HEAD)
    for one in misfits:
        gpu = cards.GPUS[one.gpu]
        larger = [other.name for other in cards.GPUS.values() if other.memory >= one.safe_bytes]
        settings = [f"{setting} ({size / GIB:.1f} GiB)" for setting, size in one.remedies]
        settings += [f"--gpu {larger[0]}"] if larger else []
        view.add_row(
            one.gpu,
            one.model,
            one.method,
            f"{one.batch_size} × {one.length}",
            str(one.runs),
            f"{one.device_bytes / GIB:.1f}",
            f"{one.safe_bytes / GIB:.1f}",
            f"{gpu.memory / GIB:.1f}",
            " or ".join(settings) or "no setting of this pipeline",
        )
    return view


def fits(survey: Survey) -> Iterator[str]:
    """Yields, for each GPU, how many of the plan's steps fit it, and with what."""
    misfits = survey.misfits()
    for gpu in survey.gpus:
        ways = Counter(_way(one) for one in misfits if one.gpu == gpu.name)
        parts = [
            f"{len(survey.steps) - ways.total()} fit as they are",
            *(f"{n} {way}" for way, n in ways.items()),
        ]
        yield (
            f"Of {len(survey.steps)} steps (each a model, method, batch size and length), on {gpu.name}: "
            f"{', '.join(parts)}."
        )


def _way(misfit: Misfit) -> str:
    """Returns by what runs fit that leaves their losses as they are."""
    settings = [setting for setting, _ in misfit.remedies]
    if any(setting.startswith("budget.micro_batch") for setting in settings):
        return "with a micro-batch"
    if any(setting.startswith("trainer=fsdp") for setting in settings):
        return "on several GPUs alone"
    return "not with these losses"


def notes(survey: Survey, downloads: list[Download], jobs: int) -> Iterator[str]:
    """Yields what the numbers rest on."""
    total = survey.line(survey.runs)
    precisions = sorted({one.cost.precision for one in survey.runs})
    yield (
        f"Hours are operations over {survey.utilisation:g} of the GPU's dense peak in the precision of the run "
        f"({', '.join(precisions)}; float32 is without TF32 unless `trainer.tf32` is set). Texts are taken to be as "
        "long as they are cut at: what is shorter costs less."
    )
    yield (
        f"Memory is estimated; safe is {100 * MARGIN:g} % more of what PyTorch reserves, {WITHIN} "
        "(docs/memory.md). What is not safe counts as not fitting."
    )
    if jobs > 1:
        walls = ", ".join(
            f"{total.seconds[gpu.name] / 3600 / jobs:,.1f} h on {gpu.name}" for gpu in survey.gpus
        )
        yield f"{jobs} runs at a time: {walls}."
    yield (
        f"Disk: {total.disk_bytes / GB:,.1f} GB are kept, and up to {jobs * total.checkpoint_bytes / GB:,.1f} GB of "
        f"checkpoints with {jobs} run{'s' * (jobs > 1)} at a time. Host memory: up to "
        f"{total.host_bytes / GIB:.0f} GiB a run."
    )
    wanted = [found for found in downloads if found.to_do]
    known = sum(found.size or 0 for found in wanted)
    unknown = sum(found.size is None for found in wanted)
    yield f"Downloads: {known / GB:,.1f} GB of known size" + (
        f", and {unknown} repositories of unknown size." * bool(unknown) or "."
    )
    sources = {source for one in survey.runs for source in one.cost.sources}
    words = {PUBLISHED: "published (pipeline/costs/published.yaml)", ON_DISK: "counted on this machine"}
    yield f"Sizes of the data: {' and '.join(words[source] for source in sorted(sources))}."
    searches = sorted({search for name in survey.experiments for search in survey.plan.searches_of(name)})
    if searches:
        yield (
            f"Runs that wait for {', '.join(searches)} stand here with the learning rate of conf/method: a search's "
            "choice may turn out to be one of its own runs, which is then not made again."
        )
    yield from status.open_choices(survey.plan, survey.experiments)
    yield "A run that several experiments share is in each one's line, and once in the sum."
    if survey.without_runs:
        yield f"Without runs, and estimated within minutes on a CPU: {', '.join(survey.without_runs)}."
    if not survey.plan.profile.gpus:
        yield f"Profile {survey.plan.profile.name} computes on the CPU, where `python -m pipeline.status` knows more."


def comparison_table(survey: Survey, shorter: Survey) -> Table:
    """Lays a profile and its shorter way out side by side: runs and hours of each experiment."""
    ways = (survey, shorter)
    names = [way.plan.profile.name for way in ways]
    headings = [
        f"{what}, {name}" for what in ("runs", *(f"h on {gpu.name}" for gpu in survey.gpus)) for name in names
    ]
    title = f"Two ways, profile={' and profile='.join(names)} (docs/paper-profile.md)"
    view = Table("experiment", *headings, title=title, box=box.SIMPLE_HEAD)
    for column in view.columns[1:]:
        column.justify = "right"

    def add(name: str, lines: list[Line], style: str | None = None) -> None:
        numbers = [f"{line.runs:,}" for line in lines]
        for gpu in survey.gpus:
            numbers += [f"{line.seconds[gpu.name] / 3600:,.1f}" for line in lines]
        view.add_row(name, *numbers, style=style)

    for name in survey.experiments:
        add(name, [way.line(way.experiments[name]) for way in ways])
    view.add_section()
    add(status.TOTAL, [way.line(way.runs) for way in ways], "bold")
    return view


def facts(survey: Survey, target: str | None, price: float | None, jobs: int) -> dict[str, Any]:
    """Returns what the tables show and every run, as plain data; bytes, seconds and operations are numbers."""
    total = survey.line(survey.runs)

    def described(line: Line) -> dict[str, Any]:
        cost = None if price is None else price * line.seconds[survey.gpus[0].name] / 3600
        return {**asdict(line), "cost": cost}

    return {
        "profile": survey.plan.profile.name,
        "target": target,
        "utilisation": survey.utilisation,
        "gpus": {gpu.name: asdict(gpu) for gpu in survey.gpus},
        "total": described(total),
        "wall_seconds": {name: seconds / jobs for name, seconds in total.seconds.items()},
        "experiments": {name: described(survey.line(runs)) for name, runs in survey.experiments.items()},
        "without_runs": survey.without_runs,
        "will_not_fit": [asdict(one) for one in survey.misfits()],
        "downloads": [asdict(found) for found in survey.downloads()],
        "runs": [
            {
                "directory": one.run.directory,
                "scored": one.scored,
                **{**asdict(one.cost), "sources": sorted(one.cost.sources)},
                "seconds": {gpu.name: one.seconds(gpu, survey.utilisation) for gpu in survey.gpus},
            }
            for one in survey.runs
        ],
    }


def _chosen_gpus(names: str | None, price: float | None) -> list[cards.Gpu]:
    if names is None:
        chosen = list(cards.DEFAULT if price is None else cards.DEFAULT[:1])
    else:
        chosen = list(cards.GPUS) if names == "all" else names.split(",")
    if price is not None and len(chosen) > 1:
        raise ConfigError(f"--price-per-hour is that of one GPU: give one --gpu, not {', '.join(chosen)}")
    return [cards.gpu(name) for name in dict.fromkeys(chosen)]


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.plan", __doc__)
    parser.add_argument(
        "--gpu",
        metavar="NAME[,NAME]",
        help=f"or all; of {', '.join(cards.GPUS)} (default: {','.join(cards.DEFAULT)})",
    )
    parser.add_argument(
        "--utilisation",
        type=float,
        default=UTILISATION,
        help="share of the peak that runs reach (default: %(default)s)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=os.cpu_count(),
        help="how many share the estimating (default: %(default)s)",
    )
    arguments, target, overrides = status.command_line_of(parser)
    price, jobs = arguments.price_per_hour, arguments.jobs
    gpus = _chosen_gpus(arguments.gpu, price)
    if not 0 < arguments.utilisation <= 1:
        raise ConfigError(f"--utilisation must be above 0 and at most 1, not {arguments.utilisation:g}")
    if arguments.processes < 1:
        raise ConfigError(f"--processes must be at least 1, not {arguments.processes}")
    plan = plan_of_arguments(overrides)
    survey = Survey(plan, target, gpus, arguments.utilisation, arguments.processes)
    if not survey.runs:
        raise ConfigError(f"{target} has no runs: its numbers are estimated on a CPU within minutes")
    if arguments.json:
        print(json.dumps(facts(survey, target, price, jobs), indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    downloads, misfits = survey.downloads(), misfits_table(survey)
    console.print(experiments_table(survey, target, price))
    console.print(downloads_table(downloads))
    if misfits is not None:
        console.print(misfits)
    for note in (*fits(survey), *notes(survey, downloads, jobs)):
        console.print(note)
    if plan.profile.shorter is not None:
        others = [word for word in overrides if not word.startswith("profile=")]
        shorter = plan_of_arguments([f"profile={plan.profile.shorter}", *others])
        console.print(
            comparison_table(survey, Survey(shorter, target, gpus, survey.utilisation, survey.processes))
        )


if __name__ == "__main__":
    main()
