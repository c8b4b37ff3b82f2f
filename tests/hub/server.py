"""A hub on loopback for the huggingface_hub client, with the faults that a real one has.

It serves folders `<root>/{models,datasets}/<organisation>/<name>`. What it answers follows huggingface_hub 2.4: a
repository's facts, its files page by page, and the files themselves, large ones by way of another address, as the hub
sends them to its content network. It speaks plain HTTP, without Xet.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

PAGE = 50  # files that one answer lists; the hub's is 1,000
LARGE = (
    ".safetensors",
    ".bin",
    ".parquet",
    ".gz",
    ".h5",
    ".ot",
    ".msgpack",
    ".model",
)  # kept apart from git, by sha256
FOREVER = 10**9


@dataclass
class Fault:
    """What goes wrong with requests whose path matches.

    Attributes:
        pattern: A regular expression, of "METHOD path".
        status: Answer so, with these headers, in place of what was asked for.
        headers: Of that answer.
        cut: Send so many bytes of a body and close the connection.
        short: Send an answer that has so many bytes less, and says so.
        altered: Send as many bytes as are due, but others.
        times: How often; then all is well.
        happened: How often it happened.
    """

    pattern: str
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    short: int | None = None
    altered: bool = False
    times: int = FOREVER
    happened: int = 0


class File:
    """A file of a repository, as the hub knows it."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name
        self.claimed_size: int | None = None  # in place of the real one, in listings
        self.large = path.suffix in LARGE

    @cached_property
    def content(self) -> bytes:
        return self.path.read_bytes()

    @cached_property
    def blob_id(self) -> str:
        """What git calls the file, or the pointer that stands for a large one."""
        content = self.content
        if self.large:
            facts = f"oid sha256:{self.sha256}\nsize {len(content)}\n"
            content = f"version https://git-lfs.github.com/spec/v1\n{facts}".encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.blob_id

    @property
    def tree_entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "type": "file",
            "oid": self.blob_id,
            "size": len(self.content),
            "path": self.name,
        }
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 134}
        return entry

    @property
    def sibling(self) -> dict[str, Any]:
        size = self.claimed_size or len(self.content)
        entry: dict[str, Any] = {"rfilename": self.name, "size": size, "blobId": self.blob_id}
        if self.large:
            entry["lfs"] = {"sha256": self.sha256, "size": len(self.content), "pointerSize": 134}
        return entry


class Repository:
    """A repository at its one commit, which follows from its files unless it is said."""

    def __init__(self, folder: Path, kind: str, name: str, gated: bool, commit: str | None):
        self.kind, self.name, self.gated, self._commit = kind, name, gated, commit
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self.files = {
            path.relative_to(folder).as_posix(): File(path, path.relative_to(folder).as_posix())
            for path in paths
        }

    @cached_property
    def commit(self) -> str:
        if self._commit is not None:
            return self._commit
        listing = "".join(f"{file.blob_id} {name}\n" for name, file in self.files.items())
        return hashlib.sha1(listing.encode()).hexdigest()

    @property
    def info(self) -> dict[str, Any]:
        return {
            "id": self.name,
            "sha": self.commit,
            "private": False,
            "gated": "manual" if self.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [file.sibling for file in self.files.values()],
        }


