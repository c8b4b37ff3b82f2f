"""What a run's job asks of a cluster: memory and time, from what the run is estimated to cost."""

import math
from dataclasses import dataclass

from pipeline.config.plan import PlannedRun
from pipeline.config.profile import Profile
from pipeline.costs.cards import gpu
from pipeline.costs.cost import Part, planned_cost

# What any job gets: Python with PyTorch and the data, and the time until they are there.
LEAST_MB = 4_000
LEAST_MINUTES = 60
# Upon the estimates. No run has been timed on a GPU yet: one that is half as fast as it should be is given its time.
MEMORY_SAFETY = 1.25
TIME_SAFETY = 2.0


@dataclass(frozen=True)
class Request:
    """What a job asks for.

    Attributes:
        mem: Of the machine's memory, with its unit, as Snakemake reads it.
        runtime: Minutes.
    """

    mem: str
    runtime: int


def requested(run: PlannedRun, profile: Profile, card: str, attempt: int, part: Part = "training") -> Request:
    """Returns what the job of a run asks for.

    A run on CPUs is of a small profile, and asks for the least without being estimated.

    Args:
        run: The run.
        profile: The profile that it belongs to.
        card: The GPU that it will have, or the slowest that it may have, by its name in `pipeline.costs.cards`.
        attempt: How many times it has been tried, with this one; an attempt asks for so many times the first request.
        part: The job.

    Raises:
        ConfigError: The GPU is not known.
        AssetError: The run cannot be estimated.
    """
    megabytes, minutes = LEAST_MB, LEAST_MINUTES
    if profile.gpus:
        cost = planned_cost(run, profile)
        megabytes += math.ceil(MEMORY_SAFETY * cost.host_bytes / 1e6)
        minutes += math.ceil(TIME_SAFETY * cost.seconds(gpu(card), part) / 60)
    return Request(f"{megabytes * attempt} MB", minutes * attempt)
