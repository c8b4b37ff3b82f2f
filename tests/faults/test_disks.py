"""Disks that are full or cannot be written: one line that says so, and nothing of what was computed is lost."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.results import records


class Disk:
    """A small disk in memory; to mount it takes the right to, as root has it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def mount(self, options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)]
        try:
            return subprocess.run(command, capture_output=True).returncode == 0
        except FileNotFoundError:
            return False

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    if not disk.mount("size=512k"):
        pytest.skip("a disk of one's own takes the right to mount one (run as root)")
    yield disk
    disk.unmount()


@pytest.fixture
def job(disk: Disk, tiny_overrides: list[str]):
    """Runs a job whose results are on the disk."""

    def run(module: str, *overrides: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            module,
            *tiny_overrides,
            f"profile.results={disk.folder}",
            *overrides,
        ]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def complaint(process: subprocess.CompletedProcess[str]) -> str:
    """The error of a job that failed as it should: one line, and no traceback."""
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    (message,) = (line for line in process.stderr.splitlines() if line.startswith("error: "))
    return message


def record_of(disk: Disk) -> dict:
    (path,) = disk.folder.rglob(records.NAME)
    return records.read(path.parent).train_info


@pytest.mark.parametrize(
    ("method", "kilobytes"), [("lora-fa", 16), ("lora-fa", 150), ("full-ft", 200), ("full-ft", 400)]
)
def test_a_full_disk_is_one_line_and_with_room_the_run_goes_on(
    disk, job, tmp_path_factory, kilobytes, method
):
    disk.remount(f"size={kilobytes}k")
    message = complaint(job("pipeline.train", f"method={method}"))
    assert message.startswith("error: could not write")
    assert "No space left on device. Make room" in message
    assert not list(disk.folder.rglob(records.NAME))
    disk.remount("size=64m")
    assert job("pipeline.train", f"method={method}").returncode == 0
    info = record_of(disk)
    assert info.status == "done" and info.steps == 6


def test_a_disk_that_is_full_when_a_run_is_scored_keeps_the_run(disk, job):
    disk.remount("size=64m")
    assert job("pipeline.train").returncode == 0
    filler = disk.folder / "filler"
    with pytest.raises(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
    trained = record_of(disk)
    assert "No space left on device" in complaint(job("pipeline.evaluate"))
    assert record_of(disk) == trained
    filler.unlink()
    assert job("pipeline.evaluate").returncode == 0


def test_results_that_cannot_be_written_are_one_line(disk, job):
    disk.remount("size=64m")
    disk.remount("ro")
    message = complaint(job("pipeline.train"))
    assert message.startswith(f"error: could not write {disk.folder}")
    assert "Read-only file system. Make room or correct the permissions" in message
    disk.remount("rw")
    assert job("pipeline.train").returncode == 0
    assert record_of(disk)["status"] == "done"
