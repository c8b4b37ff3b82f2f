"""A warm process that jobs fork from, so that importing torch and transformers is paid once and not per run.

`python -m pipeline.worker run MODULE ARGUMENT...` does what `python -m MODULE ARGUMENT...` does. Where LORAFA_WORKER
names the socket of a running `serve`, the module runs in a fork of that process, with this process's environment,
folder and standard streams; else it runs right here. Signals that ask the client to stop reach its fork; a killed
client, or the end of the worker, takes the fork with it. With `--log FILE`, what the module prints goes there, and a
failure ends with one line on standard error that begins with "error: ".
"""

import argparse
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.cli import INTERRUPTED, quieten

SOCKET = "LORAFA_WORKER"
PRELOAD = (
    "hydra.main",
    "matplotlib.pyplot",
    "pipeline.evaluate",
    "pipeline.results.provenance",
    "pipeline.tables.memory",
    "pipeline.tasks.classification",
    "pipeline.tasks.instructions",
    "pipeline.tasks.translation",
    "pipeline.train",
    "pipeline.training.fit",
)
STREAMS = (0, 1, 2)
SEEN: set[int] = set()  # signals that this client has got
FORWARDED = (signal.SIGINT, signal.SIGTERM)
LAST_LINES = 20  # of a log, to show what led to an error that nobody foresaw
# glibc gives a tensor's memory back to the system and gets it anew at each step, for a tenth of a CPU run's time.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**33)}


class Worker:
    """A worker for the jobs of this process and of what it starts, where the system can have one (Linux)."""

    def __init__(self, preload: Sequence[str] = PRELOAD) -> None:
        self._preload = preload
        self._folder: TemporaryDirectory[str] | None = None
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; jobs find it through the environment."""
        if not hasattr(os, "pidfd_open"):
            return
        self._folder = TemporaryDirectory(prefix="lorafa-")
        path = os.path.join(self._folder.name, "worker")
        os.environ[SOCKET] = path
        environment = {**KEEP_MEMORY, **os.environ, "OMP_NUM_THREADS": "1"}
        command = [
            sys.executable,
            "-m",
            "pipeline.worker",
            "serve",
            "--owner",
            str(os.getpid()),
            path,  # after the option: argparse would end the list of modules there
            *self._preload,
        ]
        self._server = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 - our own
        while not os.path.exists(path) and self._server.poll() is None:
            time.sleep(0.01)

    def stop(self) -> None:
        """Ends it, and with it what still runs in it."""
        if self._server is None or self._folder is None:
            return
        os.environ.pop(SOCKET, None)
        self._server.terminate()
        self._server.wait()
        self._folder.cleanup()
        self._server = self._folder = None


def run(module: str, arguments: list[str]) -> int:
    """Runs a module in a fork of the worker, or here when there is none, and returns its exit code."""
    path = os.environ.get(SOCKET)
    if not path:
        return _execute(module, arguments)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return _execute(module, arguments)
        request = {
            "module": module,
            "arguments": arguments,
            "folder": os.getcwd(),
            "environment": dict(os.environ),
        }
        message = json.dumps(request).encode()
        connection.sendall(len(message).to_bytes(8))
        connection.sendall(message)
        socket.send_fds(connection, [b"."], list(STREAMS))
        for number in FORWARDED:
            signal.signal(number, lambda number, _: _pass_to_fork(connection, number))
        reply = connection.recv(8)
    return int.from_bytes(reply, signed=True) if reply else 1


def _pass_to_fork(connection: socket.socket, number: int) -> None:
    SEEN.add(number)
    connection.sendall(bytes([number]))


def _note_interrupt(number: int, _: Any) -> None:
    SEEN.add(number)
    raise KeyboardInterrupt


def run_logged(log: Path, module: str, arguments: list[str]) -> int:
    """Runs a module as `run` does, with its output in a file; a failure is told on standard error.

    Who pressed Ctrl-C knows: there, the log alone says what became of it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, _note_interrupt)
    terminal = os.dup(2)
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    code = run(module, arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    if code and not (code == INTERRUPTED and signal.SIGINT in SEEN):
        os.write(terminal, (complaint(log, code) + "\n").encode())
    return code


def complaint(log: Path, code: int) -> str:
    """Returns what to tell of a failed job: its own `error: ` line, or else the end of its log and one that we make."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith("error: "):
            return line
    if not lines:
        return f"error: ended with exit code {code} without a word, as what is killed does; its log, {log}, is empty"
    return "\n".join([*lines[-LAST_LINES:], f"error: {lines[-1].strip()} (all of it is in {log})"])


def serve(path: str, owner: int, preload: Sequence[str]) -> None:
    """Answers requests on a socket until the owner ends; one fork for each."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
        selectors.DefaultSelector() as selector,
    ):
        listener.bind(path)
        listener.listen(1024)
        quieten()
        for module in preload:
            importlib.import_module(module)
        gc.freeze()  # what the imports made lives as long as the process; each collection in a fork would go through it
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        selector.register(listener, selectors.EVENT_READ, "request")
        selector.register(os.pidfd_open(owner), selectors.EVENT_READ, "owner ended")
        while True:
            for key, _ in selector.select():
                if key.data == "owner ended":
                    return
                if key.data == "request":
                    connection, _ = listener.accept()
                    try:
                        request, streams = _read_request(connection)
                    except ConnectionError:
                        connection.close()
                        continue
                    child = _fork(request, streams)
                    finished = os.pidfd_open(child)
                    selector.register(connection, selectors.EVENT_READ, ("from client", child, connection))
                    selector.register(finished, selectors.EVENT_READ, ("child ended", child, connection))
                elif key.data[0] == "from client":
                    _pass_on(selector, *key.data[1:])
                else:
                    _, child, connection = key.data
                    _reply(selector, connection, child)
                    selector.unregister(key.fd)
                    os.close(key.fd)


