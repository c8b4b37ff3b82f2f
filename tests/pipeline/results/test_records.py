import errno
import json
import math
import os
from dataclasses import replace

import pytest

from pipeline import files
from pipeline.errors import RecordError
from pipeline.results import records

SCORE = records.Score(2, 0.5, 0.75, {"loss": 1.5})
RECORD = records.Record(
    records.RunInfo({"task": {"name": "sst2"}}, "a", git_commit=None, git_dirty=False, command="python"),
    records.TrainInfo(
        status=records.DONE,
        metric="accuracy",
        evaluations=[SCORE],
        losses=[records.Loss(1, 3.0)],
        training_seconds=[records.Seconds(1, 0.5)],
        best=SCORE,
        last=None,
        steps=2,
        trainable_parameters=7,
    ),
    records.MetaInfo({"torch": "2"}, records.Machine("Linux", "3.11", "x86_64", 2), records.Material("a/b")),
)
EVALUATION = records.EvaluationRecord(
    RECORD.run_info, records.Evaluation(status=records.DONE, scores={"score": 0.5}), records.MetaInfo()
)


def test_round_trip(tmp_path):
    records.write(tmp_path / "a", RECORD)
    records.write(tmp_path / "a", EVALUATION)
    assert records.read(tmp_path / "a") == RECORD
    assert records.read_evaluation(tmp_path / "a") == EVALUATION
    assert sorted(os.listdir(tmp_path / "a")) == ["evaluation.json", "metrics.json"]


def test_an_evaluation_is_flat_in_the_file(tmp_path):
    records.write(tmp_path, RECORD)
    best = files.read_json(tmp_path / records.NAME)["train_info"]["best"]
    assert best == {"step": 2, "epoch": 0.5, "score": 0.75, "loss": 1.5}


def test_records_from_before_the_format_had_a_number_are_read(tmp_path):
    """Such a record has no more than a run of that time had to say."""
    old = {
        "run_info": {"config": {}, "config_hash": "a", "git_commit": "b", "git_dirty": True, "command": "c"}
    }
    old["train_info"] = {"status": "done", "problem": None, "metric": "loss", "evaluations": [], "best": None}
    old["train_info"] |= {"last": None, "losses": [], "steps": 0, "trainable_parameters": 0}
    old["meta_info"] = {
        "packages": {},
        "data": {"repository": "a/b", "commit": None, "about": {"stand_in": "c"}},
    }
    files.write_json(tmp_path / records.NAME, old)
    record = records.read(tmp_path)
    assert (record.train_info.tokens, record.train_info.training_seconds) == (None, [])
    assert [material.stand_in for material in record.meta_info.materials] == ["c"]


def test_a_record_of_another_format_is_named_with_what_to_do(tmp_path):
    files.write_json(tmp_path / records.NAME, {**records.as_json(RECORD), "format": 9})
    with pytest.raises(
        RecordError, match=r"metrics\.json is of format 9, and this version reads format 1: use the"
    ):
        records.read(tmp_path)


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    records.write(
        tmp_path, replace(RECORD, train_info=replace(RECORD.train_info, losses=[records.Loss(1, math.nan)]))
    )
    assert records.read(tmp_path).train_info.losses == [records.Loss(1, None)]


EMPTY = '{"run_info": {}, "train_info": {}, "meta_info": {}}'


@pytest.mark.parametrize("content", ["", '{"run_info": {"conf', "[]", '{"run_info": {}}', EMPTY])
def test_a_damaged_record_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=r"metrics\.json .*delete it and run again to redo this one run"):
        records.read(tmp_path)
    assert records.read_if_current(tmp_path, "a") is None


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(RecordError, match="does not exist"):
        records.read(tmp_path)


def test_a_record_of_another_configuration_is_not_current(tmp_path):
    records.write(tmp_path, RECORD)
    assert records.read_if_current(tmp_path, "a") == RECORD
    assert records.read_if_current(tmp_path, "b") is None


def test_a_full_disk_keeps_the_old_record_and_leaves_nothing_behind(tmp_path, monkeypatch):
    records.write(tmp_path, RECORD)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match=r"No space left on device.*Make room"):
        records.write(tmp_path, replace(RECORD, meta_info=records.MetaInfo()))
    assert records.read(tmp_path) == RECORD
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_fingerprint_is_of_the_content():
    assert files.fingerprint({"a": 1, "b": 2}) == files.fingerprint(json.loads('{"b": 2, "a": 1}'))
    assert files.fingerprint({"a": 1}) != files.fingerprint({"a": 2})
