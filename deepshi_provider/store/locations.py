"""Checks URIs of directories and objects: they must name the same object for all programs.

Other programs open the URIs in results: browsers decode ``%41`` and cut at ``?`` and ``#``, clients normalize ``a//b``
and ``a/../b``, DuckDB and fsspec expand ``*`` and ``[``, and some stores drop the last dot or space of a part. Every
program must find the image that was paid for, so URIs with any of these are refused before anything is sent.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import NamedTuple

from deepshi_provider.exceptions import InvalidRequest

#: Maximum bytes of a directory's path; S3 allows 1,024 for a key, and records have the longest names.
_LONGEST = 750
_SYNONYMS = {"s3a": "s3", "gcs": "gs", "abfss": "abfs", "adl": "abfs", "az": "abfs", "ssh": "sftp"}
#: Servers of files, whose paths have ``..`` and on which ``a//b`` is ``a/b``, by their usual port.
_FILE_SERVERS = {"sftp": ":22", "ftp": ":21", "smb": ":445", "hdfs": ":8020"}
_SHOWN = 120  # characters of a URI in a message
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_ONE_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
#: Patterns that a part of a path must not match, and their names in messages.
_REFUSED = (
    (re.compile(r"\A\Z"), "an empty part ('//')"),
    (re.compile(r"\A\.\.?\Z"), "'.' or '..' as a part"),
    (re.compile(r"[?#*\[\]\\]"), "one of the characters ? # * [ ] \\"),
    (re.compile(r"::"), "'::', which fsspec takes for one store inside another"),
    (re.compile(r"%[0-9A-Fa-f]{2}"), "a percent code, which some programs decode"),
    (re.compile(r"[\x00-\x1f\x7f]"), "a control character"),
    (re.compile(r"\A\s|\s\Z"), "a part that begins or ends with a space"),
    (re.compile(r"\.\Z"), "a part that ends with a dot"),
)


class Location(NamedTuple):
    """A directory or an object.

    :param protocol: in lower case; ``file`` for local ones.
    :param bucket: bucket or host; ``""`` for local ones.
    :param path: without the first ``/``.
    :param conn_id: Airflow connection in the URI (``s3://conn@bucket/key``).
    """

    protocol: str
    bucket: str
    path: str
    conn_id: str | None = None

    @property
    def uri(self) -> str:
        """The URI without the connection id."""
        slash = "/" if self.path or self.protocol == "file" else ""
        return f"{self.protocol}://{self.bucket}{slash}{self.path}"

    def at(self, path: str) -> Location:
        """Return another path in the same store."""
        return self._replace(path=path)

    def real(self) -> Location:
        """Return the location with symbolic links and ``..`` resolved, if it is local."""
        if self.protocol != "file" or "\0" in self.path:  # no file has such a name
            return self
        return self.at(os.path.realpath(f"/{self.path}").lstrip("/"))

    def is_same(self, other: Location) -> bool:
        """Return whether both name the same location, in any spelling; connections are ignored."""
        return self._identity() == other._identity()

    def _identity(self) -> tuple[str, str, str]:
        protocol = _SYNONYMS.get(self.protocol, self.protocol)
        if port := _FILE_SERVERS.get(protocol):
            return protocol, self.bucket.lower().removesuffix(port), posixpath.normpath(self.path.strip("/"))
        return protocol, self.bucket, self.real().path


def locate(uri: str) -> Location:
    """Return the location that a URI or a local path names, without checking it."""
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return Location(protocol="file", bucket="", path=str(_absolute(uri)).lstrip("/"))
    host, _, path = rest.partition("/")
    named, _, bucket = host.rpartition("@")
    protocol = scheme.lower()
    if protocol == "file" and bucket == "localhost":
        bucket = ""
    return Location(protocol=protocol, bucket=bucket, path=path, conn_id=named or None)


def checked(uri: str) -> Location:
    """Return the location that a URI or a local path names, without a slash at its end.

    :raises InvalidRequest: it names different objects for different programs.
    """
    found = locate(uri)
    path = found.path if found.path == "/" else found.path.removesuffix("/")
    if problem := _form_problem(uri, found) or _path_problem(found.bucket, path):
        raise InvalidRequest(f"{_short(uri)} cannot be used: {problem}")
    return Location(protocol=found.protocol, bucket=found.bucket, path=path, conn_id=found.conn_id)


def split(uri: str) -> tuple[str, str]:
    """Return the directory and the name of an object.

    :raises InvalidRequest: the URI names different objects for different programs.
    """
    checked(uri)
    folder, _, name = uri.rpartition("/")
    if not name:
        raise InvalidRequest(f"{_short(uri)} names a directory; a file is needed")
    return folder if "/" in uri else ".", name


def _form_problem(uri: str, found: Location) -> str | None:
    if uri[:5].lower() == "data:":
        return "it is a data URI; a directory or a file of a store is needed"
    if "://" not in uri and _ONE_SLASH.match(uri):
        return "a URI has two slashes after its scheme"
    if not _SCHEME.fullmatch(found.protocol):
        return f"{found.protocol!r} is not a scheme"
    if found.protocol == "file":
        return "it has a host; a local directory is file:///path" if found.bucket else None
    return None if found.bucket else "it has no bucket"


def _path_problem(bucket: str, path: str) -> str | None:
    parts = [bucket] if bucket else []
    if path:
        parts += path.split("/")
    for part in parts:
        for wrong, name in _REFUSED:
            if wrong.search(part):
                return f"it has {name}, so some programs would read another object"
    try:
        too_long = len(path.encode()) > _LONGEST
    except UnicodeEncodeError:
        return "it has an unpaired surrogate"
    return f"its path is longer than {_LONGEST} bytes" if too_long else None


def _absolute(path: str) -> Path:
    absolute = Path(path).expanduser().absolute()
    return absolute.resolve() if ".." in absolute.parts else absolute


def _short(uri: str) -> str:
    """Return a URI for a message, without its query, which may be a secret signature."""
    plain, mark, _ = uri.partition("," if uri[:5].lower() == "data:" else "?")
    shown = plain if len(plain) <= _SHOWN else f"{plain[:_SHOWN]}…"
    return repr(f"{shown}?…" if mark else shown)