def _pass_on(selector: selectors.BaseSelector, child: int, connection: socket.socket) -> None:
    """Passes a client's signal on to its fork, and kills the fork of a client that has left."""
    if connection.fileno() < 0:  # the fork has ended at the same moment
        return
    try:
        received = connection.recv(1)
    except ConnectionError:
        received = b""
    if not received:
        selector.unregister(connection)
    with suppress(ProcessLookupError):
        os.killpg(child, received[0] if received else signal.SIGKILL)


def _reply(selector: selectors.BaseSelector, connection: socket.socket, child: int) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if connection in [key.fileobj for key in selector.get_map().values()]:
        selector.unregister(connection)
        with suppress(ConnectionError):
            connection.sendall(code.to_bytes(8, signed=True))
    connection.close()


def _read_request(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    size = int.from_bytes(_receive(connection, 8))
    request = json.loads(_receive(connection, size))
    _, streams, _, _ = socket.recv_fds(connection, 1, len(STREAMS))
    return request, streams


def _fork(request: dict[str, Any], streams: list[int]) -> int:
    signal.pthread_sigmask(
        signal.SIG_BLOCK, {signal.SIGINT}
    )  # or it could end in what libraries do after a fork
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.setpgid(child, child)
        for stream in streams:
            os.close(stream)
        return child
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_parent(signal.SIGTERM)
    code = 1
    try:
        for stream, target in zip(streams, STREAMS, strict=True):
            os.dup2(stream, target)
        os.chdir(request["folder"])
        sys.path[0] = request["folder"]  # as `python -m` has it
        os.environ.clear()
        os.environ.update(request["environment"])
        code = _execute(request["module"], request["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_with_parent(number: signal.Signals) -> None:
    """Has Linux send a signal to this process when the one that started it ends, however it does (man 2 prctl)."""
    set_parent_death_signal = 1
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(set_parent_death_signal, number)


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(size)
        if not part:
            raise ConnectionError("the client left in the middle of its request")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _execute(module: str, arguments: list[str]) -> int:
    sys.argv = [module, *arguments]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # or a log would begin with its last lines
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # what came since the fork comes now
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:  # while the module was being imported
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.worker", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="run a module, in a fork of the worker if there is one")
    run_parser.add_argument("--log", type=Path, help="the file for what the module prints")
    run_parser.add_argument("module")
    run_parser.add_argument("arguments", nargs=argparse.REMAINDER)
    serve_parser = commands.add_parser("serve", help="be the worker")
    serve_parser.add_argument("socket", type=Path)
    serve_parser.add_argument("--owner", type=int, required=True, help="process id to end with")
    serve_parser.add_argument("preload", nargs="*", help="modules to import before the first request")
    arguments = parser.parse_args()
    if arguments.command == "serve":
        serve(str(arguments.socket), arguments.owner, arguments.preload)
    elif arguments.log:
        sys.exit(run_logged(arguments.log, arguments.module, arguments.arguments))
    else:
        sys.exit(run(arguments.module, arguments.arguments))


if __name__ == "__main__":
    main()
