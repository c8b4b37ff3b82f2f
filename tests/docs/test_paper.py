"""What the documentation says of the paper is what conf/ has: the coverage table, and the differences."""

import re
import runpy
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from pipeline.config.compose import CONF, compose_run

ROOT = Path(__file__).parents[2]
DIFFERENCES = yaml.safe_load((CONF / "differences.yaml").read_text())


def test_every_experiment_is_in_the_coverage_table_once_with_its_profiles():
    rows = re.findall(
        r"^\| .+ \| (.+) \| (.+) \| .+ \|$", (ROOT / "docs/coverage.md").read_text(), re.MULTILINE
    )
    listed = [(made.strip("`"), profiles) for made, profiles in rows if made.startswith("`")]
    expected = {
        file.stem: "full scale" if OmegaConf.load(file).get("only_full_scale") else "every"
        for file in (CONF / "experiment").glob("*.yaml")
    }
    assert len(listed) == len(expected)
    assert dict(listed) == expected


def test_the_page_of_differences_is_made_from_the_table():
    page = runpy.run_path(str(ROOT / "docs/generated.py"))["differences"]()
    assert (ROOT / "docs/differences.md").read_text() == page, (
        "python docs/generated.py differences > docs/differences.md"
    )


@pytest.mark.parametrize(
    "item", [item for item in DIFFERENCES if "run" in item], ids=lambda item: item["about"]
)
def test_a_difference_is_what_conf_has(item):
    run, _ = compose_run(["profile=paper", *item["run"]])
    assert OmegaConf.select(OmegaConf.structured(run), item["key"]) == item["value"]
