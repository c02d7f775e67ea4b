"""Directories of buckets in S3, and of servers with its API."""

from __future__ import annotations

import io
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, BinaryIO, Literal

import anyio
import fsspec.asyn

from deepshi_provider.store.remote import ObjectDirectory, s3_code

#: Connections of a client; with botocore's default of 10, the storage threads would wait for each other.
_CONNECTIONS = 48
#: Bytes; longer files are uploaded in parts. S3 allows 5 GiB.
_LONGEST_PUT = 100 * 2**20
#: Bytes that are read at a time.
_CHUNK = 256 * 1024
#: Seconds in which an upload must get on: a server may stop reading without closing the connection.
_LONGEST_PAUSE = 120.0
#: Tries to read an object whose connection is lost on the way.
_TRIES = 3


class S3Directory(ObjectDirectory):
    """A directory of a bucket in S3, or of a server with its API."""

    def __init__(self, fs: Any, path: str) -> None:
        super().__init__(fs, path, content_type="ContentType")
        # For a file system that is not in use yet; a number in the Airflow connection takes precedence.
        fs.config_kwargs = {"max_pool_connections": _CONNECTIONS, **fs.config_kwargs}

    def names(self, folder: str, prefix: str) -> Iterator[tuple[str, int]]:
        """See the interface. Lists page by page: ``ls`` would keep 2 kB per object, and then copy it."""
        bucket, key, _ = self._fs.split_path(self._path(folder).rstrip("/"))
        start = f"{key}/{prefix}" if key else prefix
        asked = {"Bucket": bucket, "Prefix": start, "Delimiter": "/", **self._fs.req_kw}
        more: dict[str, str] = {}
        first = None
        while True:
            page = self._fs.call_s3("list_objects_v2", **asked, **more)
            begun, first = first, next((found["Key"] for found in page.get("Contents", [])), None)
            for found in page.get("Contents", []):
                yield found["Key"].rpartition("/")[2], found["Size"]
            token = page.get("NextContinuationToken")
            if not token and not page.get("IsTruncated"):
                return
            is_same = token == more.get("ContinuationToken") or (first is not None and first == begun)
            if not token or is_same:  # a claim may be among what is missing
                raise OSError(f"the listing of {start} is cut off, and its next page cannot be asked for")
            more = {"ContinuationToken": token}

    def _content(self, path: str) -> bytes:
        # Not with cat_file, which asks for the length in another call, or takes it from a cache.
        bucket, key, _ = self._fs.split_path(path)
        tries = 0
        while True:
            found = self._fs.call_s3("get_object", Bucket=bucket, Key=key, **self._fs.req_kw)
            try:
                return bytes(self._run(_whole, found["Body"]))
            except Exception:
                tries += 1
                if tries == _TRIES:
                    raise

    def _pipe(self, path: str, data: bytes, **options: str) -> None:
        self._run(self._pipe_whole, path, data, options)

    async def _pipe_whole(self, path: str, data: bytes, options: dict[str, str]) -> Literal[True]:
        await self._fs._pipe_file(path, data, **options)  # noqa: SLF001 -- its blocking twin hides a cancellation
        return True

    def publish(self, name: str, source: BinaryIO, media_type: str) -> None:
        """See the interface. One call, which reads the file piece by piece; each part would take a call, and memory."""
        size = source.seek(0, io.SEEK_END)
        source.seek(0)
        if size > _LONGEST_PUT:
            super().publish(name, source, media_type)
            if self.size(name) != size:  # s3fs ignores that its last call was cancelled
                raise OSError("the upload was not completed")
        else:
            self._run(self._put, self._path(name), source, media_type)

    async def _put(self, path: str, source: BinaryIO, media_type: str) -> Any:
        """Upload a file. Not with ``call_s3``, which after an error would send again what is left of the file: nothing.

        botocore's own retries begin at the file's beginning.
        """
        bucket, key, _ = self._fs.split_path(path)
        await self._fs.set_session()
        client = await self._fs.get_s3(bucket)
        client.meta.events.register("before-sign.s3.PutObject", _send_at_once, unique_id="deepshi-put")
        options = {**self._fs.s3_additional_kwargs, **self._fs.req_kw, "ContentType": media_type}
        known = client.meta.service_model.operation_model("PutObject").input_shape.members
        options = {name: value for name, value in options.items() if name in known and value is not None}
        answer = None
        with anyio.move_on_after(_LONGEST_PAUSE) as scope:
            body = _Body(source, scope)
            answer = await client.put_object(Bucket=bucket, Key=key, Body=body, **options)
        if answer is None:
            raise OSError(f"the server has taken nothing of it for {_LONGEST_PAUSE:.0f} s")
        self._fs.invalidate_cache(path)
        return answer

    def _run(self, work: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        """Return what a coroutine returns in the thread of the file system."""
        return _check(fsspec.asyn.sync(self._fs.loop, work, *args))

    def sign(self, name: str, seconds: int) -> str | None:
        """See the interface. In the oldest regions, botocore would use signature v2, which new buckets refuse."""
        fs = self._fs
        config = {"signature_version": "s3v4", **(fs.storage_options.get("config_kwargs") or {})}
        signing = type(fs)(*fs.storage_args, **{**fs.storage_options, "config_kwargs": config})
        return ObjectDirectory(signing, self._root).sign(name, seconds)

    def _check_bucket(self, err: FileNotFoundError) -> None:
        if s3_code(err) == "NoSuchBucket":
            raise err

    def has_custom_endpoint(self) -> bool:
        options = getattr(self._fs, "client_kwargs", None) or {}
        by_environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        return bool(getattr(self._fs, "endpoint_url", None) or options.get("endpoint_url") or by_environment)


class _Body:
    """A file for aiohttp, which would read it in other threads: they are refused while the interpreter exits.

    :param scope: of the upload; each piece extends it.
    """

    def __init__(self, file: BinaryIO, scope: anyio.CancelScope) -> None:
        self._file, self._scope = file, scope
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        self._scope.deadline = anyio.current_time() + _LONGEST_PAUSE
        return self._file.read(size)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.seek(0)
        while data := self.read(_CHUNK):
            yield data


def _check(result: Any) -> Any:
    """Return the result of a call; fsspec returns ``None`` for one that was cancelled, as if it had succeeded."""
    if result is None:
        raise OSError("the call was cancelled")
    return result


async def _whole(body: Any) -> bytes:
    try:
        return bytes(await body.read())
    finally:
        body.close()


def _send_at_once(request: Any, **_: Any) -> None:
    """Do not ask the server first whether it takes a file: that takes a round trip."""
    del request.headers["Expect"]
