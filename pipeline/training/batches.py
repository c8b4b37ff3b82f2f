"""Batches of similar length, in random order: less padding, and each batch still is of random examples."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class SimilarLengths(Sampler[int]):
    """Draws examples at random, sorts each few batches' worth by length, and shuffles the batches that come of it.

    transformers' `LengthGroupedSampler` leaves the batches sorted, from long to short, which the steps of a short run
    notice. Only the last batch may be incomplete.

    Args:
        lengths: Of the examples, in tokens.
        batch_size: Examples in a step.
        batches: How many batches' worth is sorted together.
        seed: With the epoch, decides the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, batches: int, seed: int) -> None:
        self._lengths = np.asarray(lengths)
        self._batch_size = batch_size
        self._batches = batches
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Has the next pass be that epoch's; a resumed run calls it, too."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self._lengths))
        whole = len(order) - len(order) % self._batch_size
        for start in range(0, whole, self._batches * self._batch_size):
            together = order[start : min(start + self._batches * self._batch_size, whole)]
            together[:] = together[np.argsort(self._lengths[together], kind="stable")]
        batches = order[:whole].reshape(-1, self._batch_size)
        yield from batches[rng.permutation(len(batches))].ravel().tolist()
        yield from order[whole:].tolist()
