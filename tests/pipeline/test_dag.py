"""The DAG from end to end on the tiny mirror, in a copy of the project whose conf/ the tests may edit."""

import os
import re
import subprocess
import sys

import pytest

from pipeline.config.planner import make_plan
from pipeline.config.targets import experiments_of
from pipeline.results import records
from tests.pipeline.project import SECRETS, Project

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_overrides) -> Project:
    project = Project(tmp_path_factory.mktemp("project"), tiny_overrides)
    result = project.snakemake()
    assert result.returncode == 0, result.stderr
    assert "Profile smoke: 8 runs done in" in result.stdout
    lines = re.findall(
        r"^minilm lora-fa sst2 seed 0: (?:accuracy|scored, ).*, \d+ s ", result.stderr, re.MULTILINE
    )
    assert len(lines) == 2, "a line for each finished job"
    assert "Select jobs to execute" not in result.stderr and "\x1b" not in result.stderr
    assert "LoRA-FA − LoRA: " in result.stdout and "results/smoke/tables/table2.md" in result.stdout
    return project


def test_every_run_and_table_is_there(project):
    assert len(project.records) == 8  # four methods, on SST-2 and in the search on MRPC
    tables = project.folder / "results/smoke/tables"
    assert {path.name for path in tables.iterdir()} == {
        f"{table}.{ending}" for table in ("search", "table2") for ending in ("md", "tex", "csv", "html")
    }
    assert "MiniLM (Lo-FA)" in (tables / "table2.md").read_text()


def test_a_record_s_command_is_the_run(project):
    record = records.read(project.records[0].parent)
    command = record.run_info.command
    assert command.startswith("python -m pipeline.train profile=smoke ")
    again = subprocess.run(
        [sys.executable, *command.replace("'", "").split()[1:]],
        **project.surroundings,
        capture_output=True,
        text=True,
    )
    assert again.stdout.strip().endswith("already done"), again.stderr


def test_tokens_are_written_nowhere(project):
    result = project.snakemake("--printshellcmds", "--verbose", "--forcerun", "table", "--notemp")
    assert result.returncode == 0, result.stderr
    written = {str(path): path.read_bytes() for path in project.folder.rglob("*") if path.is_file()}
    assert sum(".snakemake" in name for name in written) > 10
    written["output"] = (result.stdout + result.stderr).encode()
    for secret in SECRETS.values():
        assert not [name for name, content in written.items() if secret.encode() in content]


def test_a_second_run_does_nothing_and_says_so(project):
    result = project.snakemake()
    assert result.returncode == 0
    assert "Nothing to be done" in result.stderr
    assert project.planned() == {}


@pytest.mark.parametrize(
    "more",
    [
        ["profile.threads=2", "profile.tracking=live"],
        ["trainer=fsdp", "profile.processes=2"],
        ["profile.experiments=[search]"],
    ],
)
def test_what_changes_no_result_runs_nothing_again(project, monkeypatch, more):
    monkeypatch.setattr(project, "overrides", [*project.overrides, *more])
    assert project.planned() == {}


def test_more_seeds_train_the_new_seeds_alone(project):
    planned = project.planned("seeds=2")
    assert planned == {
        "train": 3,
        "evaluate": 3,
        "table": 1,
        "tables": 1,
        "total": 8,
    }  # prompt tuning has one seed


def test_editing_a_method_reruns_its_runs_and_no_others(project):
    file = project.folder / "conf/method/lora-fa.yaml"
    original = file.read_text()
    file.write_text(original.replace("init_A: kaiming_uniform", "init_A: normal"))
    changed = project.planned()
    file.write_text(original.replace("label: LoRA-FA", "label: LoRA-FA (ours)"))
    renamed = project.planned()
    file.write_text(original)
    # The search's run; which runs of Table 2 follow is known when it is finished.
    assert changed == {"train": 1, "select": 1, "table": 2, "tables": 1, "total": 5}
    assert renamed == {"table": 2, "tables": 1, "total": 3}
    assert project.planned() == {}


def test_deleting_a_run_reruns_one(project):
    path = project.table2_record
    aside = project.folder / "aside"
    path.parent.rename(aside)
    assert project.planned() == {"train": 1, "evaluate": 1, "table": 1, "tables": 1, "total": 4}
    aside.rename(path.parent)


def test_a_damaged_record_stops_the_table_with_its_name(project):
    path = project.table2_record
    original, times = path.read_text(), path.stat()
    path.write_text(original[:50])
    result = project.snakemake()
    path.write_text(original)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert result.returncode != 0
    assert f"{path.relative_to(project.folder)} is damaged" in result.stderr
    assert len(project.records) == 8


def test_bad_configuration_stops_before_any_work(project):
    file = project.folder / "conf/method/lora.yaml"
    original = file.read_text()
    file.write_text(original.replace("rank: ${model.rank}", "rank: 0"))
    result = project.snakemake()
    file.write_text(original)
    assert result.returncode != 0
    assert "conf/method/lora.yaml: rank: must be at least 1, got 0" in result.stderr


def test_a_missing_mirror_is_named(tmp_path, tiny_overrides):
    overrides = [item for item in tiny_overrides if not item.startswith("profile.mirror")]
    project = Project(tmp_path, [*overrides, f"profile.mirror={tmp_path / 'nowhere'}"])
    result = project.snakemake()
    assert result.returncode != 0
    assert "error: the mirror" in result.stderr and "snakemake --cores 1 mirror" in result.stderr


@pytest.mark.slow
def test_the_paper_profile_lists_its_runs_without_building_anything(project):
    few = [
        "profile.experiments=[search,search_translation,table2,table3,table5]",
        "profile.glue_tasks=[mrpc,rte]",
    ]
    command = ["snakemake", "-n", "tables", "--config", "profile=paper", f"overrides={' '.join(few)}"]
    result = subprocess.run(command, **project.surroundings, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    plan = make_plan("paper", few)
    known = {
        run.directory
        for name in experiments_of(plan, "tables")
        if not plan.searches_of(name)
        for run in plan.grids[name]
    }
    assert re.search(rf"^train +{len(known)}$", result.stdout, re.MULTILINE)  # the searches choose the others
    assert not (project.folder / "results/paper/runs").exists()
