"""A small real Hub on loopback: the routes that `huggingface_hub` calls, over HTTP, for tests."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from loopback_hub.card_rules import evaluation_errors, readme_errors
from loopback_hub.faults import Fault, FaultyApplication, Kind
from loopback_hub.repositories import Repository, Revision, Store, StoredFile

TOKEN = "the-token-of-the-tests"
USER = "tester"
_LARGE_BYTES = 100_000


class Refusal(Exception):
    """An answer that is an error: status, the code that the client reads, and text for people."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class LoopbackHub:
    """The Hub while it runs.

    Attributes:
        url: Where it listens; the value for `HF_ENDPOINT`.
        store: What it holds.
    """

    def __init__(self) -> None:
        self.store = Store()
        self.application = FaultyApplication(_application(self))
        self.url = ""

    @property
    def requests(self) -> list[str]:
        """`METHOD /path` of every request so far."""
        return self.application.log

    def plan(self, kind: Kind, pattern: str, times: int = 1) -> Fault:
        """Let the next requests fail whose `METHOD /path` the pattern finds."""
        fault = Fault(kind, pattern, times)
        self.application.planned.append(fault)
        return fault

    def files(self, identifier: str, kind: str = "model") -> dict[str, bytes] | None:
        """What a visitor sees at the head of a repository; None if there is none."""
        repository = self.store.repositories.get((kind, identifier))
        return None if repository is None else {path: file.content for path, file in repository.head.files.items()}


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """Serve a fresh, empty Hub in a thread."""
    hub = LoopbackHub()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        hub.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(hub.application, log_level="critical", http="h11", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield hub
        for fault in hub.application.planned:
            fault.released.set()
        server.should_exit = True
        thread.join(timeout=10)


def _application(hub: LoopbackHub) -> FastAPI:
    application = FastAPI()
    store = hub.store

    @application.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
        return JSONResponse({"error": str(error)}, status_code=error.status, headers=headers)

    _account_routes(application, store, hub)
    _writing_routes(application, store, hub)
    _reading_routes(application, store, hub)
    return application


def _known(request: Request) -> bool:
    return request.headers.get("authorization") == f"Bearer {TOKEN}"


def _require_token(request: Request) -> None:
    if not _known(request):
        raise Refusal(401, None, "Invalid username or password.")


def _repository(store: Store, request: Request, kinds: str, identifier: str) -> Repository:
    repository = store.repositories.get((kinds.removesuffix("s"), identifier))
    if repository is None or (repository.private and not _known(request)):
        raise Refusal(404 if _known(request) else 401, "RepoNotFound", "Repository not found")
    return repository


def _revision(repository: Repository, name: str) -> Revision:
    revision = repository.revision(name)
    if revision is None:
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {name}")
    return revision


def _account_routes(application: FastAPI, store: Store, hub: LoopbackHub) -> None:
    @application.get("/api/whoami-v2")
    def who_am_i(request: Request) -> Any:
        _require_token(request)
        return {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token"}}

    @application.post("/api/validate-yaml")
    async def validate(request: Request) -> Any:
        body = await request.json()
        errors = readme_errors(body["content"], body["repoType"])
        answer = {"errors": [{"message": error} for error in errors], "warnings": []}
        return JSONResponse(answer, status_code=400 if errors else 200)

    @application.post("/api/repos/create")
    async def create(request: Request) -> Any:
        _require_token(request)
        body = await request.json()
        identifier = f"{body.get('organization') or USER}/{body['name']}"
        kind = body.get("type") or "model"
        address = f"{hub.url}/{'' if kind == 'model' else kind + 's/'}{identifier}"
        if (kind, identifier) in store.repositories:
            return JSONResponse({"error": "You already created this repo", "url": address}, status_code=409)
        private = bool(body.get("private")) or body.get("visibility") == "private"
        store.create(kind, identifier, private)
        return {"url": address, "name": identifier, "id": identifier}


def _writing_routes(application: FastAPI, store: Store, hub: LoopbackHub) -> None:
    @application.post("/api/{kinds}/{owner}/{name}/preupload/{revision}")
    async def preupload(kinds: str, owner: str, name: str, revision: str, request: Request) -> Any:
        _require_token(request)
        present = _revision(_repository(store, request, kinds, f"{owner}/{name}"), revision).files
        answers = []
        for file in (await request.json())["files"]:
            large = file["path"].endswith((".safetensors", ".bin", ".png")) or file["size"] > _LARGE_BYTES
            there = present.get(file["path"])
            oid = None if there is None else there.sha256 if there.large else there.blob_id
            mode = "lfs" if large else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": answers}

    async def large_files_batch(request: Request) -> Any:
        _require_token(request)
        objects = []
        for file in (await request.json())["objects"]:
            there = file["oid"] in store.large_files
            upload = {"upload": {"href": f"{hub.url}/lfs/{file['oid']}", "header": {}}}
            objects.append({"oid": file["oid"], "size": file["size"], **({} if there else {"actions": upload})})
        return {"transfer": "basic", "objects": objects}

    for prefix in ("", "/spaces", "/datasets"):
        application.post(prefix + "/{owner}/{name}.git/info/lfs/objects/batch")(large_files_batch)

    @application.put("/lfs/{oid}")
    async def put_large_file(oid: str, request: Request) -> Any:
        file = StoredFile(await request.body(), True)
        if file.sha256 != oid:
            raise Refusal(400, None, f"the file's SHA-256 is {file.sha256}, not {oid}")
        store.large_files[oid] = file.content
        return {}

    @application.post("/api/{kinds}/{owner}/{name}/commit/{revision}")
    async def commit(kinds: str, owner: str, name: str, revision: str, request: Request) -> Any:
        _require_token(request)
        repository = _repository(store, request, kinds, f"{owner}/{name}")
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        changed, deleted = _changes(store, repository, lines)
        for path, file in changed.items():
            errors = []
            if path == "README.md":
                errors = readme_errors(file.content.decode(), repository.kind)
            elif path.startswith(".eval_results/"):
                errors = evaluation_errors(file.content.decode())
            if errors:
                raise Refusal(400, None, f"{path}: {'; '.join(errors)}")
        with store.lock:
            parent = header.get("parentCommit")
            if parent is not None and not repository.head.oid.startswith(parent):
                raise Refusal(412, None, "A commit has happened since. Please refresh and try again.")
            made = repository.commit(header["summary"], changed, deleted)
        return {"commitOid": made.oid, "commitUrl": f"{hub.url}/{repository.identifier}/commit/{made.oid}"}


def _changes(
    store: Store, repository: Repository, lines: list[dict[str, Any]]
) -> tuple[dict[str, StoredFile], set[str]]:
    changed: dict[str, StoredFile] = {}
    deleted: set[str] = set()
    for line in lines:
        value = line["value"]
        if line["key"] == "file":
            changed[value["path"]] = StoredFile(base64.b64decode(value["content"]), False)
        elif line["key"] == "lfsFile":
            content = store.large_files.get(value["oid"])
            if content is None or len(content) != value["size"]:
                raise Refusal(400, None, f"{value['path']}: the large file {value['oid']} was never uploaded")
            changed[value["path"]] = StoredFile(content, True)
        elif line["key"] == "deletedFile":
            if value["path"] not in repository.head.files:
                raise Refusal(404, "EntryNotFound", f"A file with this name doesn't exist: {value['path']}")
            deleted.add(value["path"])
        elif line["key"] != "header":
            raise Refusal(400, None, f"unknown operation {line['key']}")
    return changed, deleted


def _reading_routes(application: FastAPI, store: Store, hub: LoopbackHub) -> None:
    @application.get("/api/{kinds}/{owner}/{name}")
    @application.get("/api/{kinds}/{owner}/{name}/revision/{revision}")
    def information(kinds: str, owner: str, name: str, request: Request, revision: str = "main") -> Any:
        repository = _repository(store, request, kinds, f"{owner}/{name}")
        found = _revision(repository, revision)
        entries = [
            {"rfilename": path, "size": len(file.content), "blobId": file.blob_id}
            | ({"lfs": {"sha256": file.sha256, "size": len(file.content), "pointerSize": 134}} if file.large else {})
            for path, file in found.files.items()
        ]
        identifier = repository.identifier
        return {"id": identifier, "modelId": identifier, "author": owner, "sha": found.oid, "siblings": entries} | {
            "private": repository.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []
        }  # fmt: skip

    @application.get("/api/{kinds}/{owner}/{name}/tree/{revision}")
    @application.get("/api/{kinds}/{owner}/{name}/tree/{revision}/{folder:path}")
    def tree(kinds: str, owner: str, name: str, revision: str, request: Request, folder: str = "") -> Any:
        found = _revision(_repository(store, request, kinds, f"{owner}/{name}"), revision)
        inside = {path: f for path, f in found.files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        if request.query_params.get("recursive", "").lower() not in ("true", "1"):
            inside = {path: f for path, f in inside.items() if "/" not in path.removeprefix(f"{folder}/")}
        return [
            {"type": "file", "path": path, "size": len(f.content), "oid": f.blob_id}
            | ({"lfs": {"oid": f.sha256, "size": len(f.content), "pointerSize": 134}} if f.large else {})
            for path, f in sorted(inside.items())
        ]

    def resolve(owner: str, name: str, revision: str, path: str, request: Request) -> Response:
        kinds = next((k for k in ("spaces", "datasets") if request.url.path.startswith(f"/{k}/")), "models")
        found = _revision(_repository(store, request, kinds, f"{owner}/{name}"), revision)
        file = found.files.get(path)
        if file is None:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist on {revision}")
        headers = {"X-Repo-Commit": found.oid}
        if not file.large:
            return _content(request, file.content, headers | {"ETag": f'"{file.blob_id}"'})
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.content))}
        # As with the real Hub, large files lie on another host, and the client reads the headers above.
        elsewhere = hub.url.replace("127.0.0.1", "localhost")
        return Response(status_code=302, headers=headers | {"Location": f"{elsewhere}/cdn/{file.sha256}"})

    for prefix in ("", "/spaces", "/datasets"):
        route = prefix + "/{owner}/{name}/resolve/{revision}/{path:path}"
        application.api_route(route, methods=["GET", "HEAD"])(resolve)

    @application.api_route("/cdn/{oid}", methods=["GET", "HEAD"])
    def large_file(oid: str, request: Request) -> Response:
        return _content(request, store.large_files[oid], {"ETag": f'"{oid}"'})


def _content(request: Request, content: bytes, headers: dict[str, str]) -> Response:
    """A file, or the rest of it that a continued download asks for."""
    start = 0
    asked = request.headers.get("range", "")
    if asked.startswith("bytes="):
        start = int(asked.removeprefix("bytes=").split("-")[0])
        headers = {**headers, "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
    return Response(content[start:], 206 if asked else 200, headers, "application/octet-stream")
