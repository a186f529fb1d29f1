"""A small Hub on this machine: the part of its HTTP API that model repositories need, with failures on demand.

Written from what the client asks for: a repository is a list of commits, a commit a map of paths to contents; large
contents are stored apart by their hash before a commit names them. Nothing is remembered when the process ends.

python -m tests.hub_server      (prints its address; a line on its standard input ends it)
"""

import base64
import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


TOKEN = "hf_writer"
LARGE = re.compile(r".*\.(safetensors|bin|pt|mp4)")  # else: files above this many bytes
LARGE_BYTES = 100_000


class Stored(NamedTuple):
    """A file of a commit."""

    content: bytes
    is_large: bool

    @property
    def etag(self) -> str:
        return (hashlib.sha256 if self.is_large else hashlib.sha1)(self.content).hexdigest()


@dataclass
class Repository:
    """Commits from the first to the newest, each a hash and its files."""

    commits: list[tuple[str, dict[str, Stored]]] = field(default_factory=list)
    private: bool = False
    variables: dict[str, str] = field(default_factory=dict)  # of a Space

    def add(self, files: dict[str, Stored]) -> str:
        text = f"{len(self.commits)}" + "".join(f"{path} {files[path].etag}\n" for path in sorted(files))
        self.commits.append((hashlib.sha1(text.encode()).hexdigest(), files))
        return self.commits[-1][0]

    def at(self, revision: str) -> tuple[str, dict[str, Stored]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)


@dataclass
class Failure:
    """Requests that are answered with an error: the next `count` of a method whose path fits the pattern."""

    method: str
    pattern: str
    status: int
    count: int


class Hub(ThreadingHTTPServer):
    """The server and all that it keeps. `calls` are (method, path, status) in the order of their answers."""

    daemon_threads = True

    def __init__(self, owner: str = "tester"):
        super().__init__(("127.0.0.1", 0), Request)
        self.owner = owner
        self.lock = threading.RLock()
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.failures: list[Failure] = []
        self.calls: list[tuple[str, str, int]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, name: str) -> dict[str, bytes]:
        """Contents of the newest commit."""
        return {path: stored.content for path, stored in self.repositories[name].commits[-1][1].items()}

    def fail(self, method: str, pattern: str, status: int, count: int = 1) -> None:
        """Have the next `count` such requests fail."""
        self.failures.append(Failure(method, pattern, status, count))

    def due_failure(self, method: str, path: str) -> int | None:
        for failure in self.failures:
            if failure.count and failure.method == method and re.search(failure.pattern, path):
                failure.count -= 1
                return failure.status
        return None


class Answer(Exception):  # noqa: N818 (it is no error)
    """Ends the handling of a request with this status, body and headers."""

    def __init__(self, status: int, body: bytes | dict | list = b"", **headers: str):
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        is_json = not isinstance(body, bytes)
        self.body = json.dumps(body).encode() if is_json else body
        self.headers["Content-Type"] = "application/json" if is_json else "application/octet-stream"


def not_found(what: str, **headers: str) -> Answer:
    return Answer(404, {"error": what}, X_Error_Code=what, X_Error_Message=what, **headers)