class Hub:
    """The server; `with Hub(root) as hub:` runs it on a port of its own.

    Attributes:
        repositories: By "models/<id>" and "datasets/<id>".
        plans: Where its users keep their plans, which take seconds to make; the plans of conf/, not of the hub.
        accounts: Token to the gated ids that it may read.
        faults: What goes wrong.
        requests: "METHOD path" to how often it was asked for, since they were forgotten.
        resumed: "models/<id>/<file> from <byte>", where the client went on after a cut.
        unknown: Requests that the server has no answer for: the client would want more of a hub than there is here.
    """

    def __init__(self, root: Path, gated: frozenset[str], pinned: dict[str, str], plans: Path):
        self.plans = plans
        self.accounts: dict[str, set[str]] = {}
        self.faults: list[Fault] = []
        self.requests: Counter[str] = Counter()
        self.resumed: list[str] = []
        self.unknown: list[str] = []
        self.repositories = {
            f"{kind}/{organisation.name}/{folder.name}": Repository(
                folder,
                kind,
                f"{organisation.name}/{folder.name}",
                f"{organisation.name}/{folder.name}" in gated,
                pinned.get(f"{organisation.name}/{folder.name}"),
            )
            for kind in ("models", "datasets")
            for organisation in sorted((root / kind).iterdir())
            for folder in sorted(organisation.iterdir())
        }
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True

    def __enter__(self) -> "Hub":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def content_address(self) -> str:
        """Another host's name, as the hub's content network has: the client follows only the hub's own redirects."""
        return f"http://localhost:{self._server.server_port}"

    def fail(self, pattern: str, **how: Any) -> Fault:
        self.faults.append(Fault(pattern, **how))
        return self.faults[-1]

    def reset(self) -> None:
        """Forgets faults, accounts and requests."""
        self.faults.clear()
        self.accounts.clear()
        self.requests.clear()
        self.resumed.clear()

    def downloads(self) -> Counter[str]:
        """Returns how often each file was sent, by "models/<id>/<file>"."""
        return Counter(
            {name.removeprefix("SENT "): n for name, n in self.requests.items() if name.startswith("SENT ")}
        )

    def fault_for(self, request: str) -> Fault | None:
        for fault in self.faults:
            if fault.happened < fault.times and re.search(fault.pattern, request):
                fault.happened += 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    """Answers one request; see https://huggingface.co/docs/hub/api for the addresses."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        request = f"{self.command} {unquote(address.path)}"
        self.hub.requests[request] += 1
        self._fault = self.hub.fault_for(request)
        if self._fault is not None and self._fault.status is not None:
            self._send(b"", self._fault.status, self._fault.headers)
            return
        parts = [unquote(part) for part in address.path.strip("/").split("/")]
        if parts[0] == "api" and len(parts) >= 4:
            self._api(parts[1], "/".join(parts[2:4]), parts[4:], parse_qs(address.query))
        elif "resolve" in parts:
            kind = "datasets" if parts[0] == "datasets" else "models"
            place = parts.index("resolve")
            name = "/".join(parts[kind == "datasets" : place])
            self._resolve(kind, name, parts[place + 1], "/".join(parts[place + 2 :]))
        elif parts[0] == "content":
            self._file(parts[1], "/".join(parts[2:4]), "/".join(parts[4:]))
        else:
            self._unknown(request)

    def _api(self, kind: str, name: str, rest: list[str], query: dict[str, list[str]]) -> None:
        repository = self.hub.repositories.get(f"{kind}/{name}")
        if not self._token_is_known():
            return
        if repository is None:  # the hub does not tell strangers that a repository does not exist
            self._error(404 if self._token else 401, "RepoNotFound", "Repository not found")
        elif rest == ["auth-check"]:
            if self._may_read(repository):
                self._json({"success": True})
        elif not rest or rest[0] == "revision":
            if self._has_revision(repository, rest[1] if rest else "main"):
                self._json(repository.info)
        elif rest[0] == "tree":
            if self._has_revision(repository, rest[1]):
                self._tree(repository, int(query.get("cursor", ["0"])[0]))
        else:
            self._unknown(self.path)

    def _tree(self, repository: Repository, start: int) -> None:
        files = list(repository.files.values())
        headers = {}
        if start + PAGE < len(files):
            following = f"{self.hub.address}{urlsplit(self.path).path}?recursive=true&cursor={start + PAGE}"
            headers["Link"] = f'<{following}>; rel="next"'
        self._json([file.tree_entry for file in files[start : start + PAGE]], headers)

    def _resolve(self, kind: str, name: str, revision: str, file_name: str) -> None:
        repository = self.hub.repositories.get(f"{kind}/{name}")
        if not self._token_is_known():
            return
        if repository is None:
            self._error(404 if self._token else 401, "RepoNotFound", "Repository not found")
        elif self._may_read(repository) and self._has_revision(repository, revision):
            file = repository.files.get(file_name)
            if file is None:
                self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repository.commit})
                return
            headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{file.etag}"'}
            if not file.large:
                self._content(f"{kind}/{name}/{file_name}", file.content, headers)
                return
            headers |= {"X-Linked-Size": str(len(file.content)), "X-Linked-ETag": f'"{file.sha256}"'}
            place = f"{self.hub.content_address}/content/{kind}/{name}/{file_name}"
            self._send(b"", 302, headers | {"Location": place})

    def _file(self, kind: str, name: str, file_name: str) -> None:
        file = self.hub.repositories[f"{kind}/{name}"].files[file_name]
        self._content(f"{kind}/{name}/{file_name}", file.content, {"ETag": f'"{file.sha256}"'})

    def _content(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, start = 206, int(match[1])
            self.hub.resumed.append(f"{name} from {start}")
            headers = headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        if self.command == "GET":
            self.hub.requests[f"SENT {name}"] += 1
        self._send(content[start:], status, headers | {"Accept-Ranges": "bytes"})

    @property
    def _token(self) -> str | None:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") or None

    def _token_is_known(self) -> bool:
        known = self._token is None or self._token in self.hub.accounts
        if not known:
            self._error(401, None, "Invalid credentials in Authorization header")
        return known

    def _may_read(self, repository: Repository) -> bool:
        allowed = not repository.gated or repository.name in self.hub.accounts.get(self._token or "", set())
        if not allowed:
            words = f"Access to model {repository.name} is restricted."
            self._error(403 if self._token else 401, "GatedRepo", words)
        return allowed

    def _has_revision(self, repository: Repository, revision: str) -> bool:
        known = revision in ("main", repository.commit)
        if not known:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return known

    def _unknown(self, request: str) -> None:
        self.hub.unknown.append(request)
        self._error(404, None, "No such address")

    def _error(
        self, status: int, code: str | None, words: str, headers: dict[str, str] | None = None
    ) -> None:
        about = {"X-Error-Message": words, **({"X-Error-Code": code} if code else {}), **(headers or {})}
        self._send(b"", status, about)

    def _json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(value).encode(), 200, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        fault = self._fault
        if fault is not None and fault.short is not None:
            body = body[: -fault.short]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.altered:
            body = bytes(byte ^ 1 for byte in body)
        if fault is not None and fault.cut is not None:
            self.wfile.write(body[: fault.cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
