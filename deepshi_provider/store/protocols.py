"""Chooses the class of a remote directory by the protocol of its URI."""

from __future__ import annotations

from typing import Any

from deepshi_provider.store.remote import ObjectDirectory, RemoteDirectory
from deepshi_provider.store.s3 import S3Directory


def remote_directory(protocol: str, fs: Any, path: str) -> RemoteDirectory:
    """Return a directory of the class for a protocol."""
    if protocol in ("s3", "s3a"):
        return S3Directory(fs, path)
    if protocol in ("gs", "gcs"):
        return ObjectDirectory(fs, path, content_type="content_type")
    if protocol in ("abfs", "abfss", "az", "adl", "wasb", "wasbs"):
        return ObjectDirectory(fs, path)
    return RemoteDirectory(fs, path)
