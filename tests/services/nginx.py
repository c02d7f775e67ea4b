"""nginx as a reverse proxy with TLS, as most services use it."""

from __future__ import annotations

import os
import pwd
import signal
import socket
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

from tests.support.waiting import wait_for

from . import programs
from .authority import Authority
from .processes import Process, free_ports

_CONFIG = """\
daemon off;
user {user};
worker_processes 2;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
events {{ worker_connections 1024; }}
http {{
    log_format brief "$request_method $status $upstream_status";
    access_log {folder}/access.log brief;
    client_body_temp_path {folder}/client_body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip_types *;
    gzip_proxied any;
    gzip_min_length 1;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {authority.certificate_file};
        ssl_certificate_key {authority.key_file};
        {directives}
        location / {{ proxy_pass http://{upstream}; }}
    }}
}}
"""


class Nginx:
    """Runs during a ``with`` block, as a child process with its own configuration.

    :param folder: directory for its files.
    :param upstream: URL of the server behind it, which uses plain HTTP.
    :param directives: directives of its ``server`` block, by name.
    """

    def __init__(self, folder: Path, upstream: str, authority: Authority, **directives: object) -> None:
        (self._port,) = free_ports(1)
        directives = {"client_max_body_size": 0, **directives}
        self.base_url = f"https://127.0.0.1:{self._port}"
        self._folder = folder
        self._config = folder / "nginx.conf"
        self._config.write_text(
            _CONFIG.format(
                folder=folder,
                port=self._port,
                upstream=urlsplit(upstream).netloc,
                user=pwd.getpwuid(os.geteuid()).pw_name,  # otherwise root's workers run as nobody, without access
                authority=authority,
                directives="\n        ".join(f"{name} {value};" for name, value in directives.items()),
            )
        )

    def __enter__(self) -> Nginx:
        self._process = Process(
            "nginx",
            [programs.nginx(), "-p", str(self._folder), "-c", str(self._config)],
            env=os.environ,
            log_path=self._folder / "nginx.log",
        )
        try:
            wait_for("a connection to nginx", 120, self._listens, every=0.02)
        except BaseException:
            self._process.terminate()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()

    @property
    def ended(self) -> bool:
        """Return whether it has ended by itself."""
        return self._process.exit_code is not None

    def quit(self) -> None:
        """Like ``nginx -s quit``: accept no more connections, and end after the last answer.

        Returns when connections are refused, which is a little after its workers have logged that they shut down.
        """
        self._process.kill(signal.SIGQUIT)
        wait_for("nginx to refuse connections", 120, lambda: not self._listens(), every=0.02)

    def reload(self) -> None:
        """Like ``nginx -s reload``: start new workers; the old ones end after their last answer."""
        self._process.kill(signal.SIGHUP)

    def stop(self) -> None:
        """Like ``nginx -s stop``: cut all connections."""
        self._process.kill(signal.SIGTERM)

    def requests(self) -> list[str]:
        """Return method, status and upstream status of each finished request."""
        return (self._folder / "access.log").read_text().splitlines()

    def _listens(self) -> bool:
        if self.ended:
            raise RuntimeError(f"nginx ended:\n{self._process.log_text()}")
        try:
            socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
        except OSError:
            return False
        return True
