"""lm-eval's samples of two models, compared item by item."""

import json
import re
import sys

import numpy as np
import pytest
from scipy import stats

from pipeline import compare

HITS = np.random.default_rng(0).random((2, 40)) < [[0.5], [0.9]]


def samples(hits, **more):
    """As lm-eval 0.4 writes them."""
    return [
        {
            "doc_id": item,
            "doc": {"question": f"{item}?", "passage": item // 2},
            "filter": "none",
            "metrics": ["acc", "exact"],
            "doc_hash": f"hash {item}",
            "acc": float(hit),
            "exact": [1, 2],
            **more,
        }
        for item, hit in enumerate(hits)
    ]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command line on two lists of samples; returns the exit code and what it says."""

    def call(a, b, *options):
        files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
        for file, lines in zip(files, (a, b), strict=True):
            file.write_text("\n".join(map(json.dumps, lines)))
        monkeypatch.setattr(sys, "argv", ["compare", *map(str, files), *options])
        code = 0
        try:
            compare.main()
        except SystemExit as error:
            code = error.code
        said = capsys.readouterr()
        return code, said.out + said.err

    return call


def test_the_interval_is_that_of_paired_items(run):
    code, text = run(samples(HITS[0]), list(reversed(samples(HITS[1]))))
    differences = 100 * (HITS[1].astype(float) - HITS[0])
    low, high = stats.t.interval(0.95, 39, differences.mean(), stats.sem(differences))
    assert code == 0
    assert f"B − A: +{differences.mean():.1f} [{low:.1f}, {high:.1f}], better" in text
    assert f"B is ahead on {(differences > 0).sum()}, A on {(differences < 0).sum()}" in text


def test_items_of_one_passage_are_drawn_together(run):
    _, text = run(samples(HITS[0]), samples(HITS[1]), "--cluster", "passage")
    differences = 100 * (HITS[1].astype(float) - HITS[0]).reshape(20, 2).mean(axis=1)
    low, _ = stats.t.interval(0.95, 19, differences.mean(), stats.sem(differences))
    assert f"[{low:.1f}, " in text and "40 items of both in 20 clusters" in text


def test_items_of_one_file_alone_are_left_out_and_counted(run):
    _, text = run(samples(HITS[0])[:30], samples(HITS[1]))
    assert "30 items of both:" in text and text.endswith("left out: 10 items of one file alone\n")


@pytest.mark.parametrize(
    ("a", "options", "problem"),
    [
        (samples(HITS[0]), ("--metric", "ac"), r"no metric 'ac' \(did you mean 'acc'\?\)"),
        (samples(HITS[0]), ("--metric", "exact"), r"item 0: exact is \[1, 2\], not a number"),
        (samples(HITS[0]), ("--cluster", "subject"), "item 0: its document has no field subject"),
        (samples(HITS[0], doc_hash="other"), (), "item 0 is another document"),
        (samples(HITS[0]) * 2, (), r"a\.jsonl has items twice"),
        (samples(HITS[0]) + samples(HITS[0], filter="strict"), (), "has the filters none, strict: choose one"),
        (samples(HITS[0]), ("--filter", "strict"), "no filter 'strict'"),
        ([{"acc": 1}], (), "has no samples with doc_id and metrics"),
        ([], (), "has no samples"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_one_line(run, a, options, problem):
    code, text = run(a, samples(HITS[1]), *options)
    assert code == 2 and text.startswith("error: ") and text.count("\n") == 1
    assert re.search(problem, text)
