"""A certificate authority for the servers that tests start."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


class Authority:
    """Issues a certificate for servers on 127.0.0.1.

    :param folder: directory for its files.

    :ivar ca_file: the CA's certificate, which clients must trust, as PEM.
    :ivar certificate_file: the servers' certificate, as PEM.
    :ivar key_file: its private key, as PEM.
    """

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        self.ca_file, self.certificate_file, self.key_file = (
            folder / name for name in ("ca.pem", "server.pem", "server-key.pem")
        )
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.certificate_file.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(self.key_file))
        self.server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        issued.configure_cert(self.server_context)
