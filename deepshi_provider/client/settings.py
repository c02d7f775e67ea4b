"""Settings of a client: server, key, timeouts and budgets."""

from __future__ import annotations

import contextlib
import re
import ssl
from decimal import Decimal
from functools import lru_cache
from http.cookiejar import DefaultCookiePolicy
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from typing_extensions import Self

from deepshi_provider.client.budgets import Budgets, GroupBudgets, Limit, checked_zone, limits_of, zone_of
from deepshi_provider.exceptions import InvalidConnection

#: The default port of each scheme.
PORTS = {"http": 80, "https": 443}
#: Underscores are not allowed in host names, but common inside clusters.
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII | re.IGNORECASE)
_LONGEST_HOST = 253


def _flag_or_path(value: Any) -> Any:
    words = {"true": True, "1": True, "": True, "false": False, "0": False}
    return words.get(value.strip().lower(), value) if isinstance(value, str) else value


def _proxy_url(value: str) -> str:
    try:
        url, port = httpx.URL(value), urlsplit(value).port
    except (httpx.InvalidURL, ValueError):  # httpx would take another port for one above 65,535
        url, port = httpx.URL(""), None
    if url.scheme not in PORTS or not is_host(url.host) or port == 0:
        raise ValueError("not the URL of an HTTP proxy, such as http://proxy:3128")
    return value


class Settings(BaseModel):
    """Settings of a client.

    :param base_url: scheme, host and port, without ``/v1``.
    :param output_uri: default directory for images, and for the spending that tasks share.
    :param output_conn_id: connection of the object store.
    :param connect_timeout: seconds to make a connection.
    :param read_timeout: longest silence between two bytes of a stream, in seconds; keepalives count as bytes.
    :param max_retries: how often a request that was certainly not charged is sent again.
    :param max_retry_wait: longest single wait before such a retry, in seconds.
    :param verify: check TLS certificates: ``True``, ``False``, or the path of a CA file.
    :param proxy: URL of an HTTP proxy.
    :param max_cost_usd_per_day: the most that all tasks with this connection may spend in a day, in USD.
    :param max_cost_usd_per_month: the most that they may spend in a month, in USD.
    :param budget_groups: limits per day and month for the tasks of each ``budget_group``, by its name.
    :param budget_time_zone: time zone of days and months.
    :param warn_at: share of each of these limits at which a warning is given.
    :param keep_prompts: whether records and cost sheets hold the prompts.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    conn_id: str
    base_url: str
    api_key: SecretStr
    output_uri: str | None = None
    output_conn_id: str | None = None
    connect_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    read_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 90.0
    max_retries: Annotated[int, Field(ge=0)] = 3
    max_retry_wait: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    verify: Annotated[bool | str, BeforeValidator(_flag_or_path)] = True
    proxy: Annotated[str, AfterValidator(_proxy_url)] | None = Field(default=None, repr=False)  # it may hold a password
    max_cost_usd_per_day: Limit | None = None
    max_cost_usd_per_month: Limit | None = None
    budget_groups: GroupBudgets | None = None
    budget_time_zone: Annotated[str, AfterValidator(checked_zone)] = "UTC"
    warn_at: Annotated[Decimal, Field(gt=0, le=1)] = Decimal("0.8")
    keep_prompts: bool = True

    @model_validator(mode="after")
    def _budgets_can_be_kept(self) -> Self:
        if self.output_uri is None and (self.budget_groups or limits_of(self)):
            raise ValueError("budgets need an output_uri, in which tasks share their spending")
        return self

    def budgets(self, group: str | None = None) -> Budgets:
        """Return the limits per day and month that apply to a task.

        :param group: the task's ``budget_group``.
        """
        own = [limit for named in self.budget_groups or () if named.group == group for limit in limits_of(named, group)]
        return Budgets(
            conn_id=self.conn_id,
            zone=zone_of(self.budget_time_zone),
            limits=(*limits_of(self), *own),
            group=group,
            warn_at=self.warn_at,
        )

    @property
    def account(self) -> str:
        """The account that pays: base URL and connection id, without the key; part of a request's fingerprint."""
        return f"{self.base_url} {self.conn_id}"

    def new_client(self) -> httpx.AsyncClient:
        """Return an HTTP client for this connection. The first one of a process takes a while.

        Connections are not kept alive: a request on one that the server has just closed cannot be distinguished from
        a request whose answer was lost, which may be a paid image. So a client need not be closed. It keeps no cookies
        either.
        """
        from deepshi_provider.client.transport import Transport  # not while DAGs are parsed: the import is slow

        proxy = self.proxy or environment_proxy(self.base_url)
        client = httpx.AsyncClient(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {self.api_key.get_secret_value()}", "Connection": "close"},
            timeout=httpx.Timeout(self.read_timeout, connect=self.connect_timeout, pool=None),
            transport=Transport(tls_context(self.verify), proxy),
            follow_redirects=False,
        )
        client.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        return client


def is_host(name: str) -> bool:
    """Return whether a name is a valid host name; an invalid one would fail only when the request is sent."""
    with contextlib.suppress(ValueError):
        ip_address(name)
        return True
    try:
        labels = name.encode("idna").decode().removesuffix(".").split(".")
    except UnicodeError:  # a label is empty or too long
        return False
    # By the WHATWG's URL standard, a name whose last label is a number is an (invalid) IP address.
    return all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdigit() and len(name) <= _LONGEST_HOST


def environment_proxy(url: str) -> str | None:
    """Return the proxy for a URL from the environment (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``, …).

    :raises InvalidConnection: it is not an HTTP proxy.
    """
    parts = urlsplit(url)
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or proxy_bypass(parts.netloc):
        return None
    try:
        return _proxy_url(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError as err:
        variable = f"{parts.scheme.upper()}_PROXY" if proxies.get(parts.scheme) else "ALL_PROXY"
        raise InvalidConnection(f"The environment variable {variable} is {err}") from None


@lru_cache(maxsize=8)
def tls_context(verify: bool | str) -> ssl.SSLContext:
    """Return a TLS context, cached per setting: creating one reads all CA certificates, which takes tens of ms."""
    named = f"The CA file {verify!r} (verify) of the connection"
    try:
        if isinstance(verify, str):
            return ssl.create_default_context(cafile=verify)
        named = "The CA file or directory in SSL_CERT_FILE or SSL_CERT_DIR"
        return httpx.create_ssl_context(verify=verify)
    except OSError as err:
        raise InvalidConnection(f"{named} cannot be read: {err}") from err
