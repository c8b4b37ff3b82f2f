"""Published measurements of GPU memory, and estimates beside them."""

import re
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer
from torch import nn

from lorafa.memory.geometry import BUILT_IN, REPOSITORIES
from pipeline import published
from pipeline.config.plan import Plan
from pipeline.errors import ConfigError
from pipeline.figures.__main__ import FORMATS, draw
from pipeline.tables import published as tables

GIB = 2**30
# A file at a commit, or a release of PyPI: neither changes.
ADDRESS = r"https://(?:github\.com/[\w.-]+/[\w.-]+/blob/(?P<commit>[0-9a-f]{40})/|pypi\.org/project/[\w-]+/[\d.]+/#)"


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return published.read()


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is estimated to have allocated 8 GiB and reserved a byte for each token more."""

    def estimate(recipe):
        tokens = recipe.batch_size * recipe.source_length
        return SimpleNamespace(peak=8 * GIB, reserved=8 * GIB + tokens)

    monkeypatch.setattr(published, "estimate", estimate)


def test_file(rows: pd.DataFrame) -> None:
    assert tuple(rows) == published.COLUMNS
    assert len(rows) >= 25
    assert rows.source.nunique() >= 4
    assert not rows.drop(columns="value").duplicated().any()
    assert set(rows.unit) <= set(published.UNITS)
    assert set(rows.measured) <= set(published.MEASURED)
    assert rows.url.map(lambda url: bool(re.match(ADDRESS, url))).all()
    commits = rows.url.str.extract(ADDRESS)["commit"].fillna("")
    assert (rows.commit == commits).all()
    assert rows.date.map(lambda text: bool(re.fullmatch(r"\d{4}-\d\d-\d\d", text))).all()
    assert (rows.micro_batch.astype(int) <= rows.batch.astype(int)).all()


def test_values_are_of_this_world(rows: pd.DataFrame) -> None:
    gib = rows.apply(published.bytes_measured, axis=1) / GIB
    assert gib.between(1, 80).all()


def test_every_row_is_a_recipe_of_a_known_model(rows: pd.DataFrame) -> None:
    recipes = [published.recipe_of(row) for _, row in rows.iterrows()]
    assert all(REPOSITORIES[recipe.model.partition("?")[0]] in BUILT_IN for recipe in recipes)
    assert all(
        recipe.accumulation == int(row.batch) // int(row.micro_batch)
        for recipe, (_, row) in zip(recipes, rows.iterrows(), strict=True)
    )
    assert all(bool(recipe.target_modules) == (recipe.method.startswith("lora")) for recipe in recipes)


def test_an_exclusion_is_of_a_setting_and_gives_its_reason(rows: pd.DataFrame) -> None:
    excluded = rows[rows.excluded != ""]
    assert (excluded.excluded.str.len() > 40).all()
    same = ["source", "transformers", "method", "quantization", "measured", "checkpointing"]
    reasons = rows.groupby(same, dropna=False).excluded.nunique()
    assert (reasons[[key[0] != "peft" for key in reasons.index]] == 1).all()  # no row is left out alone


def test_what_counts_is_enough(rows: pd.DataFrame) -> None:
    counted = rows[(rows.excluded == "") & (rows.fitted_on == "")]
    assert len(counted) >= 25
    assert counted.source.nunique() >= 4


def test_one_length_is_fitted_on_one_row_of_a_source(rows: pd.DataFrame) -> None:
    assert ((rows.length == "") == (rows.fitted_length != "")).all()
    for _, fitted in rows[rows.fitted_length != ""].groupby("source"):
        assert fitted.fitted_length.nunique() == 1
        assert (fitted.fitted_on == "yes").sum() == 1
    assert set(rows[rows.fitted_on == "yes"].length) == {""}
    longest = rows[rows.max_length != ""]
    assert (longest.fitted_length.astype(int) <= longest.max_length.astype(int)).all()


def test_fields_become_a_recipe(rows: pd.DataFrame) -> None:
    row = rows[(rows.quantization == "nf4") & (rows.source == "fms-acceleration")].iloc[0]
    recipe = published.recipe_of(row)
    assert (recipe.rank, recipe.batch_size, recipe.source_length) == (16, 4, 4096)
    assert recipe.checkpointing and recipe.quantization == "nf4" and recipe.adapter_dropout == 0.1
    assert recipe.target_modules[:2] == ("q_proj", "k_proj")


def test_what_is_measured_here_is_read_as_it_was_measured(rows: pd.DataFrame) -> None:
    found = {"status": "done", "allocated_bytes": 3 * GIB, "reserved_bytes": 4 * GIB, "gpu": "NVIDIA H100"}
    # Two of LoRA, and one of a method without a rank: the file says no more of it than its recipe.
    for row in (rows.iloc[0], rows[rows.config != ""].iloc[0], rows[rows.method == "full-ft"].iloc[0]):
        recipe = published.recipe_of(row)
        written = pd.DataFrame(published.rows_of(recipe, found))
        assert tuple(written) == published.COLUMNS
        assert [published.recipe_of(line) for _, line in written.iterrows()] == [recipe, recipe]
        assert [published.bytes_measured(line) / GIB for _, line in written.iterrows()] == [3, 4]
    assert published.rows_of(recipe, {"status": "out_of_memory"}) == []


@pytest.mark.parametrize(
    ("column", "text"), [("method", "magic"), ("rank", "many"), ("checkpointing", "perhaps"), ("model", "")]
)
def test_a_bad_row_is_named(rows: pd.DataFrame, column: str, text: str) -> None:
    row = rows.iloc[3].copy()
    row[column] = text
    with pytest.raises(ConfigError, match=r"gpu_memory\.csv, line 5: "):
        published.recipe_of(row)


def test_units() -> None:
    for unit, size in (("bytes", 1), ("MiB", 1_048_576), ("GiB", 1_073_741_824), ("GB", 1_000_000_000)):
        assert published.bytes_measured(pd.Series({"value": "1.5", "unit": unit})) == 1.5 * size


@pytest.mark.usefixtures("estimates")
def test_what_was_measured_says_what_is_estimated(rows: pd.DataFrame) -> None:
    row = rows[rows.length == "512"].iloc[0].copy()
    tokens = int(row.micro_batch) * 512
    row["context_mib"] = "100"
    expected = {"allocated": 0, "active": 0, "reserved": tokens, "device": tokens + 100 * 2**20}
    for measured, more in expected.items():
        row["measured"] = measured
        assert published.bytes_estimated(row) == 8 * GIB + more
    row["context_mib"] = ""
    assert published.bytes_estimated(row) == 8 * GIB + tokens + published.CONTEXT


@pytest.mark.usefixtures("estimates")
def test_the_fitted_length_is_the_nearest(rows: pd.DataFrame) -> None:
    row = rows[rows.fitted_on == "yes"].iloc[0].copy()
    row["value"] = str(8 * GIB + int(row.micro_batch) * 530)
    row["unit"] = "bytes"
    row["measured"] = "reserved"
    assert published.fit_length(row) == 528  # the multiple of 8 nearest to 530


@pytest.mark.usefixtures("estimates")
def test_a_fitted_row_counts_for_nothing(rows: pd.DataFrame) -> None:
    few = rows[rows.source == "torchtune"].copy()
    few["measured"], few["unit"], few["value"] = "allocated", "GiB", ["1", "10", "4"]
    compared = published.compare(few)
    assert compared.fitted.tolist() == [True, False, False]
    assert compared.error_percent.tolist() == pytest.approx([700, -20, 100])
    (summary,) = published.summarize(compared).itertuples()
    assert (summary.source, summary.rows, summary.close) == ("torchtune", 2, 0)
    assert (summary.median_percent, summary.worst_percent) == pytest.approx((40, 100))
    assert published.bound_of(compared).margin == pytest.approx(0.25)  # 10 GiB measured, 8 estimated
    compared.loc[1, "excluded"] = "measured on another planet"
    assert published.bound_of(compared).rows == 1
    assert published.rows_table(compared).row_count == 3


@pytest.fixture
def plan(results_plan: Plan) -> Plan:
    """A plan with four rows of two sources: 2 % too little and 1 % too much; a fitted one, and an excluded one."""
    lines = [("one", 100, 98.0, False, ""), ("one", 100, 101.0, False, ""), ("one", 50, 50.0, True, "")]
    rows = [
        {
            "source": source,
            "setting": "a step",
            "measured": "reserved",
            "measured_gib": measured,
            "estimated_gib": estimated,
            "error_percent": 100 * (estimated / measured - 1),
            "fitted": fitted,
            "excluded": excluded,
            "url": "https://example.org",
        }
        for source, measured, estimated, fitted, excluded in [*lines, ("two", 10, 13.0, False, "on the moon")]
    ]
    path = Path(results_plan.memory_file("gpu_memory"))
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False)
    return results_plan


def test_the_table_says_what_counts_and_why_not(plan: Plan) -> None:
    table = tables.build(plan, "gpu_memory")
    texts = [[cell.text for cell in row.cells] for row in table.rows]
    assert [row[-1] for row in texts if row[1] == "a step"] == ["-2.0", "+1.0", "+0.0=", "+30.0†"]
    kinds = ("median", "median of the absolute", "worst")
    assert [row[2:] for row in texts if row[0] == "all"] == [
        [kind, "", "", error] for kind, error in zip(kinds, ("-0.5", "+1.5", "-2.0"), strict=True)
    ]
    assert "two, 1: on the moon" in table.notes[1]
    assert table.notes[2].startswith("0 of 2 rows")


def test_the_figure_has_a_mark_for_each_row(plan: Plan, tmp_path: Path) -> None:
    files = draw(plan, "gpu_memory", tmp_path)
    assert [file.suffix[1:] for file in files] == list(FORMATS)
    assert len(pd.read_csv(files[-1])) == 4
    assert plan.sources("gpu_memory") == [plan.memory_file("gpu_memory")]


@pytest.mark.parametrize("count", [1, 19, 59])
def test_without_a_row_to_spare_the_bound_is_the_largest_error(count: int) -> None:
    estimated = [100.0] * count
    found = published.bound([100.0 + i for i in range(count)], estimated, one_in=60)
    assert found.margin == pytest.approx((count - 1) / 100)
    assert (found.rows, found.above) == (count, 0)
    assert found.confidence == found.largest_confidence == pytest.approx(1 - (59 / 60) ** count)
    assert found.largest == found.margin


def test_one_row_in_twenty_may_be_above_the_bound() -> None:
    measured = [100.0 + i for i in range(45)]
    found = published.bound(measured, [100.0] * 45)
    assert found.above == 2 == sum(m > 100 * (1 + found.margin) + 1e-9 for m in measured)
    q = 0.95  # P(Binomial(45, q) < 43) = 1 − P(43) − P(44) − P(45)
    assert found.confidence == pytest.approx(1 - 990 * q**43 * 0.05**2 - 45 * q**44 * 0.05 - q**45)
    assert found.largest == pytest.approx(0.44)
    assert found.largest_confidence == pytest.approx(1 - q**45)
    with pytest.raises(ValueError, match="at least one row"):
        published.bound([], [])


def test_pefts_lora_fa_trains_a_again_after_adapters_were_disabled() -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), LoraConfig(r=2, target_modules=["0"]))
    create_lorafa_optimizer(model, r=2, lora_alpha=4, lr=0.1)
    a = model.base_model.model[0].lora_A["default"].weight
    assert not a.requires_grad
    with model.disable_adapter():
        pass
    assert a.requires_grad


@pytest.mark.integration
def test_an_estimate_is_as_close_as_the_documentation_says(rows: pd.DataFrame) -> None:
    for loss in ("4.45.2", "4.48.1"):  # of these versions
        of_loss = (rows.transformers == loss) & (rows.method == "lora") & (rows.measured == "allocated")
        row = rows[of_loss & (rows.source == "fms-acceleration")].iloc[0]
        assert published.bytes_estimated(row) == pytest.approx(published.bytes_measured(row), rel=0.01)


@pytest.mark.integration
def test_the_margin_is_above_the_largest_excess_but_one_of_what_counts(rows: pd.DataFrame) -> None:
    """The largest is of memory that was reserved and not used; docs/memory.md says so."""
    of_source = (rows.source == "peft-experiments") & (rows.quantization == "nf4")
    (row,) = (row for _, row in rows[of_source & (rows.measured == "reserved")].iterrows())
    excess = published.bytes_measured(row) / published.bytes_estimated(row) - 1
    assert 0.05 < excess <= published.MARGIN
