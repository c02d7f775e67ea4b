"""What the tests of the hook share: a request, and servers that stand between the hook and the emulator."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import re
import select
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deepshi_provider.api.requests import GenerateRequest

KEY = "sk-bf-emulator"


def boat(**fields: Any) -> GenerateRequest:
    """A small, cheap picture; ``fields`` are changed or added."""
    small = {"model": "deepshi-banana-pro", "prompt": "a red boat", "width": 64, "height": 48}
    return GenerateRequest.model_validate(small | fields)


def wait_until(happened: Callable[[], object], timeout: float = 5.0) -> float:
    """Wait until something has happened; return the seconds that it took."""
    begun = time.monotonic()
    while not happened():
        if time.monotonic() - begun > timeout:
            raise TimeoutError(f"it did not happen within {timeout:g} s")
        time.sleep(0.01)
    return time.monotonic() - begun


def open_files() -> set[str]:
    """What this process has open: ``number -> target``."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the directory that is listed
            found.add(f"{entry.name} -> {entry.readlink()}")
    return found


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    block_on_close = True

    handle_connection: Callable[[socket.socket], None]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that breaks off is part of the tests."""


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.handle_connection(self.request)


@contextlib.contextmanager
def serving(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve TCP on 127.0.0.1, each connection in a thread; yield the port."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.handle_connection = handle
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def tls_in_front_of(base_url: str, certificate: Path) -> Iterator[str]:
    """Serve a plain HTTP server over TLS as well; yield the ``https`` URL.

    :param certificate: PEM file with key and certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    address = _address(base_url)

    def handle(client: socket.socket) -> None:
        with context.wrap_socket(client, server_side=True) as secure, socket.create_connection(address) as server:
            _pipe(secure, server)

    with serving(handle) as port:
        yield f"https://127.0.0.1:{port}"


@contextlib.contextmanager
def http_proxy() -> Iterator[tuple[str, list[str]]]:
    """Serve as a proxy (RFC 9110: absolute-form requests and CONNECT); yield its URL and the targets asked for."""
    seen: list[str] = []

    def handle(client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(65536)
        method, target, rest = head.split(b" ", 2)
        seen.append(f"{method.decode()} {target.decode()}")
        address = _address(target.decode() if method != b"CONNECT" else f"//{target.decode()}")
        with socket.create_connection(address) as server:
            if method == b"CONNECT":
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                server.sendall(b"%s %s %s" % (method, re.sub(rb"^http://[^/]+", b"", target), rest))
            _pipe(client, server)

    with serving(handle) as port:
        yield f"http://127.0.0.1:{port}", seen


def self_signed(directory: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1; return the server's PEM file and the client's CA file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "deepshi tests")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    authority = directory / "ca.pem"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    server = directory / "server.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    server.write_bytes(secret + authority.read_bytes())
    return server, authority


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


def _pipe(client: socket.socket, server: socket.socket) -> None:
    """Carry bytes both ways until one side closes."""
    other = {client: server, server: client}
    while True:
        waiting = isinstance(client, ssl.SSLSocket) and client.pending()
        ready = [client] if waiting else select.select([client, server], [], [])[0]
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            other[source].sendall(data)
