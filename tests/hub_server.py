"""A server on loopback that speaks as much of the Hub's API as huggingface_hub needs here.

Repositories lie in memory, one history each. Large files go through LFS and are sent by redirect; a
wrong SHA-256 is refused. What is private or takes a token to write asks for `TOKEN`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_of_the_test"
LARGE = 1000  # bytes from which a file goes through LFS
ANSWERS = {
    "RepoNotFound": "Repository not found",
    "RevisionNotFound": "Invalid rev id",
    "EntryNotFound": "Entry not found",
    "GatedRepo": "Access to this repository is restricted",
}


@dataclass
class Repository:
    """Commits, each a mapping of paths to contents."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        text = f"{len(self.commits)} {sorted(files)}"
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = files
        self.refs[branch] = oid
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        oid = self.refs.get(revision, revision)
        return (oid, self.commits[oid]) if oid in self.commits else None


class HubServer:
    """Repositories by kind and name, and every request that was made."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.broken_uploads = 0  # how many are cut off
        self.headers_left_out = False  # as a page that answers everything
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, name: str, files: dict[str, bytes], kind: str = "models", **about) -> str:
        """A repository with one more commit, whose number is returned."""
        repository = self.repositories.setdefault((kind, name), Repository(**about))
        for content in files.values():
            self.blobs[hashlib.sha256(content).hexdigest()] = content
        return repository.commit(files)

    def files(self, name: str, kind: str = "models") -> dict[str, bytes]:
        repository = self.repositories[kind, name]
        return repository.commits[repository.refs["main"]]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self._answer(self._read)

    def do_POST(self) -> None:
        self._answer(self._change)

    def do_PUT(self) -> None:
        self._answer(self._upload)

    def _answer(self, act) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.hub.requests.append(f"{self.command} {self.path}")
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        act([unquote(part) for part in url.path.strip("/").split("/")])

    def _send(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._send(
            status, {"error": ANSWERS[code]}, X_Error_Code=code, X_Error_Message=ANSWERS[code]
        )

    @property
    def _knows_user(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _repository(self, kind: str, name: str) -> Repository | None:
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and not self._knows_user):
            self._refuse(404 if self._knows_user else 401, "RepoNotFound")
            return None
        return found

    def _read(self, parts: list[str]) -> None:
        if parts == [""] or self.hub.headers_left_out:
            self._send(200)
        elif parts[0] == "blobs":
            self._send_range(self.hub.blobs[parts[1]])
        elif parts[0] == "api" and parts[1] in ("models", "datasets"):
            self._describe(parts[1], "/".join(parts[2:4]), parts[4:])
        elif "resolve" in parts:
            kind = parts.pop(0) if parts[0] == "datasets" else "models"
            self._resolve(kind, "/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            self._send(404, {"error": "not found"})

    def _send_range(self, content: bytes, **headers: str) -> None:
        wanted = self.headers.get("Range", "")
        if not wanted.startswith("bytes="):
            return self._send(200, content, **headers)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        end = min(int(last) + 1, len(content)) if last else len(content)
        part = content[int(first) : end]
        at = f"bytes {first}-{end - 1}/{len(content)}"
        return self._send(206, part, Content_Range=at, **headers)

    def _describe(self, kind: str, name: str, rest: list[str]) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return None
        action, revision = (rest[0], rest[1]) if rest else ("revision", "main")
        found = repository.at(revision)
        if found is None:
            return self._refuse(404, "RevisionNotFound")
        oid, files = found
        if action == "revision":
            listed = [
                {"rfilename": path, "size": len(content), **_lfs(content)}
                for path, content in files.items()
            ]
            return self._send(
                200, {"id": name, "sha": oid, "siblings": listed, "private": repository.private}
            )
        folder = "/".join(rest[2:])
        start = f"{folder}/" if folder else ""
        entries = [_entry(path, content) for path, content in files.items()]
        folders = {
            "/".join(path.split("/")[: depth + 1])
            for path in files
            for depth in range(path.count("/"))
        }
        entries += [{"type": "directory", "path": path, "oid": oid, "size": 0} for path in folders]
        inside = [entry for entry in entries if entry["path"].startswith(start)]
        if self.query.get("recursive", ["false"])[0].lower() != "true":
            inside = [entry for entry in inside if "/" not in entry["path"][len(start) :]]
        if start and not inside:
            return self._refuse(404, "EntryNotFound")
        return self._send(200, inside)

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._repository(kind, name)
        if repository is None:
            return None
        if repository.gated:
            return self._refuse(403, "GatedRepo")
        found = repository.at(revision)
        if found is None:
            return self._refuse(404, "RevisionNotFound")
        oid, files = found
        if path not in files:
            return self._refuse(404, "EntryNotFound")
        content = files[path]
        sha = hashlib.sha256(content).hexdigest()
        if len(content) < LARGE:
            return self._send_range(content, X_Repo_Commit=oid, ETag=f'"{_git_oid(content)}"')
        return self._send(
            302,
            X_Repo_Commit=oid,
            X_Linked_Etag=f'"{sha}"',
            X_Linked_Size=str(len(content)),
            ETag=f'"{sha}"',
            Location=f"{self.hub.url.replace('127.0.0.1', 'localhost')}/blobs/{sha}",  # as a CDN,
        )

    def _change(self, parts: list[str]) -> None:
        if parts[:2] == ["api", "validate-yaml"]:
            return self._send(200, {"errors": [], "warnings": []})
        if parts[0] == "api" and parts[4:5] == ["paths-info"]:
            return self._paths_info(parts)
        if not self._knows_user:
            return self._send(401, {"error": "Invalid username or password."})
        if parts == ["api", "repos", "create"]:
            return self._create(json.loads(self.body))
        if parts[-3:] == ["lfs", "objects", "batch"]:
            return self._batch(json.loads(self.body))
        kind, name, action, revision = parts[1], "/".join(parts[2:4]), parts[4], parts[5]
        repository = self._repository(kind, name)
        if repository is None:
            return None
        if action == "preupload":
            files = json.loads(self.body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in files
            ]
            return self._send(200, {"files": modes})
        assert action == "commit"
        found = repository.at(revision)
        files = {} if found is None else dict(found[1])
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
        oid = repository.commit(files, revision)
        return self._send(
            200,
            {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"},
        )

    def _paths_info(self, parts: list[str]) -> None:
        repository = self._repository(parts[1], "/".join(parts[2:4]))
        if repository is None:
            return None
        found = repository.at(parts[5])
        if found is None:
            return self._refuse(404, "RevisionNotFound")
        body = self.body.decode()
        is_json = "json" in self.headers.get("Content-Type", "")
        wanted = json.loads(body)["paths"] if is_json else parse_qs(body)["paths"]
        wanted = [wanted] if isinstance(wanted, str) else wanted
        return self._send(
            200, [_entry(path, found[1][path]) for path in wanted if path in found[1]]
        )

    def _create(self, asked: dict[str, Any]) -> None:
        kind = f"{asked.get('type', 'model')}s"
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in self.hub.repositories:
            return self._send(409, {"error": "You already created this repo", "url": url})
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.repositories[kind, name] = Repository(private=private)
        return self._send(200, {"url": url, "name": name, "id": name})

    def _batch(self, asked: dict[str, Any]) -> None:
        answers = []
        for item in asked["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.hub.blobs:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/upload/{item['oid']}"}}
            answers.append(answer)
        self._send(200, {"transfer": "basic", "objects": answers})

    def _upload(self, parts: list[str]) -> None:
        if self.hub.broken_uploads:
            self.hub.broken_uploads -= 1
            return self._send(400, {"error": "cut off"})
        if hashlib.sha256(self.body).hexdigest() != parts[1]:
            return self._send(400, {"error": "the content has another SHA-256"})
        self.hub.blobs[parts[1]] = self.body
        return self._send(200)


def _lfs(content: bytes) -> dict[str, Any]:
    if len(content) < LARGE:
        return {}
    sha = hashlib.sha256(content).hexdigest()
    about = {"oid": sha, "sha256": sha, "size": len(content), "pointerSize": 130}
    return {"lfs": about}


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": _git_oid(content),
        **_lfs(content),
    }
