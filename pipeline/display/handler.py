"""Snakemake's events as a person wants to read them, on Snakemake's own interface for loggers.

The Snakefile puts the handler in place of Snakemake's when the work begins. A dry run, a report and what Snakemake says
of the DAG stay as they are; so does the whole log in `.snakemake/log`. `snakemake --verbose` and `--printshellcmds`
show Snakemake's own lines. Where the handler itself fails, Snakemake's takes its place again, and the work goes on.
"""

import atexit
import logging
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

from pipeline import worker
from pipeline.config.plan import Plan
from pipeline.display.results import show
from pipeline.display.tally import Tally, experiments_in
from pipeline.display.terminal import Plain, Terminal, is_terminal, spelled
from pipeline.results.progress import progress
from pipeline.status import summary

Job = tuple[str, dict[str, str]]  # the name of its rule, and its wildcards
SNAKEMAKES = "DefaultStreamHandler"
SHELL_FAILED = "CalledProcessError in file"  # which repeats the whole command; the job's own words come next
STOPPING = "Terminating processes on user request"  # Ctrl-C
LEAVING = "Will exit after finishing currently running jobs"  # SIGTERM to Snakemake alone
KNOWN = "At least one job did not complete successfully"  # each of them has been told of


class Display(logging.Handler):
    """What stands in for Snakemake's messages.

    Args:
        plan: The profile's plan.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._here = True  # where jobs run, so that their errors reach this terminal
        self._started = time.time()
        self._experiments = list(plan.experiments)  # what the target consists of
        self._jobs: dict[int, Job] = {}  # those at work
        self._cut: list[Job] = []  # those that an interrupt stopped
        self._held: dict[int | None, logging.LogRecord] = {}  # failures of commands, by thread
        self._failed: list[tuple[str, str]] = []
        self._interrupted = self._over = False
        self._logger: logging.Logger | None = None
        self._others: list[logging.Handler] = []
        self._tally: Tally | None = None
        self._screen: Plain | Terminal = Plain()

    def attach(self, workflow: Any, logger: logging.Logger) -> None:
        """Shows a workflow's work, which is about to begin; not where Snakemake's own lines, or none, are asked for.

        Args:
            workflow: Snakemake's.
            logger: Snakemake's.
        """
        self._here = workflow.local_exec
        parts = {name for job in workflow.dag.jobs for name in experiments_in(job.wildcards_dict)}
        self._experiments = [name for name in self._plan.experiments if name in parts]
        asked = workflow.output_settings
        quiet = {str(getattr(choice, "name", choice)).lower() for choice in asked.quiet or ()}
        if asked.verbose or asked.printshellcmds or asked.debug_dag or "all" in quiet:
            return
        try:
            jobs = [(job.rule.name, dict(job.wildcards_dict)) for job in workflow.dag.needrun_jobs()]
            self.start(logger, _at_a_time(self._plan, workflow), jobs)
        except Exception as error:  # Snakemake shows the work as it always does
            logger.warning(f"no display of progress ({type(error).__name__}: {error})")

    def start(self, logger: logging.Logger, at_a_time: int, jobs: list[Job]) -> None:
        """Takes the place of Snakemake's own messages on the terminal.

        Args:
            logger: Snakemake's.
            at_a_time: How many runs there are at a time.
            jobs: Those that are to be done: the name of their rule, and their wildcards.
        """
        self._logger = logger
        self._tally = Tally(self._plan, at_a_time, jobs)
        tally = self._tally
        if is_terminal():
            self._screen = Terminal(lambda: [*tally.lines(), tally.total()])
        else:
            for line in self._tally.lines():
                self._screen.print(spelled(line))
        self._others = [handler for handler in logger.handlers if handler.name == SNAKEMAKES]
        for handler in self._others:
            logger.removeHandler(handler)
        logger.addHandler(self)
        atexit.register(self._close)

    def emit(self, record: logging.LogRecord) -> None:
        """Shows what a person wants to know of an event; what nobody foresaw is shown as Snakemake would."""
        try:
            self._show(record, getattr(record, "event", None))
        except Exception as error:
            self._give_up(record, error)

    def end(self) -> None:
        """Says what came of it all: verdicts, files, counts, and last, failures and how to go on."""
        try:
            for held in [] if self._interrupted else self._held.values():
                self._as_snakemake(held)
            self._over = True
            self._close()
            if self._interrupted:
                self._screen.print(self._interruption())
                return
            show(self._plan, self._started)
        except Exception as error:
            print(f"the end of the display failed ({type(error).__name__}: {error}); the results are whole")
        print(summary(self._plan, self._started, self._experiments), flush=True)
        for line in self._failures():
            self._screen.print(line)

    def _show(self, record: logging.LogRecord, event: LogEvent | None) -> None:
        assert self._tally is not None
        if event == LogEvent.JOB_INFO:
            job = record.rule_name, dict(record.wildcards)  # type: ignore[attr-defined]
            self._jobs[record.jobid] = job  # type: ignore[attr-defined]
            self._tally.start(*job)
        elif event == LogEvent.JOB_FINISHED:
            self._finished(record.job_id)  # type: ignore[attr-defined]
        elif event == LogEvent.JOB_ERROR:
            self._error(record.jobid, list(record.log), record.rule_name)  # type: ignore[attr-defined]
        elif STOPPING in record.getMessage():
            self._interrupted = True
        elif LEAVING in record.getMessage():
            if not self._interrupted:
                self._screen.print("asked to stop: what is running is finished first")
            self._interrupted = True
        elif SHELL_FAILED in record.getMessage():
            self._held[record.thread] = record
        elif record.levelno >= logging.WARNING and not (self._over and KNOWN in record.getMessage()):
            self._as_snakemake(record)

    def _as_snakemake(self, record: logging.LogRecord) -> None:
        for handler in self._others:
            self._screen.print(handler.format(record), "yellow" if record.levelno < logging.ERROR else "red")

    def _finished(self, number: int) -> None:
        if number not in self._jobs or self._tally is None:
            return
        rule, wildcards = self._jobs.pop(number)
        name = self._tally.name(rule, wildcards)
        self._failed = [failure for failure in self._failed if failure[0] != name]  # a cluster tries again
        line = self._tally.finish(rule, wildcards)
        if line is None:
            return
        of = None if self._screen.moves else self._tally.line_of(wildcards["run"])
        self._screen.print(f"{line}  ({spelled(of)})" if of else line)

    def _error(self, number: int, logs: list[str], rule: str) -> None:
        job, held = self._jobs.pop(number, (rule, {})), self._held.pop(threading.get_ident(), None)
        if self._interrupted or self._tally is None:
            self._cut.append(job)
            return
        complaint = worker.complaint(Path(logs[0]), 1) if logs and Path(logs[0]).is_file() else ""
        name = self._tally.name(*job)
        # Perhaps by Ctrl-C, of which Snakemake tells a moment later.
        if complaint.startswith("error: interrupted"):
            self._cut.append(job)
            self._failed.append((f"{name}, which was interrupted", logs[0]))
            return
        self._failed.append((name, logs[0] if logs else ""))
        if not self._here:
            self._screen.print(complaint, "red")
        if held is not None and "error: " not in complaint:
            self._as_snakemake(held)
        self._screen.print(f"failed: {name}; the rest goes on. Its log: {', '.join(logs)}", "red")

    def _failures(self) -> list[str]:
        if not self._failed:
            return []
        jobs = "1 job has" if len(self._failed) == 1 else f"{len(self._failed)} jobs have"
        listed = [f"  {name}: {log}" for name, log in self._failed]
        return [f"{jobs} failed. The same command tries again, and keeps what is done:", *listed]

    def _interruption(self) -> str:
        """Returns one line on what is kept and where the runs at work will go on."""
        steps = []
        for rule, wildcards in [*self._cut, *self._jobs.values()]:
            if rule == "train":
                run = self._plan.run(wildcards["run"])
                step = progress(Path(run.directory), run.config_hash).step
                steps.append(f"step {step}" if step else "the start")
        assert self._tally is not None
        total = self._tally.total()
        kept = f"interrupted: {total.done} of {total.total} runs are done and kept; the same command goes on"
        if not steps:
            return f"{kept}."
        ran = "the one that was running" if len(steps) == 1 else f"the {len(steps)} that were running"
        return f"{kept}, with {ran} from {' and '.join(steps)}."

    def _close(self) -> None:
        with suppress(OSError, ValueError):
            self._screen.close()
        self._screen = Plain()

    def _give_up(self, record: logging.LogRecord, error: Exception) -> None:
        """Puts Snakemake's own handler back: the display is broken, and the work is not."""
        self._close()
        if self._logger is not None:
            self._logger.removeHandler(self)
        self._screen.print(
            f"the display of progress failed ({type(error).__name__}: {error}); Snakemake's goes on"
        )
        for handler in self._others:
            if self._logger is not None:
                self._logger.addHandler(handler)
            handler.handle(record)


def _at_a_time(plan: Plan, workflow: Any) -> int:
    """Returns how many runs a workflow has at a time."""
    cores = (workflow.cores if workflow.local_exec else workflow.nodes) or 1
    gpus = workflow.global_resources.get("gpu") if plan.profile.gpus else None
    return max(1, min(cores // plan.profile.cores, gpus or cores))
