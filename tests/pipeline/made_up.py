"""Records of runs that never happened, with the fields that tables and figures read."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.config.plan import Plan, PlannedRun
from pipeline.config.planner import make_plan
from pipeline.results import records


def plan_of(folder: Path, *experiments: str, overrides: tuple[str, ...] = ()) -> Plan:
    """Returns the mini profile's plan with its results in a folder, of these experiments alone if any are named.

    What is composed is the plan as it is, which is kept from one test to the next.
    """
    chosen = [f"profile.experiments=[{','.join(experiments)}]"] if overrides else []
    plan = make_plan("mini", [*chosen, *overrides])
    names = experiments or tuple(plan.experiments)
    plan = replace(
        plan,
        experiments={name: value for name, value in plan.experiments.items() if name in names},
        grids={name: runs for name, runs in plan.grids.items() if name in names},
    )
    text = json.dumps(asdict(plan)).replace(f'"{plan.profile.results}', f'"{folder}')
    return Plan.from_json(json.loads(text))


def searched(*rates: str) -> str:
    """Returns the override with which the search tries these learning rates for each method."""
    grid = ",".join(
        f"{method}:[{','.join(rates)}]" for method in ("full-ft", "prompt-tuning", "lora", "lora-fa")
    )
    return f"profile.grids.lr={{{grid}}}"


BASELINES = {"mrpc": {"majority": 0.516}}
MACHINE = records.Machine(platform="Linux", python="3.11", processor="x86_64", cores=2)


def planned(
    results: str | Path,
    model: str,
    method: str,
    task: str,
    seed: int,
    *overrides: str,
    **numbers: float | None,
) -> PlannedRun:
    """Returns a run that no experiment has, with its `rank` and `lr`."""
    names = {"model": {"name": model, "repository": "some/model"}, "method": {"name": method}}
    data = {"name": task, "repository": "some/data", "subset": task, "metric": "accuracy"}
    identity = {**names, "task": data, "seed": seed, "rank": None, "lr": None, **numbers}
    return PlannedRun(identity, {"benchmark": None}, list(overrides), {}, str(results))


def write(
    run: PlannedRun,
    score: float | None,
    status: str = "done",
    baselines: dict[str, dict] = BASELINES,
    stand_in: str | None = "recast sentences",
    config: dict | None = None,
    **info,
) -> None:
    """Writes the record of a planned run with a best score, as a fraction, and more of its `TrainInfo`."""
    best = None if score is None else records.Score(40, 1.0, score)
    trained = {
        "status": status,
        "metric": run.identity["task"]["metric"],
        "evaluations": [] if best is None else [best],
        "best": best,
        "last": best,
        "steps": 40,
        "trainable_parameters": 314_498,
        "step_memory_bytes": 100 * 2**20,
        "wall_time_seconds": 10.0,
        **info,
    }
    about = {"stand_in": stand_in, "baselines": baselines}
    record = records.Record(
        records.RunInfo(
            config or _config(run),
            run.config_hash,
            git_commit="0123456789abcdef",
            git_dirty=False,
            command=" ".join(["python -m pipeline.train", *run.overrides]),
        ),
        records.TrainInfo(**trained),
        records.MetaInfo(
            {"torch": "2.13.0"},
            MACHINE,
            model=records.Material("some/model", commit="abc"),
            data=records.Material("some/data", version="1", about=about),
        ),
    )
    records.write(run.directory, record)


def write_evaluation(
    run: PlannedRun, status: str = "done", config: dict | None = None, **scores: float
) -> None:
    """Writes the evaluation of a planned run with these scores, as fractions."""
    evaluation = records.EvaluationRecord(
        records.RunInfo(
            config or _config(run), run.evaluation_hash, git_commit=None, git_dirty=False, command=""
        ),
        records.Evaluation(status=status, scores=scores, wall_time_seconds=2.0),
        records.MetaInfo(),
    )
    records.write(run.directory, evaluation)


def _config(run: PlannedRun) -> dict:
    return {
        "model": {"name": run.model, "frozen_dtype": "float32"},
        "method": {"name": run.method},
        "task": {"name": run.task, "kind": "classification", "subset": run.task},
        **{"rank": run.rank, "lr": run.lr, "seed": run.seed},
    }
