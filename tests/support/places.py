"""Output directories, accessed without the code under test: a local directory, or a prefix on an S3 server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.services.seaweedfs import S3Server


class Place(Protocol):
    """One directory for images."""

    @property
    def uri(self) -> str: ...

    @property
    def conn_id(self) -> str | None: ...

    def names(self) -> list[str]:
        """All objects below the directory, sorted."""
        ...

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, data: bytes) -> None: ...

    def delete(self, name: str) -> None: ...


@dataclass(frozen=True)
class LocalPlace:
    path: Path
    conn_id: None = None

    @property
    def uri(self) -> str:
        return self.path.as_uri()

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.path)) for path in self.path.rglob("*") if path.is_file())

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        (self.path / name).write_bytes(data)

    def delete(self, name: str) -> None:
        (self.path / name).unlink()


@dataclass(frozen=True)
class S3Place:
    server: S3Server
    prefix: str
    conn_id: str = "s3_test"

    @property
    def uri(self) -> str:
        return f"s3://images/{self.prefix}"

    def names(self) -> list[str]:
        pages = (
            self.server.client().get_paginator("list_objects_v2").paginate(Bucket="images", Prefix=f"{self.prefix}/")
        )
        found = (item["Key"] for page in pages for item in page.get("Contents", []))
        return sorted(key.removeprefix(f"{self.prefix}/") for key in found)

    def read(self, name: str) -> bytes:
        body: bytes = self.server.client().get_object(Bucket="images", Key=f"{self.prefix}/{name}")["Body"].read()
        return body

    def write(self, name: str, data: bytes) -> None:
        self.server.client().put_object(Bucket="images", Key=f"{self.prefix}/{name}", Body=data)

    def delete(self, name: str) -> None:
        self.server.client().delete_object(Bucket="images", Key=f"{self.prefix}/{name}")


PLACES = ["file", pytest.param("s3", marks=pytest.mark.s3)]


@pytest.fixture
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Place]:
    """Return a function that makes places of a kind, ``file`` or ``s3``."""

    def make(kind: str) -> Place:
        name = uuid.uuid4().hex[:12]
        return S3Place(request.getfixturevalue("s3"), name) if kind == "s3" else LocalPlace(tmp_path / name)

    return make


@pytest.fixture
def local(new_place: Callable[[str], Place]) -> Place:
    """Return a directory that does not exist yet."""
    return new_place("file")


@pytest.fixture
def s3_place(new_place: Callable[[str], Place]) -> Place:
    """Return a prefix on the S3 server."""
    return new_place("s3")


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, new_place: Callable[[str], Place]) -> Place:
    """Return a new, empty place: on the file system, then on S3."""
    return new_place(request.param)


def state(place: Place, ending: str) -> list[str]:
    """Return the names of the state objects of one kind (``claim``, ``record``, ``lease``, ``slot`` and others)."""
    records = ("stored.json", "lost.json", "superseded.json")
    endings = records if ending == "record" else (f"{ending}.json",)
    return [name for name in place.names() if name.startswith("_deepshi/") and name.endswith(endings)]


def document(place: Place, name: str) -> Any:
    """Return the JSON of an object."""
    return json.loads(place.read(name))


def images(place: Place) -> list[str]:
    """Return the names of all objects that are not state: the images, and any leftovers."""
    return [name for name in place.names() if not name.startswith("_deepshi/")]
