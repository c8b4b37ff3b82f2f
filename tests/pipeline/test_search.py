"""Sweeps by hand, their summary and Optuna's search: all work on one tree of results."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import pipeline.status
from pipeline import files
from pipeline.config.compose import compose_run
from pipeline.config.paths import run_dir
from pipeline.config.plan import PlannedRun
from pipeline.config.planner import make_plan, plan_of_arguments
from pipeline.errors import ConfigError, PipelineError
from pipeline.results import grid as grids
from pipeline.results import locks, records
from pipeline.worker import PRELOAD, SOCKET
from tests.pipeline.made_up import plan_of, searched, write

ROOT = Path(__file__).parents[2]
RUN = (sys.executable, "-m", "pipeline.worker", "run", "pipeline.train")
METHODS = ("full-ft", "prompt-tuning", "lora", "lora-fa")


@pytest.fixture(scope="module")
def environment(tmp_path_factory, plans):
    """What commands run with: the project, and a warm worker for all of this file's runs."""
    socket = str(tmp_path_factory.mktemp("worker") / "socket")
    variables = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "LORAFA_CACHE": plans,
    }
    command = [sys.executable, "-m", "pipeline.worker", "serve", "--owner", str(os.getpid()), socket]
    server = subprocess.Popen([*command, *PRELOAD], env=variables)
    while not os.path.exists(socket):
        assert server.poll() is None
        time.sleep(0.05)
    yield {**variables, SOCKET: socket}
    server.terminate()
    server.wait()


@pytest.fixture
def start(environment, tiny_overrides, tmp_path):
    """Starts `pipeline.train` on the tiny mirror, with results in the test's own folder."""

    def run(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*RUN, *arguments, "profile=smoke", *tiny_overrides],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


@pytest.fixture
def train(start):
    def run(*arguments: str) -> str:
        process = start(*arguments)
        output, complaints = process.communicate()
        assert process.returncode == 0, complaints
        return output

    return run


def found_in(folder: Path) -> dict[str, dict]:
    return {
        str(path.parent.relative_to(folder)): records.read(path.parent) for path in folder.rglob(records.NAME)
    }


def test_naming_an_experiment_changes_neither_path_nor_identity():
    plain, named = (compose_run(["task=mrpc", "rank=4", *more]) for more in ([], ["experiment=search"]))
    assert run_dir(named[1]) == run_dir(plain[1])
    assert named[0].identity() == plain[0].identity()


@pytest.mark.integration
def test_a_job_of_a_sweep_is_as_in_a_process_of_its_own(train, tmp_path):
    train("-m", "profile.results=swept", "task=sst2", "method=lora", "experiment=figure6", "rank=8192,8")
    train("profile.results=alone", "task=sst2", "method=lora", "rank=8")
    (name, alone), *_ = found_in(tmp_path / "alone").items()
    swept = found_in(tmp_path / "swept")
    assert len(swept) == 2
    after, before = swept.pop(name), *swept.values()
    for key in ("evaluations", "losses", "trainable_parameters", "tokens", "steps", "status"):
        assert getattr(after.train_info, key) == getattr(alone.train_info, key), key
    assert after.run_info.config_hash == alone.run_info.config_hash
    large, second, first = (
        record.train_info.peak_memory_bytes["resident"] for record in (before, after, alone)
    )
    assert large > first + 60e6, "else the test shows nothing"
    assert abs(second - first) < 30e6


