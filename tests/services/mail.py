"""A mail server that stores the messages it receives."""

from __future__ import annotations

import json
import socketserver
import threading
from types import TracebackType


class MailServer(socketserver.ThreadingTCPServer):
    """Runs during a ``with`` block.

    :ivar messages: the messages received, headers and body.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.messages: list[str] = []
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> MailServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def connection_json(self) -> str:
        """Return the value for ``AIRFLOW_CONN_SMTP_DEFAULT``."""
        extra = {"disable_ssl": True, "disable_tls": True}
        port = self.server_address[1]
        return json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra})


class _Session(socketserver.StreamRequestHandler):
    server: MailServer

    def handle(self) -> None:
        self._say("220 mail")
        while line := self.rfile.readline():
            word = line[:4].decode().upper()
            if word == "QUIT":
                self._say("221 bye")
                return
            if word == "DATA":
                self._say("354 go on")
                self.server.messages.append(self._message())
            self._say("250 ok")

    def _message(self) -> str:
        lines = []
        while (line := self.rfile.readline().rstrip(b"\r\n")) != b".":
            lines.append(line.removeprefix(b"."))
        return b"\n".join(lines).decode()

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())
