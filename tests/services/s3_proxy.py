"""An HTTP proxy in front of an S3 server, to simulate a store that fails, or that differs from S3."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import parse_qs, urlsplit

import pytest

# botocore ships no annotations.
from botocore.auth import S3SigV4Auth  # type: ignore[import-untyped]
from botocore.awsrequest import AWSRequest  # type: ignore[import-untyped]
from botocore.credentials import Credentials  # type: ignore[import-untyped]

from tests.services.seaweedfs import S3Server

_NOT_PASSED_ON = {"connection", "keep-alive", "transfer-encoding", "content-length"}
_REFUSAL = b"<Error><Code>AccessDenied</Code><Message>no more writes</Message></Error>"


class S3Proxy(ThreadingHTTPServer):
    """Runs during a ``with`` block.

    :ivar refuse: answer writes to matching keys with 403, which no client retries; ``None`` = none.
    :ivar refused: the keys of refused writes.
    :ivar refuses_deletions: number of deletions of single objects to answer with 403.
    :ivar ignores_conditions: ignore ``If-None-Match`` and write even if the object exists.
    :ivar no_listing: answer listings with 404 and this code, ``""`` for an empty body; ``None`` = list normally.
    :ivar cuts_listings: answer listings as if more pages followed, with this token for the next, or ``""`` without
        one; ``None`` = list normally.
    :ivar lists_nothing: answer listings as if there were no objects.
    :ivar ends_after: number of bytes of each object that are sent, without a length, before the connection ends.
    :ivar cuts_answers: number of objects that are sent with their length, but only to their middle.
    :ivar cuts_uploads: number of uploads of more than 1 MB that are cut off in their middle, without an answer.
    :ivar delay: delay of each request in seconds.
    :ivar held: requests whose method and path match wait until :attr:`released` is set; ``None`` = none.
    :ivar seen: method and path of each request.
    :ivar headers: the headers of each request, in lower case.
    :ivar conn_id: id of its own connection, since Airflow opens a connection's file system once per process.
    """

    daemon_threads = True

    def __init__(self, server: S3Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refuse: str | None = None
        self.refused: list[str] = []
        self.ignores_conditions = False
        self.lists_nothing = False
        self.cuts_listings: str | None = None
        self.no_listing: str | None = None
        self.ends_after: int | None = None
        self.cuts_uploads = self.cuts_answers = self.refuses_deletions = 0
        self.delay = 0.0
        self.held: str | None = None
        self.released = threading.Event()
        self.seen: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.credentials = Credentials(server.access_key, server.secret_key)
        self.conn_id = f"s3_proxied_{uuid.uuid4().hex[:8]}"
        self.upstream = urlsplit(server.endpoint_url).netloc
        self._connection = json.loads(server.airflow_connection_json())
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> S3Proxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def held_requests(self) -> int:
        """How many requests matched :attr:`held` so far, also before it was set."""
        return sum(self.holds(method, path) for method, path in self.seen)

    def holds(self, method: str, path: str) -> bool:
        """Whether such a request waits."""
        return bool(self.held and re.search(self.held, f"{method} {path}"))

    def airflow_connection_json(self) -> str:
        """Return the value for ``AIRFLOW_CONN_<ID>``, a connection of type ``aws``."""
        extra = self._connection["extra"] | {"endpoint_url": f"http://127.0.0.1:{self.server_port}"}
        return json.dumps(self._connection | {"extra": extra})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Proxy

    def answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        self.server.seen.append((self.command, self.path))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        if length > 10**6 and self.server.cuts_uploads:
            self.server.cuts_uploads -= 1
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        time.sleep(self.server.delay)
        is_write = self.command in ("PUT", "POST")
        is_listing = self.command == "GET" and "list-type" in parse_qs(urlsplit(self.path).query)
        if is_listing and self.server.lists_nothing:
            self.send(200, [], b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")
            return
        if is_listing and self.server.no_listing is not None:
            code = self.server.no_listing
            self.send(404, [], f"<Error><Code>{code}</Code></Error>".encode() if code else b"")
            return
        if is_write and self.server.refuse and re.search(self.server.refuse, self.path):
            self.server.refused.append(self.path)
            self.send(403, [], _REFUSAL)
            return
        if self.command == "DELETE" and self.server.refuses_deletions:
            self.server.refuses_deletions -= 1
            self.send(403, [], _REFUSAL)
            return
        if self.server.holds(self.command, self.path):
            self.server.released.wait()
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            # Headers unchanged, since the signature covers the client's Host.
            headers = self.changed()
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() != "expect":
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            content = answer.read()
            if is_listing and self.server.cuts_listings is not None:
                token = f"<NextContinuationToken>{self.server.cuts_listings}</NextContinuationToken>"
                more = f"<IsTruncated>true</IsTruncated>{token if self.server.cuts_listings else ''}"
                content = re.sub(rb"<IsTruncated>\w+</IsTruncated>", more.encode(), content)
            self.send(answer.status, answer.getheaders(), content)
        finally:
            upstream.close()

    def changed(self) -> dict[str, str]:
        """Return the headers to forward, signed again if they were changed."""
        headers = dict(self.headers.items())
        if self.server.ignores_conditions:
            headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
        if len(headers) == len(self.headers):
            return headers
        headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        request = AWSRequest(self.command, f"http://{headers['Host']}{self.path}", headers)
        request.context["timestamp"] = request.headers["X-Amz-Date"]
        signer = S3SigV4Auth(self.server.credentials, "s3", "us-east-1")
        to_sign = signer.string_to_sign(request, signer.canonical_request(request))
        scope, signed = signer.scope(request), signer.signed_headers(signer.headers_to_sign(request))
        signature = signer.signature(to_sign, request)
        return {
            **headers,
            "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={signed}, Signature={signature}",
        }

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815 -- http.server's names

    def send(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        by_name = {name.lower(): value for name, value in headers}
        for name, value in headers:
            if name.lower() not in _NOT_PASSED_ON:
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        if self.command == "GET" and self.server.ends_after is not None and len(body) > self.server.ends_after:
            self.close_connection = True
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body[: self.server.ends_after])
            return
        self.send_header("Content-Length", by_name.get("content-length", "0") if is_head else str(len(body)))
        self.end_headers()
        if self.command == "GET" and self.server.cuts_answers and "list-type" not in self.path:
            self.server.cuts_answers -= 1
            self.close_connection = True
            body = body[: len(body) // 2]
        if not is_head:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- http.server's name
        pass


@contextlib.contextmanager
def connected(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """A proxy before the S3 server, for jobs that use its connection."""
    with S3Proxy(s3) as proxy:
        monkeypatch.setenv(f"AIRFLOW_CONN_{proxy.conn_id.upper()}", proxy.airflow_connection_json())
        yield proxy


@pytest.fixture
def proxy(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """The proxy of a test that needs one."""
    with connected(s3, monkeypatch) as proxy:
        yield proxy
