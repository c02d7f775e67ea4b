"""Links of a task instance: its first image, and the directory of its images.

The worker makes them when the task ends; Airflow keeps them as XComs. Anyone who has a signed URL can open it without
a login, so its signature is masked in task logs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink
from airflow.sdk.log import mask_secret

from deepshi_provider.exceptions import DeepshiError
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.reports.lineage import Lineage
from deepshi_provider.store.locations import locate
from deepshi_provider.store.store import Store

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

log = logging.getLogger(__name__)

#: Seconds that a signed URL is valid: the maximum of S3 and Google Cloud Storage. URLs that are signed with temporary
#: credentials expire with them.
SIGNED_FOR = 7 * 24 * 3600


class DeepshiImageLink(BaseOperatorLink):
    """Opens the task's first image: by a signed URL, or in the store's console if the store does not sign URLs."""

    name = "Image"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL; empty if there is no image, or a browser cannot open it."""
        found = _first_image(operator)
        return run_here(_image_url(*found)) if found else ""


class DeepshiDirectoryLink(BaseOperatorLink):
    """Opens the directory of the task's images in the store's console."""

    name = "Image directory"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the URL; empty if there are no images, or the store has no console."""
        found = _first_image(operator)
        return run_here(_console_url(found[0], "")) if found else ""


LINKS: tuple[BaseOperatorLink, ...] = (DeepshiImageLink(), DeepshiDirectoryLink())


def links_of(links: Iterable[BaseOperatorLink], lineage: Lineage) -> tuple[BaseOperatorLink, ...]:
    """Return the links of an operator that a task has something to open for, since each is an XCom.

    :param links: links of the operator's class; a subclass may add or remove some.
    """
    images = lineage.images
    can_open = bool(images) and locate(str(images[0]["uri"])).protocol != "file"
    return tuple(link for link in links if can_open or link not in LINKS)


def _first_image(operator: BaseOperator) -> tuple[Store, str] | None:
    """Return the store and the name of a task's first image; ``None`` if it has none."""
    lineage: Lineage | None = getattr(operator, "lineage", None)
    if lineage is None or not lineage.images:
        return None
    return STORES.object_at(str(lineage.images[0]["uri"]), lineage.costs.output_conn_id)


async def _image_url(store: Store, name: str) -> str:
    try:
        signed = await store.sign(name, SIGNED_FOR)
    except DeepshiError as err:
        log.info("No signed URL for %s: %s", store.uri_of(name), err)
        signed = None
    if signed is None:
        return await _console_url(store, name)
    mask_secret(urlsplit(signed).query)
    return signed


async def _console_url(store: Store, name: str) -> str:
    """Return the URL of an object in the cloud's console; of the directory if the name is empty; empty if none."""
    bucket, _, path = store.uri.partition("://")[2].partition("/")
    key = quote(f"{path}/{name}" if path else name)
    if store.protocol in ("gs", "gcs"):
        kind = f"_details/{bucket}" if name else bucket
        return f"https://console.cloud.google.com/storage/browser/{kind}/{key}"
    if store.protocol in ("s3", "s3a"):
        try:
            elsewhere = await store.has_custom_endpoint()
        except DeepshiError as err:
            log.info("No link to %s: %s", store.uri, err)
            return ""
        kind = "object" if name else "buckets"
        return "" if elsewhere else f"https://s3.console.aws.amazon.com/s3/{kind}/{bucket}?prefix={key}"
    return ""
