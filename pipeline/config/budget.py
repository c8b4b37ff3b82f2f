"""How long a run trains, and after how many steps it is evaluated."""

import math
from dataclasses import dataclass, field

from pipeline.config import checks


@dataclass
class Budget:
    """How long a run trains: either `epochs` or `max_steps` is given.

    Attributes:
        epochs: Passes over the training data.
        max_steps: Optimizer steps.
        evaluations: How often it is evaluated, evenly spread; null: after each epoch.
        batch_size: Examples in a step.
        max_length: Tokens of an input; the rest is cut off.
        max_target_length: Tokens of a translation or an answer.
        micro_batch: Examples of a pass, of which a step has several and adds their gradients up; null: all of a step's.
        fraction: Of the steps, those that are made, with warm-up and schedule as of a run of that length; null: all.
    """

    epochs: int | None = field(metadata=checks.at_least(1))
    max_steps: int | None = field(metadata=checks.at_least(1))
    evaluations: int | None = field(metadata=checks.at_least(1))
    batch_size: int = field(metadata=checks.at_least(1))
    max_length: int = field(metadata=checks.at_least(4))
    max_target_length: int | None = field(metadata=checks.at_least(4))
    micro_batch: int | None = field(default=None, metadata=checks.at_least(1))
    fraction: float | None = field(default=None, metadata=checks.between(0, 1))

    def steps(self, examples: int) -> tuple[int, int]:
        """Returns how many steps a run makes on so many examples, and after how many of them it is evaluated."""
        epoch = math.ceil(examples / self.batch_size)
        total = self.max_steps or epoch * (self.epochs or 0)
        total = math.ceil(total * self.fraction) if self.fraction else total
        return total, math.ceil(total / self.evaluations) if self.evaluations else min(epoch, total)
