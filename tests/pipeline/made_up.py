"""Records of runs that never happened, with the fields that tables and figures read."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from pipeline import files
from pipeline.config.plan import Plan
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


def write(
    run, score: float | None, status: str = "done", baselines: dict[str, dict] = BASELINES, **info
) -> None:
    """Writes the record of a planned run with a best score, as a fraction, and more of `train_info`."""
    best = None if score is None else {"score": score, "step": 40}
    config = {
        "model": {"name": run.model, "frozen_dtype": "float32"},
        "method": {"name": run.method},
        "task": {"name": run.task, "kind": "classification", "subset": run.task},
        **{"rank": run.rank, "lr": run.lr, "seed": run.seed},
    }
    metric = "matthews_correlation" if run.task == "cola" else "accuracy"
    train_info = {
        "status": status,
        "problem": None,
        "metric": metric,
        "evaluations": [] if best is None else [best],
        "best": best,
        "last": best,
        "steps": 40,
        "trainable_parameters": 314_498,
        "step_memory_bytes": 100 * 2**20,
        "wall_time_seconds": 10.0,
        **info,
    }
    about = {"stand_in": "recast sentences", "baselines": baselines}
    machine = {"platform": "Linux", "python": "3.11", "processor": "x86_64", "cores": 2, "gpus": []}
    record = {
        "run_info": {
            "config": config,
            "config_hash": files.fingerprint(json.loads(run.identity)),
            "git_commit": "0123456789abcdef",
            "git_dirty": False,
            "command": " ".join(["python -m pipeline.train", *run.overrides]),
        },
        "train_info": train_info,
        "meta_info": {
            "packages": {"torch": "2.13.0"},
            "machine": machine,
            "model": {"repository": "some/model", "commit": "abc", "about": {}},
            "data": {"repository": "some/data", "commit": None, "version": "1", "about": about},
        },
    }
    files.write_json(Path(run.directory, records.NAME), record)


def write_evaluation(run, **scores: float) -> None:
    """Writes the evaluation of a planned run with these scores, as fractions."""
    evaluation = {
        "run_info": {"config_hash": files.fingerprint(json.loads(run.evaluation_identity))},
        "evaluation": {"status": "done", "scores": scores, "details": {}, "wall_time_seconds": 2.0},
        "meta_info": {},
    }
    files.write_json(Path(run.directory, records.EVALUATION), evaluation)
