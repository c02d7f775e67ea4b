"""A certificate authority for one run of the emulator, and its certificate for this machine."""

from __future__ import annotations

from pathlib import Path

import trustme


def issue(directory: Path, host: str) -> tuple[Path, Path]:
    """Make a CA and a certificate for ``host``.

    :param directory: directory for the two files; the server's contains a private key.
    :return: the CA's file, for clients; the server's file with key and certificates. Both are PEM.
    """
    authority = trustme.CA()
    ca_file, server_file = directory / "ca.pem", directory / "server.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    authority.issue_cert(host).private_key_and_cert_chain_pem.write_to_path(str(server_file))
    return ca_file, server_file