@pytest.mark.slow
def test_joblib_s_processes_find_what_a_plain_sweep_has_done(train, tmp_path, environment, tiny_overrides):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    sweep = ("-m", "task=sst2", "method=lora,lora-fa", "rank=2", "lr=0.001")
    train(*sweep)
    # Done already, so that its two processes need not import torch; not in the worker, which ends without their leave.
    command = [sys.executable, "-m", "pipeline.train", *sweep, "profile=smoke", *tiny_overrides]
    result = subprocess.run(
        [*command, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("already done") == len(found_in(tmp_path)) == 2


@pytest.mark.integration
def test_slurm_jobs_ask_for_what_the_profile_gives_a_run(tmp_path, environment):
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(
        f"#!/bin/sh\nfor script; do :; done; cp $script {tmp_path}/script; echo no cluster >&2; exit 1\n"
    )
    sbatch.chmod(0o755)
    (tmp_path / "srun").symlink_to("/bin/true")
    environment = {**environment, "PATH": f"{tmp_path}:{environment['PATH']}"}
    command = [*RUN, "-m", "profile=paper", "profile.results=results", "model=roberta-base", "rank=1,2"]
    result = subprocess.run(
        [*command, "hydra/launcher=slurm", "hydra.launcher.partition=gpu"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "no cluster" in result.stderr
    script = (tmp_path / "script").read_text()
    for line in ("--array=0-1%2", "--cpus-per-task=4", "--gpus-per-node=1", "--partition=gpu"):
        assert f"#SBATCH {line}\n" in script
    assert f"--output={tmp_path}/results/logs/slurm/" in script


@pytest.mark.integration
def test_two_processes_with_the_same_run_train_it_once(start):
    both = [start("method=lora", "rank=1") for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert sorted(output.strip().endswith("already done") for output in outputs) == [False, True]


@pytest.mark.slow
def test_snakemake_completes_an_interrupted_sweep(start, tmp_path, environment, tiny_overrides, monkeypatch):
    held_out = "+task.held_out=0.1"  # as the search has it
    sweep = start("-m", "task=mrpc", f"method={','.join(METHODS)}", "lr=1e-3", "experiment=search", held_out)
    # Not by `rglob`, from under which a finished run takes its checkpoints.
    while sum(records.NAME in names for _, _, names in os.walk(tmp_path)) < 2:
        assert sweep.poll() is None
        time.sleep(0.02)
    sweep.kill()
    sweep.communicate()
    time.sleep(0.3)  # for the worker to end what it ran
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob(records.NAME)}
    assert 2 <= len(finished) < len(METHODS)

    monkeypatch.setenv("LORAFA_CACHE", environment["LORAFA_CACHE"])
    overrides = [*tiny_overrides, "profile.experiments=[search]", searched("1e-3")]
    runs = make_plan("smoke", overrides).runs_of("search")
    targets = [f"{run.directory}/{records.NAME}" for run in runs]
    command = ["snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2", *targets, "--config"]
    result = subprocess.run(
        [*command, "profile=smoke", f"overrides={' '.join(overrides)}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert len(targets) == len(METHODS) and all((tmp_path / target).exists() for target in targets)
    assert len(list((tmp_path / "results/smoke/logs").rglob("seed=0.log"))) == len(METHODS) - len(finished)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


# A run's lock


def test_a_lock_is_seen_until_it_is_let_go(tmp_path):
    assert not locks.is_held(tmp_path)
    with locks.held(tmp_path):
        assert locks.is_held(tmp_path)
    assert not locks.is_held(tmp_path)
    (tmp_path / locks.NAME).touch()
    assert not locks.is_held(tmp_path), "left behind by a process that was killed"
    assert list(tmp_path.iterdir()) == [tmp_path / locks.NAME]


# The summary


def write_record(run: PlannedRun, score: float) -> None:
    evaluations = [records.Score(20, 0.5, score / 2), records.Score(40, 1.0, score)]
    write(run, score, evaluations=evaluations)


@pytest.fixture
def grid(tmp_path, plans, monkeypatch):
    """The plan of a search over two learning rates and three seeds, and the arguments that lead to it."""
    monkeypatch.setenv("LORAFA_CACHE", plans)
    monkeypatch.chdir(tmp_path)
    only = [
        "profile.experiments=[search]",
        searched("1e-3", "2e-3"),
        "profile.grids.search_seeds=[0,1,2]",
    ]
    return plan_of_arguments(only), only


def status(monkeypatch, capsys, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["status", *arguments])
    pipeline.status.main()
    return capsys.readouterr().out


def test_the_summary_tells_what_is_done_running_failed_and_left(grid, monkeypatch, capsys):
    plan, arguments = grid
    runs = {(run.method, run.axes["lr"], run.seed): run for run in plan.runs_of("search")}

    def directory(*key: str | int) -> Path:
        return Path(runs[key].directory)

    for seed, score in enumerate((0.7, 0.8, 0.9)):
        write_record(runs["lora", "1e-3", seed], score)
    other = directory("lora", "2e-3", 0)
    other.mkdir(parents=True)
    # of another configuration: does not count
    shutil.copy(directory("lora", "1e-3", 1) / records.NAME, other)
    write(runs["full-ft", "1e-3", 0], None, records.DIVERGED)
    config_hash = runs["lora-fa", "2e-3", 0].config_hash
    checkpoint = directory("lora-fa", "2e-3", 0) / f"checkpoints/{config_hash}/checkpoint-20"
    history = [{"step": 10, "loss": 0.6}, {"step": 20, "eval_loss": 0.5, "eval_score": 0.65}]
    state = json.dumps({"log_history": history, "max_steps": 40})
    files.write_text(checkpoint / "trainer_state.json", state)
    with locks.held(directory("lora-fa", "2e-3", 1)):
        summary = json.loads(status(monkeypatch, capsys, "search", "--grid", "--json", *arguments))
        text = status(monkeypatch, capsys, "search", "--grid", *arguments)
        overview = status(monkeypatch, capsys, *arguments)
    assert summary["runs"] == {"done": 3, "running": 1, "diverged": 1, "interrupted": 1, "left": 18}
    cells = {(cell["method"], cell["axes"]["lr"]): cell for cell in summary["cells"]}
    lora, lora_fa = cells["lora", "1e-3"], cells["lora-fa", "2e-3"]
    assert (lora["states"], lora["metric"], lora["score"]) == ({"done": 3}, "accuracy", pytest.approx(0.8))
    assert (lora_fa["states"], lora_fa["score"]) == ({"interrupted": 1, "running": 1, "left": 1}, 0.65)
    assert cells["full-ft", "1e-3"]["score"] is None and cells["lora", "2e-3"]["states"] == {"left": 3}
    assert "3 done, 1 running, 1 diverged, 1 interrupted, 18 left" in " ".join(text.split())
    assert overview.split("search")[-1].split()[:5] == ["3", "1", "1", "1", "18"]


def test_the_best_cell_of_a_row_is_marked(tmp_path):
    plan = plan_of(tmp_path, "rebuttal_sni")
    for run in plan.runs_of("rebuttal_sni"):  # whose metric is a loss
        write_record(run, {7e-5: 0.9, 1e-4: 0.4, 4e-4: 0.6}[run.lr])
    best = [cell for cell in grids.cells(plan.expected("rebuttal_sni")) if cell.best]
    assert sorted(cell.method for cell in best) == ["full-ft", "lora", "lora-fa"]
    assert {cell.axes["lr"] for cell in best} == {"1e-4"}


def test_an_unknown_experiment_is_named(grid, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        status(monkeypatch, capsys, "table9", "--grid", *grid[1])
    assert "no experiment with runs 'table9'" in capsys.readouterr().err


def test_a_sweep_by_hand_has_a_line_for_each_combination(tmp_path, monkeypatch, capsys):
    fixed = [f"profile.results={tmp_path}", "task=sst2", "method=lora", "lr=1e-3"]
    for seed, score in ((0, 0.7), (1, 0.8)):
        run, cfg = compose_run([*fixed, "rank=4", f"seed={seed}"])
        planned = PlannedRun(run.identity(), {}, [], {}, str(tmp_path))
        assert planned.directory == run_dir(cfg)
        write_record(planned, score)
    summary = json.loads(status(monkeypatch, capsys, "--sweep", "--json", *fixed, "rank=4,8", "seed=0,1"))
    cells = {cell["axes"]["rank"]: cell for cell in summary["cells"]}
    assert (cells["4"]["states"], cells["4"]["score"]) == ({"done": 2}, pytest.approx(0.75))
    assert (cells["8"]["states"], cells["8"]["score"]) == ({"left": 2}, None)
    with pytest.raises(SystemExit):
        status(monkeypatch, capsys, "--sweep", "rank=4,abc", "task=sst2")
    assert "rank" in capsys.readouterr().err


# Optuna

STUB = """
import json, math, sys, time
from pathlib import Path
from pipeline import files
from pipeline.config.compose import compose_run
from pipeline.config.paths import run_dir
from pipeline.config.plan import PlannedRun
from pipeline.results import records

run, cfg = compose_run(sys.argv[1:])
if run.rank == 3:
    sys.exit("error: rank 3 is not to be had")
directory, config_hash = Path(run_dir(cfg)), files.fingerprint(run.identity())
with Path(run.profile.results, "started").open("a") as file:
    file.write(f"{run.lr}\\n")
score = 1 - abs(math.log10(run.lr / 1e-3)) / 4
history = [{"step": 20, "eval_loss": 1.0, "eval_score": score}]
state = directory / "checkpoints" / config_hash / "checkpoint-20/trainer_state.json"
files.write_text(state, json.dumps({"log_history": history, "max_steps": 40}))
if score < 0.4:
    time.sleep(60)  # to be stopped
diverged = run.rank == 2
info = records.TrainInfo(
    status="diverged" if diverged else "done",
    metric="accuracy",
    evaluations=[] if diverged else [records.Score(20, 0.5, score), records.Score(40, 1.0, score + 0.01)],
    best=None,
    last=None,
    steps=40,
    trainable_parameters=7,
)
about = records.RunInfo({}, config_hash, git_commit=None, git_dirty=False, command="")
records.write(directory, records.Record(about, info, records.MetaInfo()))
"""


@pytest.fixture
def tune(tmp_path, monkeypatch):
    """The search, with runs that only write what training would."""
    pytest.importorskip("optuna")
    from pipeline import tune

    (tmp_path / "stub.py").write_text(textwrap.dedent(STUB))
    monkeypatch.setattr(tune, "TRAIN", (sys.executable, str(tmp_path / "stub.py")))
    monkeypatch.setattr(tune, "PAUSE", 0.02)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tune


@pytest.mark.integration
def test_the_better_learning_rate_wins_and_runs_are_not_repeated(tune, tmp_path):
    overrides = [f"profile.results={tmp_path}", "task=sst2", "method=lora", "rank=1", "lr=1e-5,1e-3"]
    study = tune.search(overrides, trials=4, jobs=2)
    assert float(study.best_params["lr"]) == 1e-3 and study.best_value == pytest.approx(1.01)
    again = tune.search(overrides, trials=4, jobs=2)
    assert [trial.params for trial in again.trials] == [trial.params for trial in study.trials]
    directories = {trial.user_attrs["directory"] for trial in study.trials}
    assert len(found_in(tmp_path)) == len(directories) == 2
    assert sorted(set((tmp_path / "started").read_text().split())) == ["0.001", "1e-05"]


@pytest.mark.slow
def test_a_run_below_the_median_is_stopped_and_can_be_gone_on_with(tune, tmp_path):
    overrides = [f"profile.results={tmp_path}", "task=sst2", "method=lora", "rank=1"]
    # The pruner lets five trials pass; they are done already, the sixth is not.
    study = tune.search([*overrides, "lr=interval(5e-4,2e-3)"], trials=5, jobs=2)
    assert study.best_value > 0.9
    bad = tune._Run(study.ask({"lr": tune.FloatDistribution(1e-7, 1e-7, log=True)}), overrides)
    while not bad.ended():
        time.sleep(0.02)
    bad.stop()
    bad.tell(study)
    assert bad.outcome == "stopped" and study.trials[-1].state == tune.TrialState.PRUNED
    assert tune.progress(bad.directory, bad.config_hash).state == "interrupted"


@pytest.mark.integration
def test_a_run_that_diverged_is_never_the_best(tune, tmp_path):
    study = tune.search([f"profile.results={tmp_path}", "task=sst2", "method=lora", "rank=1,2"], trials=4)
    assert study.best_params == {"rank": "1"}
    assert {trial.user_attrs["outcome"] for trial in study.trials} == {"done", "diverged"}


@pytest.mark.integration
def test_a_run_that_breaks_off_ends_the_search_with_its_message(tune, tmp_path):
    with pytest.raises(PipelineError, match=r"rank=3.*rank 3 is not to be had"):
        tune.search([f"profile.results={tmp_path}", "method=lora", "rank=3", "lr=1e-3,1e-4"], trials=1)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["rank=1"], "nothing to search"),
        (["lr=interval(0,1e-3)"], "an interval goes from above 0"),
        (["rank=1,,2"], "rank=1,,2"),
    ],
)
def test_what_cannot_be_searched_is_refused(tune, overrides, problem):
    with pytest.raises(ConfigError, match=problem):
        tune.parse(overrides)
