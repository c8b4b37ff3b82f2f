"""What a comparison of two methods came to: differences with their intervals, verdicts, and both in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from pipeline.comparison.intervals import seeds_to_decide

RANDOM_SEEDS = 3  # with fewer, seeds are held fixed: one or two say next to nothing of how seeds differ
AVERAGE = "average"


class Verdict(StrEnum):
    """What an interval says about a margin; `BETTER` implies `NOT_INFERIOR`."""

    BETTER = "better"  # the interval is above 0
    NOT_INFERIOR = "not inferior"  # above −margin
    INFERIOR = "inferior"  # below −margin
    INCONCLUSIVE = "inconclusive"  # contains −margin
    NONE = "no verdict"


@dataclass(frozen=True)
class Retention:
    """What a candidate keeps of its reference's gain over a baseline that needs no training.

    Attributes:
        kept: The candidate's gain as a share of the reference's.
        wanted: The share that it must keep.
        low: Lower end of the interval of what it has above that, in points.
        high: Upper end.
    """

    kept: float
    wanted: float
    low: float
    high: float

    @property
    def text(self) -> str:
        """In a few words, such as "keeps at least 90% of the gain (seen: 99%)"."""
        seen = f"(seen: {self.kept:.0%})".replace("-", "−")
        if self.low > 0:
            return f"keeps at least {self.wanted:.0%} of the gain {seen}"
        if self.high < 0:
            return f"keeps less than {self.wanted:.0%} of the gain {seen}"
        return f"may or may not keep {self.wanted:.0%} of the gain {seen}"


@dataclass(frozen=True)
class Comparison:
    """Candidate − reference on one task, or on the average of several, in points.

    Attributes:
        candidate: Label of the method in question.
        reference: Label of the method it is compared with.
        task: The task, or `AVERAGE`.
        margin: The largest deficit, in points, that counts as none.
        confidence: Of the two-sided interval, such as 0.95.
        seeds: The seeds that count, those that both methods have.
        left_out: The seeds that only one method has (for the average: that not all runs have).
        difference: Mean over the seeds.
        low: Lower end of the interval.
        high: Upper end.
        seed_error: Standard error from the choice of seeds; 0 where they are held fixed (fewer than `RANDOM_SEEDS`).
        example_error: Standard error from the choice of examples, larger where few clusters of them decide.
        p_value: One-sided, of the hypothesis that the difference is −margin or less. Below `alpha` exactly if `low` is
            above −margin.
        p_holm: The same after Holm's correction for all tasks of the report; that of the average is not corrected.
        improvement: The probability of improvement: the share of pairs of runs, one of each method, in which the
            candidate scores higher (Agarwal et al., 2021, https://arxiv.org/abs/2108.13264); of the average, its mean.
        collapsed: How many of the candidate's runs learnt nothing, and of the reference's; they count as they are.
        independent: The tasks each of whose examples counts as drawn by itself, as no clusters are known.
        retention: The margin that is a share of the reference's gain; None where none is shown.
        reason: Why there is no verdict; the numbers are then NaN and the p-values 1.
    """

    candidate: str
    reference: str
    task: str
    margin: float
    confidence: float
    seeds: tuple[int, ...]
    left_out: tuple[int, ...]
    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seed_error: float = math.nan
    example_error: float = math.nan
    p_value: float = 1.0
    p_holm: float = 1.0
    improvement: float = math.nan
    collapsed: tuple[int, int] = (0, 0)
    independent: tuple[str, ...] = ()
    retention: Retention | None = None
    reason: str = ""

    @property
    def alpha(self) -> float:
        """The one-sided level of the non-inferiority test: half of what the two-sided interval leaves."""
        return (1 - self.confidence) / 2

    @property
    def fixed(self) -> bool:
        """Whether the verdict is about these seeds alone."""
        return len(self.seeds) < RANDOM_SEEDS

    @property
    def verdict(self) -> Verdict:
        """The interval's position."""
        return Verdict.NONE if self.reason else _verdict(self.low, self.high, self.margin)

    def seeds_to_decide(self, power: float) -> int | None:
        """Returns how many seeds in all would decide this inconclusive comparison with a probability of `power`.

        Taken as true are the difference that is seen and the deviation of single seeds' differences; the examples and
        their error stay. None where no number would do, or where the seeds are too few to show how seeds differ.
        """
        if self.verdict is not Verdict.INCONCLUSIVE or self.fixed:
            return None
        deviation = self.seed_error * math.sqrt(len(self.seeds))
        distance = self.difference + self.margin
        return seeds_to_decide(
            distance, deviation, self.example_error, self.alpha, power, more_than=len(self.seeds)
        )

    @property
    def finding(self) -> str:
        """The numbers and what they say, such as "+0.1 [−0.6, 0.8], not inferior at margin 1.0"."""
        if self.reason:
            return f"{self.verdict}, {self.reason}"
        at_margin = "" if self.verdict is Verdict.BETTER else f" at margin {float(self.margin)}"
        lower = ", but lower" if self.high < 0 and self.verdict is not Verdict.INFERIOR else ""
        return f"{self._numbers()}, {self.verdict}{at_margin}{lower}"

    @property
    def text(self) -> str:
        """One line: who is compared with whom, the finding, and which runs it is about."""
        words = [f"{self.candidate} − {self.reference}: {self.finding}"]
        if self.fixed and not self.reason:
            words.append(f"for {_seeds(self.seeds)} alone")
        if self.left_out and not self.reason:
            words.append(f"without {_seeds(self.left_out)}")
        for method, count in zip((self.candidate, self.reference), self.collapsed, strict=True):
            words += [f"{count} run{'s' * (count > 1)} of {method} collapsed"] if count else []
        return ", ".join(words)

    @property
    def more(self) -> str:
        """What is kept of the gain, and how often a run beats one of the other method; empty without numbers."""
        if self.reason:
            return ""
        kept = f"{self.candidate} {self.retention.text}; it" if self.retention else self.candidate
        return f"{kept} is ahead in {self.improvement:.0%} of the pairs of runs"

    def _numbers(self) -> str:
        """The difference and its interval with the first number of digits at which they show the verdict."""
        for digits in (1, 2, 3):
            low, high = round(self.low, digits), round(self.high, digits)
            if _verdict(low, high, self.margin) is self.verdict and (high < 0) == (self.high < 0):
                break
        return f"{_number(self.difference, digits, '+')} [{_number(self.low, digits)}, {_number(self.high, digits)}]"


@dataclass(frozen=True)
class Report:
    """Every comparison of two methods.

    Attributes:
        tasks: One for each task, `p_holm` corrected for their number.
        average: The mean of the tasks' differences, over the seeds that all of them have.
    """

    tasks: tuple[Comparison, ...]
    average: Comparison

    @property
    def text(self) -> str:
        """On which tasks the candidate is not inferior, all of them at once: wrong anywhere with probability alpha."""
        shown = [comparison.task for comparison in self.tasks if comparison.p_holm < comparison.alpha]
        names = f": {', '.join(shown)}" if shown else ""
        return (
            f"Not inferior on {len(shown)} of {len(self.tasks)} tasks at once "
            f"(Holm, one-sided level {self.average.alpha:.3g}){names}"
        )


def _verdict(low: float, high: float, margin: float) -> Verdict:
    if low > 0:
        return Verdict.BETTER
    if low > -margin:
        return Verdict.NOT_INFERIOR
    return Verdict.INFERIOR if high < -margin else Verdict.INCONCLUSIVE


def _number(value: float, digits: int, sign: str = "-") -> str:
    rounded = round(value, digits) + 0.0  # no negative zero
    return f"{rounded:{sign if rounded else '-'}.{digits}f}".replace("-", "−")


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
