"""Figures 4 and 6 and the Pareto front, from made-up records with known answers."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure

from pipeline import files
from pipeline.config.plan import Plan
from pipeline.figures import convergence, interactive, memory, pareto, sensitivity
from pipeline.figures.__main__ import FORMATS, STYLE, draw
from pipeline.results import records
from tests.pipeline import browser, made_up

STEPS = range(4, 41, 4)


def curves(run) -> dict:
    """A loss that falls and a score that rises, in known time: half a second a step for LoRA, one for the others."""
    pace = 0.5 if run.method == "lora" else 1.0
    return {
        "losses": [records.Loss(step, 1 / step + 0.1 * run.seed) for step in STEPS],
        "evaluations": [records.Score(step, 1.0, step / 50 + 0.02 * run.seed) for step in STEPS],
        "training_seconds": [records.Seconds(step, pace * step) for step in STEPS],
    }


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    plan = made_up.plan_of(tmp_path_factory.mktemp("results"), "figure4", "figure6", "pareto")
    for run in plan.runs_of("figure4"):
        made_up.write(run, 0.8 + 0.02 * run.seed, **curves(run))
    for run in plan.runs_of("figure6"):
        diverged = run.lr >= 8e-3 and run.rank >= 32
        score = None if diverged else 0.5 + 0.01 * run.rank**0.5
        memory = (100 if run.method == "lora" else 60) * 2**20 + 1000 * run.rank
        made_up.write(run, score, "diverged" if diverged else "done", step_memory_bytes=memory)
    return plan


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.integration
@pytest.mark.parametrize("name", ["figure4", "figure6", "pareto"])
def test_every_format_is_written_the_same_again(plan, name, tmp_path):
    files = draw(plan, name, tmp_path / "one")
    assert [file.suffix[1:] for file in files] == list(FORMATS) == ["svg", "pdf", "png", "html", "csv"]
    again = draw(plan, name, tmp_path / "two")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]
    assert len(pd.read_csv(files[-1])) > 10


def test_heat_maps_share_a_scale_and_cross_out_what_diverged(plan):
    grid = plan.experiments["figure6"].axes
    figure = sensitivity.draw(plan, "figure6")
    panels = figure.axes[:2]
    assert [axes.get_title() for axes in panels] == ["LoRA", "LoRA-FA"]
    assert len({axes.images[0].get_clim() for axes in panels}) == 1
    large = sum(rank >= 32 for rank in grid["rank"])
    for axes in panels:
        assert axes.get_xlabel() == "Learning rate η"
        assert len(axes.lines) == large, "one cross a diverged cell"
        assert len(axes.texts) == len(grid["rank"]) * len(grid["lr"]) - large
        assert "51.0" in {text.get_text() for text in axes.texts}
    ranks = [label.get_text() for label in panels[0].get_yticklabels()]
    assert ranks == [str(rank) for rank in grid["rank"]]
    assert (
        panels[0].get_ylabel() == "Rank r"
        and figure.axes[2].get_ylabel() == "Accuracy, %\n(majority class: 51.6)"
    )


def test_curves_are_means_against_steps_and_time(plan):
    figure = convergence.draw(plan, "figure4")
    assert len(figure.axes) == 2 * 2 * 2  # tasks, loss and score, steps and time
    assert [axes.get_xlabel() for axes in figure.axes[:2]] == ["Optimizer steps", "Training time, s"]
    by_step, by_time = figure.axes[2:4]
    assert by_step.get_ylabel() == "Matthews corr., %"
    for axes in figure.axes:
        assert len(axes.lines) == len(axes.collections) == 3
    lines = {line.get_label(): line for line in by_time.lines}
    assert list(lines["LoRA"].get_xdata()) == [0.5 * step for step in STEPS]
    assert list(lines["LoRA-FA"].get_xdata()) == list(STEPS)
    seeds = plan.profile.seeds
    expected = [100 * (step / 50 + 0.02 * sum(seeds) / len(seeds)) for step in STEPS]
    assert list(lines["LoRA"].get_ydata()) == pytest.approx(expected)
    (band,) = by_time.collections[1].get_paths()
    assert band.vertices[:, 1].max() == pytest.approx(100 * (40 / 50 + 0.02 * max(seeds)))


def test_the_front_is_what_nothing_beats():
    settings = pd.DataFrame(
        {"memory_mib": [10, 20, 20, 30, 40, 5], "score": [70, 80, 75, 80, 90, 60], "metric": "accuracy"}
    )
    assert list(pareto.on_front(settings).sort_index()) == [True, True, False, False, True, True]
    losses = settings.assign(score=-settings.score, metric="loss")
    assert list(pareto.on_front(losses).sort_index()) == [True, True, False, False, True, True]


def test_the_pareto_figure_has_every_finished_run_but_those_made_by_hand(plan):
    by_hand = "model=minilm/method=lora/task=mrpc/rank=3/lr=1e-3"
    record = records.read(plan.runs_of("figure6")[0].directory)
    for seed in (0, 1):
        records.write(Path(plan.runs_folder, by_hand, f"seed={seed}"), record)
    found = pareto.numbers(plan, "pareto")
    finished = {
        run.directory.removeprefix(f"{plan.runs_folder}/").rpartition("/")[0]
        for run in plan.runs_of("figure6")
        if not (run.lr >= 8e-3 and run.rank >= 32)
    }
    of_task = found[found.task == "mrpc"]
    assert set(of_task.setting) == finished
    assert set(of_task[of_task.front].method) == {"lora-fa"}
    (panel,) = (axes for axes in pareto.draw(plan, "pareto").axes if axes.get_title() == "MRPC")
    assert panel.get_xlabel() == "Memory of a step, MiB"
    assert [line.get_label() for line in panel.lines] == ["Front", "LoRA", "LoRA-FA"]


@pytest.mark.parametrize(
    ("memory", "expected"),
    [([60.0, 100.0], ["50", "100", "200"]), ([90.0, 600.0], ["100", "200", "500"]), ([13.0], ["10", "20"])],
)
def test_ticks_of_memory_are_round_and_never_one_alone(memory, expected):
    axes = plt.subplots()[1]
    pareto._log_scale(axes, pd.Series(memory))
    assert [label.get_text() for label in axes.get_xticklabels()] == expected


def test_a_search_on_held_out_examples_is_no_point(tmp_path):
    plan = made_up.plan_of(tmp_path, "search", "pareto")
    for run in plan.runs_of("search"):
        made_up.write(run, 0.8)
    assert pareto.numbers(plan, "pareto").empty


def test_without_a_finished_run_there_is_an_empty_figure(tmp_path):
    empty = made_up.plan_of(tmp_path, "figure6", "pareto")
    assert pareto.numbers(empty, "pareto").empty
    assert pareto.draw(empty, "pareto").axes


@pytest.fixture
def estimated(tmp_path) -> Plan:
    """A plan with estimates of Figure 5: 30 and 60 GiB."""
    plan = made_up.plan_of(tmp_path, "figure5")
    recipe = {"model": "llama-7b", "rank": 64}
    rows = [
        {"reading": reading, "cell": f"method=lora batch_size={size}", "device_bytes": 30 * size * 2**30,
         "allocated_bytes": 0, "saved_bytes": 0, "recipe": json.dumps({**recipe, "source_length": length})}
        for reading, length in (("nominal", 1024), ("fitted", 384)) for size in (1, 2)
    ]  # fmt: skip
    files.write_text(Path(plan.memory_file("figure5")), pd.DataFrame(rows).to_csv(index=False))
    return plan


def test_memory_is_drawn_with_its_setting_and_the_cards_in_sight(estimated):
    (axes,) = memory.draw_lines(estimated, "figure5").axes
    assert axes.get_title().endswith("llama-7b, rank 64, length 384")
    assert [text.get_text() for text in axes.texts] == ["24 GiB", "40 GiB"]


# The page of a figure.


def page_of(drawer: Callable[[Plan, str], Figure], plan: Plan, name: str) -> str:
    svg = io.StringIO()
    with plt.style.context(str(STYLE)):
        figure = drawer(plan, name)
        interactive.name_panels(figure)
        figure.savefig(svg, format="svg", bbox_inches="tight")
    return interactive.page("A <figure>", figure, svg.getvalue())


def lines_of(page: str) -> list[dict]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return [line for line in json.loads(text) if line["points"]]


def corners(page: str, element: str) -> tuple[tuple[float, float], ...]:
    """The corners of the first path that an element of the SVG draws, from the left and the top."""
    path = re.search(rf'<g id="{element}">.*?<path d="([^"]+)"', page, re.DOTALL)[1]
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path)]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def test_a_point_of_the_page_is_where_the_svg_has_it(estimated):
    page = page_of(memory.draw_lines, estimated, "figure5")  # on a logarithmic scale
    (line,) = lines_of(page)
    left, right = (f(x for x, _ in corners(page, "panel-0")) for f in (min, max))
    top, bottom = (f(y for _, y in corners(page, "panel-0")) for f in (min, max))
    paths = {corners(page, element) for element in re.findall(r'<g id="(line2d_\d+)">', page)}
    (drawn,) = (  # neither a grid line, which begins at the left, nor in the legend
        path for path in paths if all(left < x <= right and top <= y <= bottom for x, y in path)
    )
    placed = [(left + x * (right - left), top + y * (bottom - top)) for x, y, _ in line["points"]]
    assert placed == [pytest.approx(point, abs=0.1) for point in drawn]


def test_a_point_says_its_line_its_value_and_its_place(plan, estimated):
    (line,) = lines_of(page_of(memory.draw_lines, estimated, "figure5"))
    assert [words for *_, words in line["points"]] == ["LoRA: 30 at Batch size 1", "LoRA: 60 at Batch size 2"]
    crosses = lines_of(page_of(sensitivity.draw, plan, "figure6"))
    assert crosses[0]["points"][0][2] == "LoRA, diverged: 32 at Learning rate η 0.01"


@pytest.mark.integration
def test_the_arrow_keys_walk_along_a_line(estimated, tmp_path):
    press = """<script>
        const press = key => figure.dispatchEvent(new KeyboardEvent("keydown", {key}));
        const heard = [1, 2].map(_ => (press("ArrowRight"), said.textContent));
        document.body.textContent = `heard: ${heard.join(", ")}; ring: ${ring.hidden}`;
    </script>"""
    file = tmp_path / "figure.html"
    file.write_text(page_of(memory.draw_lines, estimated, "figure5") + press)
    assert "heard: LoRA: 30 at Batch size 1, LoRA: 60 at Batch size 2; ring: false" in browser.show(file)
