"""
A small server on loopback that speaks as much of the Hugging Face Hub's protocol as pushing and loading need: making
repositories, commits of small and of large files, revisions, listings, and files with their commit and etag.

with HubServer() as hub:
    subprocess.run(..., env={"HF_ENDPOINT": hub.url, "HF_TOKEN": "any", "HF_HUB_DISABLE_XET": "1"})
    hub.files("org/name")["config.json"]
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPOSITORY = r"(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)"
LARGE = (".safetensors", ".parquet", ".bin", ".arrow")
"""Endings of the files that the server wants as LFS objects."""


@dataclass
class Repository:
    """Commits as whole trees of files, and the names that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, a tag or a commit's own name."""
        revision = self.refs.get(revision.removeprefix("refs/heads/"), revision)
        return revision if revision in self.commits else None

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """A commit after all others of the repository."""
        digest = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[digest] = files
        self.refs[branch] = digest
        return digest


class HubServer:
    """The server, in a thread of this process; `requests` are the methods and paths it was asked for."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def files(self, name: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """The files of a revision by their paths."""
        repository = self.repositories[kind, name]
        return repository.commits[repository.refs[revision]]

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One request: `answers` maps a method and a pattern of its path to what answers."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Nothing on standard error."""

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        self.body = self._read_chunks() if chunked else self.rfile.read(length)
        self.query = parse_qs(urlsplit(self.path).query)
        path = unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
            for method, pattern, answer in _ANSWERS:
                match = re.fullmatch(pattern, path)
                if match and self.command in method.split():
                    answer(self, **match.groupdict())
                    return
            self._error(404, f"no {self.command} {path}", "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def _read_chunks(self) -> bytes:
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _send(self, content: Any, status: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if "ETag" not in headers:
            self.send_header("Content-Type", "application/json")
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, status: int, message: str, code: str) -> None:
        self._send({"error": message}, status, X_Error_Code=code, X_Error_Message=message)

    def _tree(self, kind: str, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit and files of a revision; None after answering that there is no such thing."""
        repository = self.hub.repositories.get((kind, name))
        commit = repository.resolve(revision) if repository is not None else None
        if repository is None or commit is None:
            what, code = ("repository", "RepoNotFound") if repository is None else ("revision", "RevisionNotFound")
            self._error(404, f"no such {what}: {name} {revision}", code)
            return None
        return commit, repository.commits[commit]

    # -- accounts and repositories ----------------------------------------------------------------------------------

    def who(self) -> None:
        if not self.headers.get("Authorization"):
            self._error(401, "no token", "")
            return
        self._send({"type": "user", "name": "org", "auth": {"accessToken": {"role": "write"}}, "orgs": []})

    def create(self) -> None:
        wanted = json.loads(self.body)
        kind = f"{wanted.get('type') or 'model'}s"
        name = f"{wanted.get('organization') or 'org'}/{wanted['name']}"
        if (kind, name) in self.hub.repositories:
            self._send({"error": "exists", "url": f"{self.hub.url}/{name}"}, 409)
            return
        repository = self.hub.repositories[kind, name] = Repository()
        repository.commit("main", {".gitattributes": b""})
        self._send({"url": f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}", "name": name})

    def accept_card(self) -> None:
        self._send({"errors": [], "warnings": []})

    def make_ref(self, kind: str, name: str, sort: str, revision: str) -> None:
        repository, wanted = self.hub.repositories[kind, name], json.loads(self.body or b"{}")
        if sort == "tag":
            repository.refs[wanted["tag"]] = repository.resolve(revision) or ""
            repository.tags.add(wanted["tag"])
        elif revision in repository.refs:
            self._send({"error": "exists"}, 409)
            return
        else:
            repository.refs[revision] = repository.resolve(wanted.get("startingPoint") or "main") or ""
        self._send({})

    # -- writing ----------------------------------------------------------------------------------------------------

    def preupload(self, kind: str, name: str, revision: str) -> None:
        modes = [
            {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular"}
            for file in json.loads(self.body)["files"]
        ]
        self._send({"files": [mode | {"shouldIgnore": False} for mode in modes]})

    def offer_objects(self, name: str) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/objects/{wanted['oid']}"}}}
            for wanted in json.loads(self.body)["objects"]
        ]
        self._send({"transfer": "basic", "objects": objects})

    def store_object(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._error(400, "the object is not the one that was announced", "")
            return
        self.hub.objects[oid] = self.body
        self._send({})

    def commit(self, kind: str, name: str, revision: str) -> None:
        repository = self.hub.repositories[kind, name]
        files = dict(repository.commits[repository.refs[revision]])
        for line in filter(None, self.body.split(b"\n")):
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            elif entry["key"] == "deletedFolder":
                files = {path: data for path, data in files.items() if not path.startswith(value["path"])}
        oid = repository.commit(revision, files)
        self._send({"commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "success": True})

    # -- reading ----------------------------------------------------------------------------------------------------

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        tree = self._tree(kind, name, revision)
        if tree is None:
            return
        commit, files = tree
        self._send(
            {
                "_id": commit[:24],
                "id": name,
                "modelId": name,
                "sha": commit,
                "private": False,
                "disabled": False,
                "gated": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "author": name.partition("/")[0],
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
                "siblings": [{"rfilename": path} for path in sorted(files)],
            }
        )

    def refs(self, kind: str, name: str) -> None:
        repository = self.hub.repositories[kind, name]
        listed = [
            {"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": oid} for ref, oid in repository.refs.items()
        ]
        tags = [entry for entry in listed if entry["name"] in repository.tags]
        self._send({"branches": [entry for entry in listed if entry not in tags], "tags": tags, "converts": []})

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        tree = self._tree(kind, name, revision)
        if tree is None:
            return
        prefix = f"{folder.strip('/')}/" if folder else ""
        inside = {path: data for path, data in tree[1].items() if path.startswith(prefix)}
        if prefix and not inside:
            self._error(404, f"no such folder: {folder}", "EntryNotFound")
            return
        folders = {
            "/".join(parts[:depth])
            for parts in (path.split("/") for path in inside)
            for depth in range(1, len(parts))
            if "/".join(parts[:depth]).startswith(prefix)
        }
        entries = [_entry(path, data) for path, data in inside.items()]
        entries += [{"type": "directory", "oid": "0", "size": 0, "path": path} for path in folders]
        if self.query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(prefix)]
        self._send(sorted(entries, key=lambda entry: entry["path"]))

    def paths(self, kind: str, name: str, revision: str) -> None:
        tree = self._tree(kind, name, revision)
        if tree is None:
            return
        is_json = "json" in self.headers.get("Content-Type", "")
        wanted = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode()).get("paths", [])
        files = tree[1]
        entries = [_entry(path, files[path]) for path in wanted if path in files]
        entries += [
            {"type": "directory", "oid": "0", "size": 0, "path": path}
            for path in wanted
            if any(file.startswith(f"{path}/") for file in files)
        ]
        self._send(entries)

    def resolve(self, name: str, revision: str, file: str, kind: str | None = None) -> None:
        tree = self._tree("datasets" if kind else "models", name, revision)
        if tree is None:
            return
        commit, files = tree
        if file not in files:
            self._send(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        etag = f'"{_entry(file, files[file])["oid"]}"'
        data, status, headers = files[file], 200, {}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
            headers = {"Content_Range": f"bytes {start}-{end}/{len(data)}"}
            data, status = data[start : end + 1], 206
        self._send(data, status, ETag=etag, X_Repo_Commit=commit, Accept_Ranges="bytes", **headers)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """A file as listings show it."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"type": "file", "oid": blob, "size": len(data), "path": path}
    if path.endswith(LARGE):
        oid = hashlib.sha256(data).hexdigest()
        entry |= {"oid": oid, "lfs": {"oid": oid, "sha256": oid, "size": len(data), "pointerSize": 134}}
    return entry


_ANSWERS = [
    ("GET", r"/api/whoami-v2", _Handler.who),
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", _Handler.accept_card),
    ("POST", rf"/api/{REPOSITORY}/(?P<sort>branch|tag)/(?P<revision>.+)", _Handler.make_ref),
    ("POST", rf"/api/{REPOSITORY}/preupload/(?P<revision>.+)", _Handler.preupload),
    ("POST", r"/(?:datasets/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", _Handler.offer_objects),
    ("PUT", r"/objects/(?P<oid>\w+)", _Handler.store_object),
    ("POST", rf"/api/{REPOSITORY}/commit/(?P<revision>.+)", _Handler.commit),
    ("GET HEAD", rf"/api/{REPOSITORY}", _Handler.info),
    ("GET HEAD", rf"/api/{REPOSITORY}/revision/(?P<revision>.+)", _Handler.info),
    ("GET", rf"/api/{REPOSITORY}/refs", _Handler.refs),
    ("GET", rf"/api/{REPOSITORY}/tree/(?P<revision>[^/]+)(?P<folder>/.*)?", _Handler.tree),
    ("POST", rf"/api/{REPOSITORY}/paths-info/(?P<revision>.+)", _Handler.paths),
    (
        "GET HEAD",
        r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)",
        _Handler.resolve,
    ),
]
