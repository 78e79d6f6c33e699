"""What the loopback Hub remembers: repositories with every revision, and the large files they point to."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field


@dataclass(frozen=True)
class StoredFile:
    """One file of one revision; a large one is stored by its SHA-256, as git LFS does."""

    content: bytes
    large: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        """Git's own identifier; for a large file that of its pointer."""
        stored = self.content
        if self.large:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(stored)}\n"
            stored = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()


@dataclass(frozen=True)
class Revision:
    """One commit: all files of the repository after it."""

    oid: str
    parent: str | None
    message: str
    files: dict[str, StoredFile]


@dataclass
class Repository:
    """A repository with one branch, main, and all revisions in order; the first one is the empty repository."""

    identifier: str
    kind: str
    private: bool
    revisions: list[Revision] = field(default_factory=list)

    @property
    def head(self) -> Revision:
        return self.revisions[-1]

    def revision(self, name: str) -> Revision | None:
        """A revision by branch, full commit or its beginning."""
        if name == "main":
            return self.head
        return next((one for one in self.revisions if len(name) >= 7 and one.oid.startswith(name)), None)

    def commit(self, message: str, changed: dict[str, StoredFile], deleted: set[str]) -> Revision:
        """Add a revision: the files of the last one with these changes, in one step."""
        kept = {path: file for path, file in self.head.files.items() if path not in deleted} if self.revisions else {}
        parent = self.head.oid if self.revisions else None
        files = kept | changed
        names = "".join(f"{path}:{file.blob_id}" for path, file in sorted(files.items()))
        oid = hashlib.sha1(f"{parent}{message}{len(self.revisions)}{names}".encode()).hexdigest()
        self.revisions.append(Revision(oid, parent, message, files))
        return self.head


class Store:
    """Everything one loopback Hub holds."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.lock = threading.Lock()

    def create(self, kind: str, identifier: str, private: bool) -> Repository:
        repository = Repository(identifier, kind, private)
        repository.commit(
            "initial commit", {".gitattributes": StoredFile(b"*.safetensors filter=lfs\n", False)}, set()
        )
        self.repositories[kind, identifier] = repository
        return repository
