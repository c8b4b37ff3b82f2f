"""What a person sees, from made-up events and records."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from pipeline.config.plan import Plan
from pipeline.display.handler import SNAKEMAKES, Display
from pipeline.results import records
from tests.pipeline import made_up

OPTIONS = (made_up.searched("1e-3", "2e-3"), "profile.grids.search_seeds=[0]")


@pytest.fixture
def plan(tmp_path) -> Plan:
    return made_up.plan_of(tmp_path / "results", "search", overrides=OPTIONS)


@pytest.fixture
def logger() -> logging.Logger:
    logger = logging.Logger("snakemake")
    handler = logging.StreamHandler()
    handler.name = SNAKEMAKES
    logger.addHandler(handler)
    return logger


def name(plan: Plan, run) -> str:
    return run.directory.removeprefix(f"{plan.runs_folder}/")


def begin(plan: Plan, logger: logging.Logger) -> Display:
    jobs = [("train", {"run": name(plan, run)}) for run in plan.grids["search"]]
    display = Display(plan)
    display.start(logger, 2, [*jobs, ("select", {"search": "search"}), ("table", {"table": "search"})])
    return display


def job(plan: Plan, logger: logging.Logger, number: int, run, **end) -> None:
    about = {"jobid": number, "rule_name": "train", "wildcards": {"run": name(plan, run)}}
    logger.info("Rule: train", extra={"event": LogEvent.JOB_INFO, **about})
    if end:
        logger.error("Error in rule train", extra={"event": LogEvent.JOB_ERROR, **about, **end})
    else:
        logger.info("Finished", extra={"event": LogEvent.JOB_FINISHED, "job_id": number})


def test_a_finished_run_is_a_line_with_its_score_and_the_time_left(plan, logger, capfd):
    display = begin(plan, logger)
    first, second, *_ = plan.grids["search"]
    logger.info("Select jobs to execute...")
    made_up.write(first, 0.848, wall_time_seconds=31.0)
    job(plan, logger, 1, first)
    made_up.write(second, None, status=records.OUT_OF_MEMORY, wall_time_seconds=4.0)
    job(plan, logger, 2, second)
    display.end()
    shown = capfd.readouterr()
    assert "Select" not in shown.err and "\x1b" not in shown.err
    method = f"{first.model} {first.method} {first.task} held_out 0.1 lr 1e-3 seed 0"
    # Seven runs of 31 s, two at a time.
    assert (
        f"{method}: accuracy 84.8, 31 s  (Search: learning rates of Table 2: 1 of 8 runs, 1 min 48 s left)"
        in shown.err
    )
    assert (
        "lr 2e-3 seed 0: out of memory, 4 s  (Search: learning rates of Table 2: 2 of 8 runs, 1 min 33 s left)"
        in shown.err
    )
    assert "2 runs done" in shown.out


def test_errors_are_shown_in_full_and_counted_at_the_end(plan, logger, capfd, tmp_path):
    display = begin(plan, logger)
    first, second, *_ = plan.grids["search"]
    log = tmp_path / "log"
    log.write_text("error: no such data\n")
    job(plan, logger, 1, first, log=[str(log)])
    log.write_text("")
    logger.error(
        "RuleException:\nCalledProcessError in file x: died with SIGKILL", extra={"event": LogEvent.ERROR}
    )
    job(plan, logger, 2, second, log=[])
    logger.warning("the disk is nearly full")
    display.end()
    shown = capfd.readouterr().err
    assert "the disk is nearly full" in shown and shown.count("died with SIGKILL") == 1
    assert f"failed: {first.model} {first.method} {first.task} held_out 0.1 lr 1e-3 seed 0" in shown
    *_, heading, one, other = shown.splitlines()
    assert heading == "2 jobs have failed. The same command tries again, and keeps what is done:"
    assert one.endswith(f"lr 1e-3 seed 0: {log}") and other.endswith("lr 2e-3 seed 0: ")


def test_ctrl_c_ends_with_one_line_that_says_what_is_kept(plan, logger, capfd):
    display = begin(plan, logger)
    done, running, *_ = plan.grids["search"]
    made_up.write(done, 0.8)
    job(plan, logger, 1, done)
    about = {"jobid": 2, "rule_name": "train", "wildcards": {"run": name(plan, running)}}
    logger.info("Rule: train", extra={"event": LogEvent.JOB_INFO, **about})
    capfd.readouterr()
    logger.info("Terminating processes on user request, this might take some time.")
    logger.error("Error in rule train", extra={"event": LogEvent.JOB_ERROR, **about, "log": []})
    display.end()
    logger.error("WorkflowError:\nAt least one job did not complete successfully.")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err == (
        "interrupted: 1 of 8 runs are done and kept; the same command goes on, with the one that was running from "
        "the start.\n"
    )


def test_who_is_asked_to_end_what_runs_says_so_and_does_not_end_as_after_success(plan, logger, capfd):
    display = begin(plan, logger)
    for _ in range(2):  # Snakemake repeats itself for each job that ends
        logger.info("Will exit after finishing currently running jobs (scheduler).")
    display.end()
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines()[-2:] == [
        "asked to stop: what is running is finished first",
        "interrupted: 0 of 8 runs are done and kept; the same command goes on.",
    ]


@pytest.mark.integration
def test_the_end_counts_what_the_target_consists_of(tmp_path, logger, capfd):
    plan = made_up.plan_of(tmp_path / "results", "search", "table2", overrides=OPTIONS)
    table2 = SimpleNamespace(wildcards_dict={"table": "table2"}, rule=SimpleNamespace(name="table"))
    dag = SimpleNamespace(jobs=[table2], needrun_jobs=lambda: [])
    asked = SimpleNamespace(quiet=None, verbose=False, printshellcmds=False, debug_dag=False)
    display = Display(plan)
    display.attach(
        SimpleNamespace(local_exec=True, output_settings=asked, dag=dag, cores=1, global_resources={}),
        logger,
    )
    display.end()
    runs = len(plan.grids["table2"])
    assert 0 < runs < len(plan.wanted())
    assert f"0 reused, {runs} left" in capfd.readouterr().out


def test_a_display_that_breaks_gives_way_to_snakemake_s_own(plan, logger, capfd, monkeypatch):
    display = begin(plan, logger)
    monkeypatch.setattr(display._tally, "start", lambda *_: 1 / 0)
    job(plan, logger, 1, plan.grids["search"][0])
    logger.error("what comes after")
    shown = capfd.readouterr().err
    assert "the display of progress failed (ZeroDivisionError: division by zero)" in shown
    assert [handler.name for handler in logger.handlers] == [SNAKEMAKES]
    assert not Path(plan.runs_folder).exists()
