"""A mirror small enough to train on in a second, and what tests do with it."""

from pathlib import Path

import pytest

from pipeline import files
from pipeline.config.compose import compose_run
from pipeline.config.plan import Plan
from pipeline.config.schema import RunConfig
from tests.pipeline import made_up, tiny


@pytest.fixture(scope="session")
def tiny_mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mirror with a two-layer model of each kind and a little of each data set, under the mini profile's ids."""
    root = tmp_path_factory.mktemp("mirror")
    models, datasets = root / "models", root / "datasets"
    tiny.write_encoder(models / "lorafa/all-MiniLM-L6-v2-roberta")
    tiny.write_encoder_decoder(models / "lorafa/t5-mini-en-ro")
    tiny.write_decoder(models / "HuggingFaceTB/SmolLM2-135M-Instruct")
    tiny.write_glue(datasets / "nyu-mll/glue")
    tiny.write_translation(datasets / "wmt/wmt16")
    tiny.write_alpaca(datasets / "tatsu-lab/alpaca")
    tiny.write_flan(datasets / "SirNeural/flan_v2")
    tiny.write_mmlu(datasets / "cais/mmlu")
    run, _ = compose_run(["model=smollm2-135m", "task=natural-instructions"])
    assert run.task.instructions is not None
    settings = run.task.instructions
    tiny.write_natural_instructions(
        datasets / run.task.repository, [*settings.train_tasks, *settings.heldout_tasks]
    )
    return root


@pytest.fixture(scope="session")
def tiny_overrides(tiny_mirror: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that make any run of the mini profile a matter of a second."""
    cache = tmp_path_factory.mktemp("cache")
    return [
        f"profile.mirror={tiny_mirror}",
        "profile.build_mirror=null",
        f"profile.cache={cache}",
        "budget.max_steps=6",
        "budget.batch_size=8",
        "profile.budgets.minilm.evaluations=2",  # so that there are checkpoints
    ]


@pytest.fixture(scope="session")
def results_plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The mini profile's plan with results in a temporary folder, and the search for Table 2 finished."""
    plan = made_up.plan_of(tmp_path_factory.mktemp("results"))
    winners = {run.method: {"lr": 1e-3} for run in plan.grids["search"]}
    files.write_json(Path(plan.selection("search")), {"winners": {"minilm": winners}})
    return plan


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where a file's tests keep the plans that they compose, for LORAFA_CACHE."""
    return str(tmp_path_factory.mktemp("plans"))


@pytest.fixture(scope="session")
def compose_tiny(tiny_overrides: list[str]):
    """Composes a run of the tiny mirror."""

    def run(*overrides: str) -> RunConfig:
        return compose_run([*tiny_overrides, *overrides])[0]

    return run


@pytest.fixture
def compose(compose_tiny):
    """The same, for a single test."""
    return compose_tiny
