"""A Deepshi connection of Airflow → the settings of a client."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import httpx
from airflow.sdk import Connection
from pydantic import ValidationError

from deepshi_provider.api.complaints import complaints
from deepshi_provider.api.texts import did_you_mean
from deepshi_provider.client.settings import PORTS, Settings, is_host
from deepshi_provider.exceptions import InvalidConnection

DEFAULT_BASE_URL = "https://api.deepshi.ai"
#: How similar to a setting an unknown name must be to count as a typo; ``timeout`` and the like do not.
_TYPO = 0.85


def settings_of(connection: Connection) -> Settings:
    """Return the settings of a connection.

    :raises InvalidConnection: the key is missing, or a field is invalid; the message names the field.
    """
    conn_id = connection.conn_id
    if connection.conn_type not in (None, "", "deepshi"):
        raise InvalidConnection(f"Connection {conn_id!r} is of type {connection.conn_type}, not deepshi")
    key = (connection.password or "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        problem = "contains characters that are not allowed in a key" if key else "is missing"
        raise InvalidConnection(f"Connection {conn_id!r}: the API key (its password) {problem}")
    extra = {name: value for name, value in _extra(connection).items() if value not in (None, "")}
    _check_names(conn_id, extra)
    given = {name: value for name, value in extra.items() if name in Settings.model_fields}
    fields = given | {"conn_id": conn_id, "base_url": base_url(connection), "api_key": key}
    try:
        return Settings.model_validate(fields)
    except ValidationError as err:
        wrong = complaints(err, secret=("proxy", "api_key"))
        raise InvalidConnection(f"Connection {conn_id!r} has an invalid extra: {wrong}") from None


def base_url(connection: Connection) -> str:
    """Return the base URL of a connection; its host may have a scheme, a port and ``/v1``."""
    host = (connection.host or DEFAULT_BASE_URL).strip()
    if "://" not in host:
        if host.count(":") > 1 and "[" not in host:  # an IPv6 address from a connection's URI
            host = f"[{host}]"
        scheme = connection.schema if connection.schema in ("http", "https") else "https"
        host = f"{scheme}://{host}"
    wrong = f"Connection {connection.conn_id!r}: the host {host.rpartition('@')[2][:100]!r} is not an HTTP address"
    try:
        parts = urlsplit(host)
        port = connection.port if parts.port is None else parts.port
    except ValueError:
        raise InvalidConnection(wrong) from None
    if parts.scheme not in PORTS or not is_host(parts.hostname or ""):
        raise InvalidConnection(wrong)
    if port is not None and not 0 < port < 2**16:
        if parts.port is not None or port:  # a port field of 0 is an empty one
            raise InvalidConnection(f"{wrong}: port {port} does not exist")
        port = None
    name = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/v1")
    # The default port is left out, so that images are reused whether or not it is given.
    url = f"{parts.scheme}://{name}{f':{port}' if port not in (None, PORTS[parts.scheme]) else ''}{path}"
    try:
        httpx.URL(url)
    except httpx.InvalidURL as err:
        raise InvalidConnection(f"{wrong}: {err}") from None
    return url


def _check_names(conn_id: str, extra: dict[str, Any]) -> None:
    """Refuse unknown names that resemble settings: a limit with a typo would not limit anything."""
    names = Settings.model_fields.keys() - {"conn_id", "base_url", "api_key"}
    for name in extra:
        if name not in names and (meant := did_you_mean(name, names, cutoff=_TYPO)):
            raise InvalidConnection(f"Connection {conn_id!r}: {name[:60]!r} in its extra is not a setting.{meant}")


def _extra(connection: Connection) -> dict[str, Any]:
    """Parse the extra. ``Connection.extra_dejson`` would send the secrets to the supervisor, which blocks the loop."""
    try:
        extra = json.loads(connection.extra or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise InvalidConnection(f"Connection {connection.conn_id!r}: its extra is not a JSON object")
    return extra