class Request(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path).replace("/api/spaces/", "/api/models/spaces/")
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        body = self.read_body()
        try:
            with self.server.lock:
                if status := self.server.due_failure(self.command, path):
                    raise Answer(status, {"error": "the server has a bad day"})
                self.route(path, body)
                raise not_found("Unknown")
        except Answer as answer:
            self.server.calls.append((self.command, path, answer.status))
            self.send_response(answer.status)
            for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 (named by the base class)

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def route(self, path: str, body: bytes) -> None:
        """Raises the answer to a request that it knows."""
        for pattern, handle in ROUTES:
            if match := re.fullmatch(pattern, path):
                handle(self, body, *match.groups())

    def need_token(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Answer(401, {"error": "Invalid username or password."})

    def repository(self, name: str) -> Repository:
        found = self.server.repositories.get(name)
        if found is None:
            raise not_found("RepoNotFound")
        if found.private:
            self.need_token()
        return found

    def commit_at(self, name: str, revision: str) -> tuple[str, dict[str, Stored]]:
        found = self.repository(name).at(revision)
        if found is None:
            raise not_found("RevisionNotFound")
        return found

    # -- what is asked for ------------------------------------------------------------------------------------------

    def whoami(self, body: bytes) -> None:
        self.need_token()
        token = {"displayName": "test", "role": "write"}
        raise Answer(200, {"type": "user", "name": self.server.owner, "orgs": [], "auth": {"accessToken": token}})

    def create(self, body: bytes) -> None:
        self.need_token()
        wish = json.loads(body)
        name = (
            wish["name"] if "/" in wish["name"] else f"{wish.get('organization') or self.server.owner}/{wish['name']}"
        )
        name = f"spaces/{name}" if wish.get("type") == "space" else name
        url = f"{self.server.address}/{name}"
        if name in self.server.repositories:
            raise Answer(409, {"error": "You already created this model repo", "url": url})
        repository = Repository(private=bool(wish.get("private") or wish.get("visibility") == "private"))
        repository.add({".gitattributes": Stored(b"*.safetensors filter=lfs\n", False)})
        self.server.repositories[name] = repository
        raise Answer(200, {"url": url, "name": name, "id": name})

    def validate(self, body: bytes) -> None:
        """Of a card's metadata: a mapping, and a model index of the form that the Hub shows."""
        head = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.S)
        try:
            metadata = yaml.safe_load(head[1]) if head else {}
            for model in metadata.get("model-index", []):
                for result in model["results"]:
                    result["task"]["type"], result["dataset"]["type"], result["dataset"]["name"]
                    assert all(metric["value"] is not None and metric["type"] for metric in result["metrics"])
        except (yaml.YAMLError, AttributeError, KeyError, AssertionError) as error:
            raise Answer(400, {"errors": [{"message": f"{error!r}"}], "warnings": []}) from error
        raise Answer(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        self.need_token()
        sha, files = self.commit_at(name, revision)
        modes = []
        for wish in json.loads(body)["files"]:
            is_large = wish["size"] > LARGE_BYTES or LARGE.fullmatch(wish["path"])
            old = files.get(wish["path"])
            modes.append(
                {
                    "path": wish["path"],
                    "uploadMode": "lfs" if is_large else "regular",
                    "shouldIgnore": False,
                    "oid": old and blob_id(old),
                }
            )
        raise Answer(200, {"files": modes, "commitOid": sha})

    def batch(self, body: bytes, name: str) -> None:
        self.need_token()
        self.repository(name)
        answers = []
        for wish in json.loads(body)["objects"]:
            href = {"href": f"{self.server.address}/large/{wish['oid']}"}
            known = {} if wish["oid"] in self.server.large else {"actions": {"upload": href}}
            answers.append({"oid": wish["oid"], "size": wish["size"], **known})
        raise Answer(200, {"transfer": "basic", "objects": answers})

    def store(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Answer(400, {"error": "the content has another hash"})
        self.server.large[oid] = body
        raise Answer(200)

    def commit(self, body: bytes, name: str, revision: str) -> None:
        self.need_token()
        files = dict(self.commit_at(name, revision)[1])
        for line in body.splitlines():
            step = json.loads(line)
            value = step["value"]
            if step["key"] == "file":
                files[value["path"]] = Stored(base64.b64decode(value["content"]), False)
            elif step["key"] == "lfsFile":
                if value["oid"] not in self.server.large:
                    raise Answer(400, {"error": f"{value['path']} was not uploaded"})
                files[value["path"]] = Stored(self.server.large[value["oid"]], True)
            elif step["key"] == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise not_found("EntryNotFound")
            elif step["key"] != "header":
                raise Answer(400, {"error": f"unknown step {step['key']}"})
        sha = self.repository(name).add(files)
        url = f"{self.server.address}/{name}/commit/{sha}"
        raise Answer(200, {"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def variable(self, body: bytes, name: str) -> None:
        self.need_token()
        wish = json.loads(body)
        variables = self.repository(name).variables
        variables[wish["key"]] = wish["value"]
        raise Answer(200, {key: {"key": key, "value": value} for key, value in variables.items()})

    def info(self, body: bytes, name: str, revision: str | None) -> None:
        sha, files = self.commit_at(name, revision or "main")
        private = self.repository(name).private
        raise Answer(
            200,
            {
                "_id": name,
                "id": name,
                "modelId": name,
                "sha": sha,
                "private": private,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": path} for path in sorted(files)],
            },
        )

    def tree(self, body: bytes, name: str, revision: str, folder: str | None) -> None:
        """Our repositories are flat."""
        _, files = self.commit_at(name, revision)
        if folder:
            raise not_found("EntryNotFound")
        raise Answer(200, [describe(path, files[path]) for path in sorted(files)])

    def paths(self, body: bytes, name: str, revision: str) -> None:
        _, files = self.commit_at(name, revision)
        is_form = "form" in self.headers.get("Content-Type", "")
        wanted = parse_qs(body.decode()).get("paths", []) if is_form else json.loads(body)["paths"]
        raise Answer(200, [describe(path, files[path]) for path in wanted if path in files])

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        sha, files = self.commit_at(name, revision)
        if path not in files:
            raise not_found("EntryNotFound", X_Repo_Commit=sha)
        content, headers = files[path].content, {"X_Repo_Commit": sha, "ETag": f'"{files[path].etag}"'}
        headers["Accept_Ranges"] = "bytes"
        if files[path].is_large:
            headers |= {"X_Linked_Etag": f'"{files[path].etag}"', "X_Linked_Size": str(len(content))}
        if self.command == "HEAD":
            raise Answer(200, b"", Content_Length=str(len(content)), **headers)
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            raise Answer(200, content, **headers)
        first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        headers["Content_Range"] = f"bytes {first}-{last}/{len(content)}"
        raise Answer(206, content[first : last + 1], **headers)


NAME = r"((?:spaces/)?[\w.-]+/[\w.-]+)"  # a Space's in addresses, and in `Hub.repositories`
ROUTES = [
    ("/api/whoami-v2", Request.whoami),
    ("/api/repos/create", Request.create),
    ("/api/validate-yaml", Request.validate),
    (f"/api/models/{NAME}/preupload/([^/]+)", Request.preupload),
    (rf"/{NAME}\.git/info/lfs/objects/batch", Request.batch),
    ("/large/([0-9a-f]{64})", Request.store),
    (f"/api/models/{NAME}/commit/([^/]+)", Request.commit),
    (f"/api/models/{NAME}/variables", Request.variable),
    (f"/api/models/{NAME}(?:/revision/([^/]+))?", Request.info),
    (f"/api/models/{NAME}/tree/([^/]+)(?:/(.+))?", Request.tree),
    (f"/api/models/{NAME}/paths-info/([^/]+)", Request.paths),
    (f"/{NAME}/resolve/([^/]+)/(.+)", Request.resolve),
]


def blob_id(stored: Stored) -> str:
    """Git's name of a file's content: of the content, or of the pointer that stands for a large one."""
    content = stored.content
    if stored.is_large:
        oid = hashlib.sha256(content).hexdigest()
        content = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def describe(path: str, stored: Stored) -> dict:
    large = {"lfs": {"oid": stored.etag, "size": len(stored.content), "pointerSize": 130}} if stored.is_large else {}
    return {"type": "file", "path": path, "size": len(stored.content), "oid": blob_id(stored), **large}


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub that answers within this context."""
    hub = Hub()
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


if __name__ == "__main__":
    with running_hub() as hub:
        print(hub.address, flush=True)
        sys.stdin.readline()
