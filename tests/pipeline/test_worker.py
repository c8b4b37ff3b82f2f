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


def wait_for(condition, process=None):
    deadline = time.monotonic() + 30
    while not condition():
        assert (process is None or process.poll() is None) and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def sleeper(module, tmp_path):
    """A client whose fork waits, once it has written its process id to `mark`."""

    def start(before: str = "", after: str = ""):
        mark = tmp_path / "pid"
        name = module(
            f"import os, signal, sys, time, pathlib\n{before}\n"
            f"pathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\ntry: time.sleep(60)\n{after}"
        )
        process = client(name, cwd=tmp_path)
        wait_for(lambda: mark.exists() and mark.read_text(), process)
        return process, f"/proc/{mark.read_text()}"

    return start


def test_a_killed_client_takes_its_fork_with_it(server, sleeper):
    process, fork = sleeper(after="finally: pass")
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not os.path.exists(fork))


@pytest.mark.parametrize("number", worker.FORWARDED)
def test_a_client_s_signals_reach_its_fork_which_ends_as_it_likes(server, sleeper, number):
    process, fork = sleeper(
        "signal.signal(signal.SIGTERM, signal.default_int_handler)",
        "except KeyboardInterrupt:\n    print('saved')\n    sys.exit(75)",
    )
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert (output, process.returncode) == ("saved\n", 75)
    assert not os.path.exists(fork)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_worker_s_end_is_its_forks_end(server, sleeper, number):
    process, fork = sleeper(after="finally: pass")
    server._server.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 1
    wait_for(lambda: not os.path.exists(fork))


def test_without_its_server_a_client_runs_the_module_itself(monkeypatch, tmp_path, module):
    monkeypatch.setenv(worker.SOCKET, str(tmp_path / "gone"))
    output, _ = client(module("print('here')")).communicate(timeout=60)
    assert output == "here\n"


@pytest.mark.parametrize("with_server", [True, False])
@pytest.mark.parametrize(
    ("end", "code", "last"),
    [
        ("", 0, ""),
        ("sys.exit(3)", 3, "error: out (all of it is in {log})"),
        (
            "print('error: no such file', file=sys.stderr)\nprint('bye')\nsys.exit(2)",
            2,
            "error: no such file",
        ),
        ("1 / 0", 1, "error: ZeroDivisionError: division by zero (all of it is in {log})"),
    ],
)
def test_a_log_gets_all_output_and_a_failure_ends_in_one_error_line(
    request, tmp_path, module, with_server, end, code, last
):
    name, log = module(f"import sys\nprint('out')\n{end}"), tmp_path / "a folder" / "its log"
    if with_server:
        request.getfixturevalue("server")
    command = [sys.executable, "-m", "pipeline.worker", "run", "--log", str(log), name, "--option", "a=b c"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (code, "")
    assert log.read_text().startswith("out\n")
    assert (result.stderr.splitlines() or [""])[-1] == last.format(log=log)
    assert result.stderr.count("error: ") == (code > 0)


def test_what_died_without_a_word_is_told_of(tmp_path):
    log = tmp_path / "log"
    log.touch()
    assert worker.complaint(log, -9).startswith("error: ended with exit code -9 without a word")


@pytest.mark.parametrize(
    ("wait", "last"),
    [
        (
            "try: time.sleep(60)\nexcept KeyboardInterrupt:\n    print('error: interrupted at 3')\n    sys.exit(75)",
            "error: interrupted at 3",
        ),
        ("time.sleep(60)", "error: interrupted"),
    ],
)
def test_who_pressed_ctrl_c_is_told_nothing_and_the_log_all(tmp_path, module, wait, last):
    log, mark = tmp_path / "log", tmp_path / "mark"
    name = module(f"import pathlib, sys, time\npathlib.Path({str(mark)!r}).touch()\n{wait}")
    command = [sys.executable, "-m", "pipeline.worker", "run", "--log", str(log), name]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for(mark.exists, process)
    process.send_signal(signal.SIGINT)
    assert (process.communicate(timeout=30)[1], process.returncode) == ("", 75)
    assert log.read_text().splitlines()[-1] == last
