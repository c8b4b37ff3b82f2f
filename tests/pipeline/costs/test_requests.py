import math
from dataclasses import dataclass, replace

import pytest

from pipeline.config.plan import PlannedRun
from pipeline.costs import requests
from pipeline.costs.cards import GPUS, Gpu
from pipeline.costs.cost import planned_cost
from pipeline.errors import ConfigError


@pytest.fixture(scope="module")
def run(results_plan) -> PlannedRun:
    return results_plan.grids["table2"][0]


@dataclass
class Estimate:
    """A cost that is an hour of an A100 to train, and as many seconds to score; five gigabytes of memory."""

    host_bytes: int = 5 * 10**9

    def seconds(self, gpu: Gpu, part: str) -> float:
        assert gpu is GPUS["a100-80gb"]
        return {"training": 3600, "evaluation": 36}[part]


@pytest.fixture
def on_gpus(results_plan, monkeypatch):
    monkeypatch.setattr(requests, "planned_cost", lambda run, profile: Estimate())
    return replace(results_plan.profile, gpus=1)


def test_a_job_asks_for_its_estimate_with_a_margin_and_an_attempt_for_more(run, on_gpus):
    asked = [requests.requested(run, on_gpus, "a100-80gb", attempt) for attempt in (1, 2, 3)]
    assert [request.mem for request in asked] == ["10250 MB", "20500 MB", "30750 MB"]  # 4 + 5 × 1.25 GB
    assert [request.runtime for request in asked] == [180, 360, 540]  # 1 h + 2 × 1 h


def test_scoring_asks_for_its_own_time(run, on_gpus):
    assert requests.requested(run, on_gpus, "a100-80gb", 1, "evaluation").runtime == 62


def test_runs_on_cpus_are_not_estimated(results_plan, run, monkeypatch):
    monkeypatch.setattr(requests, "planned_cost", lambda *_: pytest.fail("was estimated"))
    asked = requests.requested(run, results_plan.profile, "a100-80gb", 2)
    assert asked == requests.Request("8000 MB", 120)


def test_an_unknown_gpu_is_named(run, on_gpus):
    with pytest.raises(ConfigError, match="a100-81gb"):
        requests.requested(run, on_gpus, "a100-81gb", 1)


def test_the_estimate_is_that_of_the_plan(compose_tiny, results_plan, run, tmp_path):
    profile = replace(results_plan.profile, gpus=1, mirror=compose_tiny().profile.mirror, cache=str(tmp_path))
    cost = planned_cost(run, profile)
    asked = requests.requested(run, profile, "rtx-4090", 1)
    assert int(asked.mem.removesuffix(" MB")) * 1e6 > requests.LEAST_MB * 1e6 + cost.host_bytes
    assert asked.runtime == 60 + math.ceil(2 * cost.seconds(GPUS["rtx-4090"]) / 60)
