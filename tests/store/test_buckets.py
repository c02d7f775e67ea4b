"""On an object store only an object may be missing: a missing bucket is an error, never a missing object."""

from __future__ import annotations

import uuid

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from deepshi_provider.store.remote import ObjectDirectory, RemoteDirectory


@pytest.fixture
def bucket() -> str:
    return f"bucket-{uuid.uuid4().hex}"


def test_missing_bucket_is_an_error(bucket: str) -> None:
    directory = ObjectDirectory(MemoryFileSystem(), f"{bucket}/images")
    for ask in (
        lambda: list(directory.names("_deepshi", "")),
        lambda: directory.read("a"),
        lambda: directory.size("a"),
    ):
        with pytest.raises(FileNotFoundError):
            ask()


def test_missing_object_is_an_answer(bucket: str) -> None:
    fs = MemoryFileSystem()
    fs.pipe_file(f"{bucket}/other", b"1")
    directory = ObjectDirectory(fs, f"{bucket}/images")
    assert (list(directory.names("_deepshi", "")), directory.read("a"), directory.size("a")) == ([], None, None)
    directory.remove("a")


def test_file_servers_have_no_buckets(bucket: str) -> None:
    directory = RemoteDirectory(MemoryFileSystem(), f"{bucket}/images")
    assert (list(directory.names("_deepshi", "")), directory.read("a")) == ([], None)


def test_a_key_without_access_to_buckets_is_no_error(bucket: str) -> None:
    class Forbidden(MemoryFileSystem):  # type: ignore[misc] # fsspec is not annotated
        def info(self, path: str, **options: object) -> object:
            if path == bucket:
                raise PermissionError(path)
            return super().info(path, **options)

    assert ObjectDirectory(Forbidden(), f"{bucket}/images").size("a") is None
