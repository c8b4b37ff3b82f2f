import os
import signal
import subprocess
import sys
import time

import pytest

from pipeline import worker

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the worker needs Linux")


@pytest.fixture
def server():
    running = worker.Worker(preload=())
    running.start()
    yield running
    running.stop()


def client(*arguments: str, **kwargs) -> subprocess.Popen:
    command = [sys.executable, "-m", "pipeline.worker", "run", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module `probe` on the path, with the given code."""

    def write(code: str) -> str:
        (tmp_path / "probe.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "probe"

    return write


@pytest.mark.parametrize("with_server", [True, False])
@pytest.mark.parametrize(("end", "code"), [("", 0), ("sys.exit(3)", 3), ("sys.exit('no')", 1), ("1 / 0", 1)])
def test_output_environment_folder_and_exit_code_are_the_module_s(
    request, tmp_path, module, with_server, end, code
):
    name = module(f"import os, sys\nprint(sys.argv[1:], os.environ['COLOUR'], os.getcwd())\n{end}")
    if with_server:
        request.getfixturevalue("server")
    process = client(name, "a", "b=c", cwd=tmp_path, env={**os.environ, "COLOUR": "blue"})
    output, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert output == f"['a', 'b=c'] blue {tmp_path}\n"


def test_a_killed_client_takes_its_fork_with_it(module, server, tmp_path):
    mark = tmp_path / "pid"
    name = module(
        f"import os, time, pathlib\npathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\ntime.sleep(60)"
    )
    process = client(name, cwd=tmp_path)
    deadline = time.monotonic() + 30
    while not mark.exists() or not mark.read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    while os.path.exists(f"/proc/{mark.read_text()}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_its_server_a_client_runs_the_module_itself(monkeypatch, tmp_path, module):
    monkeypatch.setenv(worker.SOCKET, str(tmp_path / "gone"))
    output, _ = client(module("print('here')")).communicate(timeout=60)
    assert output == "here\n"
