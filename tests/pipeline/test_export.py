"""The tree of runs as one table, for pandas, pyarrow, DuckDB and Polars."""

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest

from pipeline import export
from pipeline.errors import ConfigError, RecordError
from pipeline.results import records
from tests.pipeline.made_up import planned, write, write_evaluation

ARROW = {
    "string": (pa.string(), pa.large_string()),
    "Int64": (pa.int64(),),
    "Float64": (pa.float64(),),
    "boolean": (pa.bool_(),),
}


def run(folder: Path, method: str, task: str, rank: int | None, lr: float, seed: int, *others: str):
    return planned(folder, "minilm", method, task, seed, f"method={method}", *others, rank=rank, lr=lr)


@pytest.fixture
def results(tmp_path) -> Path:
    """Runs that differ in what they have: a rank or none, a score or none, an override, an evaluation or none."""
    folder = tmp_path / "results"
    classified = run(folder, "lora-fa", "sst2", 8, 0.001, 0)
    write(classified, 0.85, peak_memory_bytes={"process": 5}, problem=None)
    write_evaluation(classified, score=0.84, validation=0.84)
    translated = run(folder, "full-ft", "wmt16-en-ro", None, 0.01, 1)
    write(translated, 0.5, wall_time_seconds=3)  # an integer among floats
    write_evaluation(translated, bleu=20, rouge_l=31.5)
    write(
        run(folder, "lora", "sst2", 8, 0.001, 2, "method.dropout=0.1"),
        None,
        status="diverged",
        problem="step 3",
    )
    return folder


def check(rows: list[dict]) -> None:
    """Checks rows that some library has read, whose missing values are None."""
    by_method = {row["method"]: row for row in rows}
    fa, full, lora = by_method["lora-fa"], by_method["full-ft"], by_method["lora"]
    assert (fa["rank"], fa["lr"], fa["seed"], fa["score"], fa["best_score"]) == (8, 0.001, 0, 0.84, 0.85)
    assert fa["bleu"] is None and json.loads(fa["scores"]) == {"score": 0.84, "validation": 0.84}
    assert full["rank"] is None and (full["bleu"], full["rouge_l"], full["wall_time_seconds"]) == (
        20.0,
        31.5,
        3.0,
    )
    assert (lora["status"], lora["problem"], lora["best_score"]) == ("diverged", "step 3", None)
    assert lora["evaluation_status"] is None and json.loads(lora["others"]) == {"method.dropout": "0.1"}
    assert fa["git_dirty"] is False and json.loads(fa["config"])["task"]["subset"] == "sst2"
    assert fa["run"] == "model=minilm/method=lora-fa/task=sst2/rank=8/lr=1e-3/seed=0"


@pytest.fixture
def parquet(results, tmp_path) -> Path:
    export.write(export.read(results), tmp_path / "runs.parquet")
    return tmp_path / "runs.parquet"


def test_pyarrow_reads_typed_columns(parquet):
    table = pyarrow.parquet.read_table(parquet)
    assert table.column_names == list(export.COLUMNS)
    for name, (kind, _) in export.COLUMNS.items():
        assert table.schema.field(name).type in ARROW[kind], name
    check(table.to_pylist())


def test_pandas_reads_parquet_and_csv_alike(results, parquet, tmp_path):
    kinds = {name: kind for name, (kind, _) in export.COLUMNS.items()}
    frame = pd.read_parquet(parquet).astype(kinds)
    export.write(export.read(results), tmp_path / "runs.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "runs.csv", dtype=kinds), frame)
    check(
        [
            {key: None if pd.isna(value) else value for key, value in row.items()}
            for row in frame.to_dict("records")
        ]
    )


def test_duckdb_reads_it(parquet):
    duckdb = pytest.importorskip("duckdb")
    found = duckdb.sql(f"select * from '{parquet}'")
    check([dict(zip(found.columns, row, strict=True)) for row in found.fetchall()])


def test_polars_reads_it(parquet):
    check(pytest.importorskip("polars").read_parquet(parquet).to_dicts())


def test_types_do_not_depend_on_what_the_runs_have(tmp_path):
    write(run(tmp_path, "full-ft", "sst2", None, 0.001, 0), None)
    frame = export.read(tmp_path)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        name: kind for name, (kind, _) in export.COLUMNS.items()
    }


def test_what_is_said_of_no_runs_damaged_ones_and_unknown_formats(results, tmp_path):
    with pytest.raises(RecordError, match="has no finished run"):
        export.read(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"must end with \.parquet or \.csv"):
        export.write(export.read(results), tmp_path / "runs.xlsx")
    path = sorted(results.rglob(records.EVALUATION))[0]
    path.write_text("{")
    with pytest.raises(RecordError, match=r"evaluation\.json is damaged"):
        export.read(results)
