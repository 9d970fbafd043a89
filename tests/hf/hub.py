"""A stand-in for the Hub, so that its real clients are what is tested, in another process."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from tests.hf.client import Client

__all__ = ["Hub", "serving_hub"]

REPO = r"(?P<repo>[^/]+/[^/]+)"
API = rf"/api/datasets/{REPO}"
FILE = r"(?P<revision>[^/]+)/(?P<path>.+)"


class Answer(NamedTuple):
    status: int = 200
    body: Any = b""
    headers: dict[str, str] = {}  # noqa: RUF012


class Fault(NamedTuple):
    """What happens to one request with `part` in its path."""

    part: str
    answer: Answer | None = None
    cut: int | None = None  # hang up after so many bytes of the body
    stall: bool = False  # say nothing until the client hangs up
    then: Callable[[], object] = lambda: None  # what changes on the server afterwards


class Exchange(NamedTuple):
    """A request that was answered, and how many bytes of the body went out."""

    server: str
    request: str
    headers: dict[str, str]
    sent: int


class HubFile(NamedTuple):
    """A file of a repository; large ones are kept apart from git, under their sha256."""

    content: bytes
    is_large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def entry(self) -> dict[str, Any]:
        size = len(self.content)
        blob = hashlib.sha1(b"blob %d\0" % size + self.content, usedforsecurity=False).hexdigest()
        entry: dict[str, Any] = {"type": "file", "oid": blob, "size": size}
        if self.is_large:
            entry["lfs"] = {"oid": self.sha256, "size": size, "pointerSize": 130}
        return entry


class Repository:
    """The files of each commit, by path, and the commit each branch is at."""

    def __init__(self, private: bool = False) -> None:
        self.private = private
        self.gated = False
        self.history: dict[str, dict[str, HubFile]] = {}
        self.branches: dict[str, str] = {}
        self.commit("main", {})

    def __getitem__(self, revision: str) -> dict[str, HubFile]:
        return self.history[self.sha(revision)]

    def __contains__(self, revision: str) -> bool:
        return self.sha(revision) in self.history

    @property
    def commits(self) -> list[dict[str, HubFile]]:
        return list(self.history.values())

    def sha(self, revision: str) -> str:
        return self.branches.get(revision, revision)

    def commit(self, branch: str, files: dict[str, HubFile]) -> str:
        sha = os.urandom(20).hex()  # the clients' caches go by it, so it is never used twice
        self.history[sha], self.branches[branch] = files, sha
        return sha

    def contents(self, branch: str = "main") -> dict[str, bytes]:
        return {path: file.content for path, file in self[branch].items()}


class Hub:
    """The server's state, and a way to run code against it."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.url = self.store_url = ""
        self.client: Client | None = None
        self.requests: list[str] = []
        self.forget()

    def forget(self) -> None:
        """Begin anew: no repository, no fault."""
        self.repositories.clear()
        self.large.clear()
        self.requests.clear()
        self.exchanges: list[Exchange] = []
        self.faults: list[Fault] = []
        self.connections = 0
        self.hang_up = False
        self.on_one_host = False

    def run(self, code: str, *arguments: object) -> str:
        """Run code whose Hub is this one, `arguments` in its `sys.argv`; what it printed."""
        assert self.client
        printed, error = self.client.run(code, [str(argument) for argument in arguments])
        assert error is None, error
        return printed

    def failure(self, code: str, *arguments: object) -> str:
        """As `run`, for code that must fail; the traceback."""
        assert self.client
        _, error = self.client.run(code, [str(argument) for argument in arguments])
        assert error is not None
        return error

    def refuse(self, part: str, status: int, code: str) -> None:
        """From now on, refuse every request that has `part` in its path."""
        self.fail(part, *_error(status, code, "refused"), times=99)

    def add(self, repo: str, files: dict[str, bytes]) -> Repository:
        """Make a repository with these files, as if they had been uploaded."""
        repository = self.repositories.setdefault(repo, Repository())
        made = {path: HubFile(content, _is_large(path)) for path, content in files.items()}
        repository.commit("main", {**repository["main"], **made})
        return repository

    def add_dataset(self, repo: str, folder: Path, subdir: str = "") -> Repository:
        """Make a repository with a dataset."""
        files = (path for path in folder.rglob("*") if path.is_file())
        prefix = f"{subdir}/" if subdir else ""
        content = {prefix + p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
        return self.add(repo, content)

    def fail(self, part: str, *answer: Any, times: int = 1, **what: Any) -> None:
        """Let the next requests with `part` in their path go wrong, see `Answer` and `Fault`."""
        self.faults += [Fault(part, Answer(*answer) if answer else None, **what)] * times

    def take_fault(self, request: str) -> Fault:
        fault = next((fault for fault in self.faults if fault.part in request), None)
        if fault is None:
            return Fault(request)
        self.faults.remove(fault)
        return fault

    def seen(self, part: str) -> list[Exchange]:
        """Answered requests with `part` in their path."""
        return [exchange for exchange in self.exchanges if part in exchange.request]


def _is_large(path: str) -> bool:
    return path.endswith((".mdb", ".parquet", ".bin"))


def _error(status: int, code: str, message: str) -> Answer:
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    return Answer(status, {"error": message}, headers)


class _Handler(BaseHTTPRequestHandler):
    """Answers for the Hub, and for the store that it redirects to."""

    protocol_version = "HTTP/1.1"
    hub: Hub
    name: str

    def setup(self) -> None:
        super().setup()
        self.hub.connections += 1

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        self.body = self._read_body()
        request = f"{self.command} {unquote(url.path)}"
        self.hub.requests.append(request)
        if self.hub.hang_up:
            self.close_connection = True
            return
        fault = self.hub.take_fault(request)
        if fault.stall:
            self.close_connection = True
            self.rfile.read(1)  # returns when the client hangs up
            return
        answer = fault.answer or self._route(url.path)
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        part = b"" if self.command == "HEAD" else body[: fault.cut]
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.exchanges.append(Exchange(self.name, request, headers, len(part)))
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(len(body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(part)
        self.close_connection |= fault.cut is not None
        fault.then()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def log_message(self, *_args: Any) -> None:
        """Tests look at `hub.requests`."""

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _route(self, path: str) -> Answer:
        for pattern, answer in self._ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match is None:
                continue
            found = {name: value and unquote(value) for name, value in match.groupdict().items()}
            if found.get("repo") is not None:
                refusal = self._access(found["repo"], found.get("revision"))
                if refusal is not None:
                    return refusal
            return answer(self, **{name: value for name, value in found.items() if value})
        return _error(404, "EntryNotFound", f"no route for {self.command} {path}")

    def _access(self, repo: str, revision: str | None) -> Answer | None:
        token = self.headers.get("Authorization")
        if token not in (None, "Bearer hf_test"):
            return _error(401, "", "Invalid credentials in Authorization header")
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and token is None):
            return _error(404 if token else 401, "RepoNotFound", "Repository not found")
        if repository.gated and "/api/" not in self.path:
            return _error(403 if token else 401, "GatedRepo", "You are not in the authorized list")
        if revision and revision not in repository:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return None

    def _create(self) -> Answer:
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or 'user'}/{asked['name']}"
        url = {"url": f"{self.hub.url}/datasets/{repo}"}
        if repo in self.hub.repositories:
            return Answer(409, {**url, "error": "You already created this dataset repo"})
        self.hub.repositories[repo] = Repository(
            private=asked.get("visibility") == "private" or asked.get("private") is True
        )
        return Answer(body={**url, "id": repo})

    def _create_branch(self, repo: str, branch: str) -> Answer:
        repository = self.hub.repositories[repo]
        if branch in repository.branches:
            return _error(409, "", "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        return Answer(201, {})

    def _preupload(self, repo: str, revision: str) -> Answer:
        there = self.hub.repositories[repo][revision]
        files = []
        for asked in json.loads(self.body)["files"]:
            path, old = asked["path"], there.get(asked["path"])
            oid = old and (old.sha256 if old.is_large else old.entry["oid"])
            mode = "lfs" if _is_large(path) and asked["size"] else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer(body={"files": files})

    def _large_batch(self, repo: str) -> Answer:  # noqa: ARG002
        objects = []
        for asked in json.loads(self.body)["objects"]:
            if asked["oid"] not in self.hub.large:
                place = f"http://{self.headers['Host']}/large/{asked['oid']}"
                asked["actions"] = {"upload": {"href": place}, "verify": {"href": place}}
            objects.append(asked)
        return Answer(body={"transfer": "basic", "objects": objects})

    def _put_large(self, sha256: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            return _error(400, "", "another content, or half of it")
        self.hub.large[sha256] = self.body
        return Answer(headers={"ETag": f'"{sha256}"'})

    def _commit(self, repo: str, revision: str) -> Answer:
        repository = self.hub.repositories[repo]
        files = dict(repository[revision])
        for operation in map(json.loads, self.body.splitlines()):
            key, value = operation["key"], operation["value"]
            if key == "file":
                files[value["path"]] = HubFile(base64.b64decode(value["content"]), is_large=False)
            elif key == "lfsFile":
                files[value["path"]] = HubFile(self.hub.large[value["oid"]], is_large=True)
            elif key == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(revision, files)
        url = f"{self.hub.url}/datasets/{repo}/commit/{sha}"
        return Answer(body={"success": True, "commitOid": sha, "commitUrl": url})

    def _info(self, repo: str, revision: str = "main") -> Answer:
        repository = self.hub.repositories[repo]
        names = [{"rfilename": path} for path in sorted(repository[revision])]
        facts = {"id": repo, "_id": "1", "private": repository.private, "gated": False, "tags": []}
        return Answer(body={**facts, "sha": repository.sha(revision), "siblings": names})

    def _paths_info(self, repo: str, revision: str) -> Answer:
        form = self.headers.get("Content-Type", "").startswith("application/x-www-form")
        pairs = parse_qsl(self.body.decode()) if form else []
        paths = [v for k, v in pairs if k == "paths"] or json.loads(self.body)["paths"]
        there = self.hub.repositories[repo][revision]
        return Answer(body=[{"path": p, **there[p].entry} for p in paths if p in there])

    def _tree(self, repo: str, revision: str, folder: str = "") -> Answer:
        prefix = f"{folder}/" if folder else ""
        files = self.hub.repositories[repo][revision]
        inside = {path: file for path, file in files.items() if path.startswith(prefix)}
        if folder and not inside:
            return _error(404, "EntryNotFound", f"{folder} does not exist")
        recursive = self.query.get("recursive", "").lower() in ("1", "true")
        entries: dict[str, dict[str, Any]] = {}
        for path, file in sorted(inside.items()):
            top, *rest = path.removeprefix(prefix).split("/")
            if rest:
                entries[prefix + top] = {"type": "directory", "oid": "0" * 40, "size": 0}
            if recursive or not rest:
                entries[path] = file.entry
        return Answer(body=[{"path": path, **entry} for path, entry in entries.items()])

    def _refs(self, repo: str) -> Answer:
        there = self.hub.repositories[repo].branches.items()
        branches = [{"name": name, "ref": name, "targetCommit": sha} for name, sha in there]
        return Answer(body={"branches": branches, "converts": [], "tags": []})

    def _resolve(self, repo: str, revision: str, path: str) -> Answer:
        """Small files come from a cache of the same host, large ones from Xet's plain store."""
        repository = self.hub.repositories[repo]
        file = repository[revision].get(path)
        commit = {"X-Repo-Commit": (sha := repository.sha(revision))}
        if file is None:
            answer = _error(404, "EntryNotFound", f"{path} does not exist")
            return answer._replace(headers={**answer.headers, **commit})
        if not file.is_large:
            place = f"/api/resolve-cache/datasets/{repo}/{sha}/{quote(path)}?etag=1"
            return Answer(307, b"elsewhere", {**commit, "Location": place})
        self.hub.large[file.sha256] = file.content
        store = f"http://{self.headers['Host']}" if self.hub.on_one_host else self.hub.store_url
        place = f"{store}/xet-bridge/{file.sha256}/{quote(path)}?Signature=secret"
        facts = {"X-Linked-Size": str(len(file.content)), "X-Linked-Etag": f'"{file.sha256}"'}
        headers = {**commit, **facts, "X-Xet-Hash": file.sha256, "Location": place}
        return Answer(302, b"elsewhere", headers)

    def _cached(self, repo: str, revision: str, path: str) -> Answer:
        file = self.hub.repositories[repo][revision][path]
        headers = {"X-Repo-Commit": revision, "ETag": f'"{file.entry["oid"]}"'}
        if "gzip" in self.headers.get("Accept-Encoding", ""):
            # Like the Hub: what is compressed on its way has neither a length nor ranges.
            return Answer(200, gzip.compress(file.content), {**headers, "Content-Encoding": "gzip"})
        return self._ranged(file.content, headers)

    def _stored(self, sha256: str) -> Answer:
        """Like the store of large files: it names no version."""
        return self._ranged(self.hub.large[sha256], {})

    def _ranged(self, content: bytes, headers: dict[str, str]) -> Answer:
        headers = {**headers, "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return Answer(200, content, headers)
        (first, last), size = asked.groups(), len(content)
        start = int(first) if first else size - int(last)
        if start >= size:
            return Answer(416, b"", {**headers, "Content-Range": f"bytes */{size}"})
        stop = min(size, int(last) + 1) if first and last else size
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return Answer(206, content[start:stop], headers)

    _ROUTES: list[tuple[str, Callable[..., Answer]]] = [  # noqa: RUF012
        (r"POST /api/repos/create", _create),
        (r"POST /api/validate-yaml", lambda _: Answer(body={"errors": [], "warnings": []})),
        (rf"POST {API}/branch/(?P<branch>.+)", _create_branch),
        (rf"POST {API}/preupload/(?P<revision>.+)", _preupload),
        (rf"POST {API}/commit/(?P<revision>.+)", _commit),
        (rf"POST {API}/paths-info/(?P<revision>.+)", _paths_info),
        (rf"POST /datasets/{REPO}\.git/info/lfs/objects/batch", _large_batch),
        (r"PUT /large/(?P<sha256>\w+)", _put_large),
        (r"POST /large/\w+", lambda _: Answer(body={})),
        (rf"GET {API}", _info),
        (rf"GET {API}/revision/(?P<revision>.+)", _info),
        (rf"GET {API}/tree/(?P<revision>[^/]+)", _tree),
        (rf"GET {API}/tree/(?P<revision>[^/]+)/(?P<folder>.+)", _tree),
        (rf"GET {API}/refs", _refs),
        (rf"(?:GET|HEAD) /datasets/{REPO}/resolve/{FILE}", _resolve),
        (rf"(?:GET|HEAD) /api/resolve-cache/datasets/{REPO}/{FILE}", _cached),
        (r"(?:GET|HEAD) /xet-bridge/(?P<sha256>\w+)/.+", _stored),
    ]


@contextmanager
def serving_hub(home: Path) -> Iterator[Hub]:
    """Serve a Hub and the store of its large files; clients keep what they do in `home`."""
    hub = Hub()
    servers, threads = [], []
    for name in ("hub", "store"):
        handler = type("Handler", (_Handler,), {"hub": hub, "name": name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threads.append(threading.Thread(target=server.serve_forever, args=(0.01,)))
        threads[-1].start()
        servers.append(server)
    hub.url, hub.store_url = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    hub.client = Client(hub.url, home)
    yield hub
    hub.client.close()
    for server, thread in zip(servers, threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()
