"""Compares two trees of results, cell by cell: `python -m pipeline.diff A B`.

A and B are folders such as `results/mini`, of two commits or two machines. A cell is a model, method and task with its
settings; its seeds are those that both trees have. Each difference, B − A, has the interval of the verdicts under the
tables (docs/statistics.md): with three seeds it allows for other seeds, with fewer for other examples alone. A cell
differs where that is more than chance, corrected by Holm for the number of cells.

Exits with 0 if nothing differs, with 1 if a cell does or is in one tree alone, and with 2 if they cannot be compared.
"""

import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.cli import command_line, job
from pipeline.comparison import runs
from pipeline.comparison.paired import TaskRuns, compare, holm
from pipeline.comparison.verdict import Comparison
from pipeline.errors import RecordError
from pipeline.results import records
from pipeline.results.records import Machine, RunInfo

CONFIDENCE = 0.95
Cells = dict[str, dict[int, Path]]  # by the path without the seed


@dataclass(frozen=True)
class Difference:
    """A cell of both trees.

    Attributes:
        cell: Its path below `runs`, without the seed.
        found: B − A.
        a, b: Mean scores in points, over the seeds of both trees.
        p_value: Two-sided, corrected for the number of cells.
        configured: Whether both trees trained with the same configuration.
    """

    cell: str
    found: Comparison
    a: float
    b: float
    p_value: float
    configured: bool

    @property
    def differs(self) -> bool:
        """Whether it is more than chance."""
        return self.p_value < 1 - self.found.confidence

    @property
    def words(self) -> str:
        """The last column."""
        word = ("higher" if self.b > self.a else "lower") if self.differs else "within chance"
        word = f"{self.found.verdict}: {self.found.reason}" if self.found.reason else word
        return word if self.configured else f"{word}; another configuration"


def cells(results: Path) -> Cells:
    """Returns the scored runs of a tree.

    Raises:
        RecordError: There are none.
    """
    found: Cells = defaultdict(dict)
    root = results / "runs"
    for file in sorted(root.rglob(records.EVALUATION)):
        cell, _, seed = file.parent.relative_to(root).as_posix().rpartition("/seed=")
        found[cell][int(seed)] = file.parent
    if not found:
        raise RecordError(f"{root} has no scored run: give a folder such as results/mini")
    return dict(found)


def differences(a: Cells, b: Cells) -> list[Difference]:
    """Compares the cells that both trees have."""
    common = [cell for cell in a if cell in b]
    pairs = [_pair(cell, a[cell], b[cell]) for cell in common]
    found = [
        compare([pair], "B", "A", margin=0, fraction=0, confidence=CONFIDENCE).tasks[0] for pair in pairs
    ]
    adjusted = holm([2 * min(one.p_value, 1 - one.p_value) if not one.reason else 1 for one in found])
    return [
        Difference(cell, one, *_means(pair, one.seeds), p_value, _configured(a[cell], b[cell]))
        for cell, one, pair, p_value in zip(common, found, pairs, adjusted, strict=True)
    ]


def page(a: Cells, b: Cells, found: list[Difference]) -> str:
    """Returns what there is to say, for a terminal."""
    alike = [one for one in found if one.found.seeds and one.found.reason and one.configured]
    lines = [_line(one) for one in sorted(found, key=lambda one: one.p_value) if one not in alike]
    columns = ["Cell", "A", "B", "B − A", f"{CONFIDENCE:.0%} interval", "p, Holm", ""]
    right = ("left", *["right"] * 5, "left")
    frame = pd.DataFrame(lines, columns=columns)
    differing = sum(one.differs for one in found)
    summary = (
        f"{len(found)} cells in both: {differing} differ, {len(found) - differing - len(alike)} are within "
    )
    summary += f"chance, {len(alike)} have nothing to tell them apart"
    alone = [f"only in {name}: {cell}" for name, cell in _alone(a, b)]
    return "\n".join(
        [
            *(f"{name}: {_origin(tree)}" for name, tree in (("A", a), ("B", b))),
            *([frame.to_markdown(index=False, disable_numparse=True, colalign=right)] if lines else []),
            *alone,
            summary,
        ]
    )


def _alone(a: Cells, b: Cells) -> list[tuple[str, str]]:
    return [("A", cell) for cell in a if cell not in b] + [("B", cell) for cell in b if cell not in a]


def _pair(cell: str, a: dict[int, Path], b: dict[int, Path]) -> TaskRuns:
    return runs.pair(
        cell,
        {seed: runs.read(directory) for seed, directory in b.items()},
        {seed: runs.read(directory) for seed, directory in a.items()},
    )


def _means(pair: TaskRuns, seeds: tuple[int, ...]) -> tuple[float, float]:
    scores = pd.DataFrame([[pair.reference[seed].value, pair.candidate[seed].value] for seed in seeds])
    return tuple(scores.mean()) if seeds else (float("nan"), float("nan"))


def _configured(a: dict[int, Path], b: dict[int, Path]) -> bool:
    hashes = [
        records.read(tree[seed]).run_info.config_hash for seed in a.keys() & b.keys() for tree in (a, b)
    ]
    return all(one == other for one, other in zip(hashes[::2], hashes[1::2], strict=True))


def _line(one: Difference) -> list[str]:
    if one.found.reason:
        return [one.cell, f"{one.a:.1f}", f"{one.b:.1f}", "–", "–", "–", one.words]
    numbers = [f"{one.a:.1f}", f"{one.b:.1f}", f"{one.found.difference:+.1f}"]
    interval = f"[{one.found.low:+.1f}, {one.found.high:+.1f}]"
    return [one.cell, *numbers, interval, f"{one.p_value:.3f}", one.words]


def _origin(tree: Cells) -> str:
    """Returns the commits and machines that a tree comes from."""
    found = [records.read(directory) for seeds in tree.values() for directory in seeds.values()]
    commits = sorted({_commit(record.run_info) for record in found})
    machines = sorted({_machine(record.meta_info.machine) for record in found})
    return f"{len(found)} runs, commit {', '.join(commits)}, on {'; '.join(machines)}"


def _commit(info: RunInfo) -> str:
    commit = (info.git_commit or "unknown")[:12]
    return f"{commit} with changes" if info.git_dirty else commit


def _machine(machine: Machine | None) -> str:
    if machine is None:
        return "an unknown machine"
    return ", ".join([f"{machine.cores or '?'} cores ({machine.processor})", *machine.gpus])


@job
def main() -> None:
    """Runs the command line."""
    parser = command_line("pipeline.diff", __doc__)
    parser.add_argument("a", type=Path, metavar="A", help="a folder of results, such as results/mini")
    parser.add_argument("b", type=Path, metavar="B", help="another")
    given = parser.parse_args()
    a, b = cells(given.a), cells(given.b)
    found = differences(a, b)
    print(page(a, b, found))
    if any(one.differs for one in found) or _alone(a, b):
        sys.exit(1)


if __name__ == "__main__":
    main()
