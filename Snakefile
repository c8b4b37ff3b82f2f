# The tables and figures of the LoRA-FA paper. What there is to do is described in conf/ and derived by pipeline/config/plan.py.
#
#   snakemake --cores 2 tables                            the mini profile
#   snakemake --cores 8 tables --config profile=paper     the paper's models and data
#   snakemake -n tables --config profile=paper            only say what would be done
#
# --config seeds=6 adds seeds to the runs that there are; what is finished stays.
# --config overrides="budget.max_steps=10 trainer=fsdp profile.gpus=4" changes every run, as on the command line of a run.
# --config gpu=h100-80gb says which GPU the jobs of a cluster get (docs/clusters.md); what they compute is the same.

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from snakemake.utils import min_version

from pipeline import assets, cli, files, worker
from pipeline.config import precision
from pipeline.config.planner import make_plan, settings_of
from pipeline.display.handler import Display
from pipeline.errors import PipelineError
from pipeline.tables.stamp import refuse_mix
from pipeline.config.targets import (
    FIRST,
    Priorities,
    estimator,
    experiments_of,
    files_of,
)

min_version("9.0")
# Snakemake takes SystemExit as it takes Ctrl-C, but shows no traceback.
signal.signal(signal.SIGINT, cli.leave)

WORKER = worker.Worker()

try:
    PROFILE, OVERRIDES = settings_of(config)
    PLAN = make_plan(PROFILE, OVERRIDES)
except PipelineError as error:
    raise WorkflowError(str(error)) from None

DISPLAY = Display(PLAN)
RESULTS = PLAN.profile.results
PRIORITIES = Priorities(PLAN)
# What the time of jobs on a cluster is estimated for.
GPU = config.get("gpu", "a100-80gb")

# Who stops a job on a cluster sends SIGTERM to all its processes. The shell waits for the run, which saves its state.
shell.prefix("set -euo pipefail; trap : TERM; ")


report: "pipeline/report/workflow.rst"


include: "pipeline/rules/common.smk"
include: "pipeline/rules/assets.smk"
include: "pipeline/rules/train.smk"
include: "pipeline/rules/search.smk"
include: "pipeline/rules/memory.smk"
include: "pipeline/rules/tables.smk"
include: "pipeline/rules/figures.smk"
include: "pipeline/rules/dashboard.smk"
include: "pipeline/rules/report.smk"
include: "pipeline/rules/targets.smk"


# On a cluster, these are done where Snakemake runs: seconds of one core each, and no GPU.
localrules:
    mirror,
    tables,
    figures,
    rebuttal,
    questions,
    all,
    promote,
    select,
    table,
    figure,
    dashboard,
    overview,


# Jobs of a cluster have processes of their own: one that found the worker would compute outside of what it asked for.
onstart:
    try:
        check_before_work()
    except PipelineError as error:
        raise WorkflowError(str(error)) from None
    print(precision.explanation(PLAN.profile.gpus), file=sys.stderr)
    DISPLAY.attach(workflow, logger)
    if workflow.local_exec:
        WORKER.start()


onsuccess:
    WORKER.stop()
    DISPLAY.end()


onerror:
    WORKER.stop()
    DISPLAY.end()
