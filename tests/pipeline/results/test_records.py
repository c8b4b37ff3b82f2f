import errno
import json
import math
import os

import pytest

from pipeline import files
from pipeline.errors import RecordError
from pipeline.results import records

RECORD = {"run_info": {"config_hash": "a"}, "train_info": {"loss": 1.5}, "meta_info": {}}


def test_round_trip(tmp_path):
    files.write_json(tmp_path / "a/metrics.json", RECORD)
    assert records.read(tmp_path / "a/metrics.json") == RECORD
    assert os.listdir(tmp_path / "a") == ["metrics.json"]


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    files.write_json(tmp_path / "m.json", {**RECORD, "train_info": {"x": math.nan, "y": [math.inf, 1.0]}})
    assert records.read(tmp_path / "m.json")["train_info"] == {"x": None, "y": [None, 1.0]}


@pytest.mark.parametrize("content", ["", '{"run_info": {"conf', "[]", '{"run_info": {}}'])
def test_a_damaged_record_is_named_with_what_to_do(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_text(content)
    with pytest.raises(RecordError, match=r"metrics\.json .*delete it and run again to redo this one run"):
        records.read(path)
    assert records.read_if_current(path, "a") is None


def test_a_missing_record_is_named(tmp_path):
    with pytest.raises(RecordError, match="does not exist"):
        records.read(tmp_path / "metrics.json")


def test_a_record_of_another_configuration_is_not_current(tmp_path):
    files.write_json(tmp_path / "m.json", RECORD)
    assert records.read_if_current(tmp_path / "m.json", "a") == RECORD
    assert records.read_if_current(tmp_path / "m.json", "b") is None


def test_a_full_disk_keeps_the_old_record_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    files.write_json(path, RECORD)

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RecordError, match=r"No space left on device.*Make room"):
        files.write_json(path, {**RECORD, "meta_info": {"new": 1}})
    assert records.read(path) == RECORD
    assert os.listdir(tmp_path) == ["metrics.json"]


def test_fingerprint_is_of_the_content():
    assert files.fingerprint({"a": 1, "b": 2}) == files.fingerprint(json.loads('{"b": 2, "a": 1}'))
    assert files.fingerprint({"a": 1}) != files.fingerprint({"a": 2})
