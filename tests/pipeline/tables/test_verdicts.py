"""What stands under a table whose verdict is open."""

from types import SimpleNamespace

import pytest

from pipeline.comparison.verdict import Comparison, Report
from pipeline.config.experiment import Statistics
from pipeline.tables import verdicts

SETTINGS = Statistics("lora-fa", ["lora"], 1.0, 0.1, 0.95)


def comparison(difference, low, high, task="average", seeds=(0, 1, 2), seed_error=0.6, example_error=0.0):
    errors = {"seed_error": seed_error, "example_error": example_error, "improvement": 2 / 3}
    return Comparison("LoRA-FA", "LoRA", task, 1.0, 0.95, seeds, (), difference, low, high, **errors)


def sentence(one, profile="mini"):
    plan = SimpleNamespace(profile=SimpleNamespace(name=profile, seeds=[0, 1, 2]), statistics=SETTINGS)
    return verdicts.sentence(plan, Report((one,), one), one)


@pytest.mark.parametrize(
    ("one", "profile", "advice"),
    [
        (
            comparison(0.0, -2.6, 2.6),
            "mini",
            "Should it stay as it is seen, 8 more seeds would decide it with 80% power: `make tables SEEDS=11`.",
        ),
        (comparison(0.0, -2.6, 2.6), "paper", "`make tables PROFILE=paper SEEDS=11`."),
        (
            comparison(-0.9, -3.6, 1.6, example_error=0.4),
            "mini",
            "More seeds would hardly decide it: it is 0.1 points from the margin, and the examples alone make it "
            "uncertain by ±0.8.",
        ),
        (
            comparison(0.0, -2.6, 2.6, seeds=(0,)),
            "mini",
            "Its seeds are fixed in conf/profile/mini.yaml, profile.grids.",
        ),
    ],
)
def test_an_open_verdict_says_what_would_decide_it(one, profile, advice):
    assert sentence(one, profile).endswith(advice)


def test_a_verdict_says_nothing_of_more_seeds():
    assert (
        sentence(comparison(0.5, -0.6, 1.6))
        == "LoRA-FA − LoRA: +0.5 [−0.6, 1.6], not inferior at margin 1.0. LoRA-FA is ahead in 67% of the pairs of runs."
    )
