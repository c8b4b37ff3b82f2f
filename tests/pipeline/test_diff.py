"""Two trees of results, compared cell by cell."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline import diff
from pipeline.results import records
from tests.pipeline.made_up import planned, write, write_evaluation


def run(results: Path, task: str, seed: int, right: np.ndarray, **identity: float) -> None:
    """Writes a scored run, on labels half of which are 1."""
    trained = planned(results, "minilm", "lora", task, seed)
    trained.identity.update(identity)
    write(trained, float(right.mean()))
    write_evaluation(trained, score=float(right.mean()))
    labels = np.arange(len(right)) % 2
    frame = pd.DataFrame(
        {"split": "validation", "prediction": np.where(right, labels, 1 - labels), "label": labels}
    )
    frame.to_parquet(Path(trained.directory, records.PREDICTIONS))


@pytest.fixture
def trees(tmp_path) -> tuple[Path, Path]:
    """RTE is the same in both, QNLI differs a little, SST-2 a lot."""
    rng, a, b = np.random.default_rng(0), tmp_path / "a", tmp_path / "b"
    for seed in range(3):
        rte, qnli, sst2 = rng.random((3, 200)) < 0.8
        for tree, hits in ((a, (rte, qnli, sst2)), (b, (rte, qnli ^ (rng.random(200) < 0.02), ~sst2))):
            for task, right in zip(("rte", "qnli", "sst2"), hits, strict=True):
                run(tree, task, seed, right)
    return a, b


def main(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["diff", *map(str, arguments)])
    try:
        diff.main()
    except SystemExit as error:
        return error.code
    return 0


def test_a_tree_is_no_other_than_itself(trees, monkeypatch, capsys):
    assert main(monkeypatch, trees[0], trees[0]) == 0
    text = capsys.readouterr().out
    assert "3 cells in both: 0 differ, 0 are within chance, 3 have nothing to tell them apart" in text
    assert "A: 9 runs, commit 0123456789ab, on 2 cores (x86_64)" in text


def test_what_differs_by_more_than_chance_stands_first_and_is_the_exit_code(trees, monkeypatch, capsys):
    assert main(monkeypatch, *trees) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| model=")]
    assert ["task=sst2" in rows[0], "lower" in rows[0]] == [True, True]
    assert "task=qnli" in rows[1] and "within chance" in rows[1] and len(rows) == 2


def test_the_numbers_are_those_of_a_t_test_where_seeds_decide(tmp_path):
    gains = np.array([10, 20, 60])
    for seed, gain in enumerate(gains):
        run(tmp_path / "a", "rte", seed, np.arange(1000) < 600)
        run(tmp_path / "b", "rte", seed, np.arange(1000) < 600 + gain)
    (found,) = diff.differences(diff.cells(tmp_path / "a"), diff.cells(tmp_path / "b"))
    assert found.b - found.a == pytest.approx(3)
    assert found.p_value == pytest.approx(stats.ttest_1samp(gains / 10, 0).pvalue, abs=0.02)


def test_cells_of_one_tree_and_other_configurations_are_said(trees, monkeypatch, capsys):
    a, b = trees
    for seed in range(3):
        run(b, "rte", seed, np.arange(200) < 150, alpha=1.0)
        run(b, "mrpc", seed, np.arange(200) < 150)
    assert main(monkeypatch, a, b) == 1
    text = capsys.readouterr().out
    assert "only in B: model=minilm/method=lora/task=mrpc" in text
    assert text.count("; another configuration") == 1


def test_what_is_no_tree_is_one_line(trees, monkeypatch, capsys):
    assert main(monkeypatch, trees[0], "nowhere") == 2
    assert capsys.readouterr().err.startswith("error: nowhere/runs has no scored run: give a folder")
