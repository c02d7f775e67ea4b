"""Turns what was received of an answer into images, cost and warnings, or into an error."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, NamedTuple

from deepshi_provider.api.media import Media, identify
from deepshi_provider.api.postcheck import wrong_number
from deepshi_provider.api.responses import Answer, Picture, reported_cost
from deepshi_provider.api.spool import Spool
from deepshi_provider.api.texts import shown_uri
from deepshi_provider.exceptions import (
    AuthenticationFailed,
    ContentRefused,
    DeepshiError,
    InsufficientQuota,
    InvalidRequest,
    InvalidResponse,
    PermissionDenied,
    StorageFailed,
)

#: Maximum number of unusable images in the warnings.
_EXPLAINED = 4


@dataclass(frozen=True, kw_only=True)
class ReceivedImage:
    """One verified image.

    :param index: its position among the request's images, from 0.
    :param spool: holds its bytes.
    """

    index: int
    spool: Spool
    media: Media
    revised_prompt: str | None


class Received(NamedTuple):
    """An answer with at least one usable image.

    :param warnings: mismatches, as sentences without a full stop.
    :param cost_is_complete: whether ``answer.cost_usd`` is the whole cost, if it is known.
    """

    answer: Answer
    images: list[ReceivedImage]
    warnings: list[str]
    cost_is_complete: bool


@dataclass(kw_only=True)
class Taken:
    """The parts of an answer received so far.

    :param wanted: number of images requested.
    :param pictures: entries of ``data``, with spools for their images.
    :param fields: the fields of :class:`~deepshi_provider.api.responses.Answer`.
    :param error: the first error in the answer, or the error that ended it.
    :param is_paid: whether a result arrived, usable or not, so that the request was certainly paid for.
    :param has_previews: whether partial images, or events that may be, arrived: the request may be paid for.
    :param has_broken_result: whether a result arrived that cannot be read completely: the request may be paid for.
    :param cost_usd: the highest cost in the results; each should be that of the whole request.
    :param cost_aside_usd: the highest cost reported outside the results.
    :param is_cost_disputed: whether different costs were reported.
    :param is_cost_final: whether the cost is that of the whole request, although an error ended it.
    """

    wanted: int
    pictures: list[dict[str, Any]] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    cost_usd: Decimal | None = None
    cost_aside_usd: Decimal | None = None
    is_cost_disputed: bool = False
    error: DeepshiError | None = None
    is_paid: bool = False
    has_previews: bool = False
    has_broken_result: bool = False
    is_cost_final: bool = False

    def add(self, document: dict[str, Any], entries: list[dict[str, Any]], *, is_whole: bool) -> None:
        """Add a document or an event, and those of its images that are new.

        :param is_whole: whether it is neither cut off nor broken.
        """
        known = set(map(_identity, self.pictures)) - {None}
        self.pictures += [entry for entry in entries if _identity(entry) not in known]
        self.is_paid = self.is_paid or (is_whole and bool(entries))
        reported = {"created": document.get("created_at"), **{k: v for k, v in document.items() if v is not None}}
        if not self._takes_cost(reported_cost(reported)):
            reported.pop("usage", None)
        self.fields |= {k: reported[k] for k in ("created", "model", "size", "usage") if reported.get(k) is not None}

    def add_cost(self, document: Any) -> None:
        """Add the cost in an event that is neither a result nor an error; it may be that of a part of the request."""
        cost = reported_cost(document)
        if cost is not None:
            self.cost_aside_usd = max(cost, self.cost_aside_usd or cost)

    def settle_cost(self) -> None:
        """Use the cost reported outside the results if that in the results is lower or missing. Call it at the end."""
        cost = self.cost_aside_usd
        if cost is not None and (self.cost_usd is None or cost > self.cost_usd):
            self._takes_cost(cost)

    def _takes_cost(self, cost: Decimal | None) -> bool:
        """Add a cost; return whether no earlier one is higher."""
        if self.cost_usd is None:
            self.cost_usd = cost
        elif cost is not None and cost != self.cost_usd:
            self.is_cost_disputed = True
            self.cost_usd = max(cost, self.cost_usd)
        return cost == self.cost_usd


def entries_of(document: Any) -> list[dict[str, Any]]:
    """Return the image entries of an answer, or of a completed event, of any known form."""
    data = document.get("data") if isinstance(document, dict) else None
    entries = data if isinstance(data, list) else [data, document]
    found = [entry for entry in entries if isinstance(entry, dict) and ("b64_json" in entry or "url" in entry)]
    return found if isinstance(data, list) else found[:1]


def entries_anywhere(document: Any) -> list[dict[str, Any]]:
    """Return the entries with image data at any place in a document, so that an unusual structure loses no image."""
    if isinstance(document, dict) and is_filled(document):
        return [document]
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else ()
    return [entry for value in inner for entry in entries_anywhere(value)]


def is_filled(entry: dict[str, Any]) -> bool:
    """Return whether an entry has image data, usable or not."""
    return _spool(entry) is not None


def receive(taken: Taken) -> Received:
    """Return the usable images.

    :raises DeepshiError: there are none.
    """
    taken.settle_cost()
    images, problems = [], []
    for position, entry in enumerate(taken.pictures):
        try:
            images.append(_image(position, entry))
        except ValueError as err:
            problems.append(f"Image {position} of the answer cannot be used: {err}")
    is_complete = taken.is_cost_final if taken.error else not taken.is_cost_disputed
    if not images:
        raise _error(taken, problems, cost_is_complete=is_complete)
    return Received(
        answer=Answer.model_validate({**taken.fields, "cost_usd": taken.cost_usd}),
        images=_numbered(images, taken.wanted),
        warnings=_warnings(taken, len(images), problems, cost_is_complete=is_complete),
        cost_is_complete=is_complete,
    )


def _image(position: int, entry: dict[str, Any]) -> ReceivedImage:
    """Return a verified image.

    :raises ValueError: the image is unusable.
    """
    spool = _spool(entry)
    if spool is None:
        link = entry.get("url")
        is_link = isinstance(link, str) and bool(link)
        raise ValueError(f"it is a link, not data: {shown_uri(str(link))[:200]}" if is_link else "it is empty")
    spool.flush()
    if spool.problem:
        raise ValueError(spool.problem)
    try:
        media = identify(spool.file)
    except OSError as err:
        spool.fail(err)
        raise ValueError(spool.problem) from err
    picture = Picture.model_validate(entry)
    index = position if picture.index is None else picture.index
    return ReceivedImage(index=index, spool=spool, media=media, revised_prompt=picture.revised_prompt)


def _numbered(images: list[ReceivedImage], wanted: int) -> list[ReceivedImage]:
    """Return images by index; images with invalid indices are numbered in order of arrival."""
    indices = {image.index for image in images}
    if len(indices) < len(images) or not indices <= set(range(max(wanted, len(images)))):
        images = [replace(image, index=position) for position, image in enumerate(images)]
    return sorted(images, key=lambda image: image.index)


def _error(taken: Taken, problems: list[str], *, cost_is_complete: bool) -> DeepshiError:
    """Return the error for an answer without any usable image."""
    error = taken.error
    failure = next((spool.failure for spool in map(_spool, taken.pictures) if spool and spool.failure), None)
    if error is None and failure:
        error = StorageFailed(f"{problems[0]}. It was paid for and is lost")
    elif error is None and problems:
        error = InvalidResponse(f"{problems[0]}. It was paid for and is lost")
    elif error is None:
        error = InvalidResponse("The answer contains no image", charged="unknown")
    elif problems and taken.is_paid:
        error.message = f"{error.message}. {problems[0]}"
    if taken.is_paid or taken.cost_usd:
        error.charged = "yes"
    elif error.charged == "no" and (taken.has_broken_result or (taken.has_previews and not _is_before_work(error))):
        error.charged = "unknown"
        what = "A broken result" if taken.has_broken_result else "Previews"
        error.message = f"{error.message}. {what} had arrived, so it may have been paid for"
    if taken.cost_usd is not None or error.cost_usd is None:
        error.cost_usd = taken.cost_usd
        error.cost_is_complete = cost_is_complete or error.charged == "no"
    return error


def _is_before_work(error: DeepshiError) -> bool:
    """Return whether the API finds an error before it charges, even if previews had arrived."""
    is_request = isinstance(error, InvalidRequest) and not isinstance(error, ContentRefused)
    return is_request or isinstance(error, AuthenticationFailed | InsufficientQuota | PermissionDenied)


def _warnings(taken: Taken, count: int, problems: list[str], *, cost_is_complete: bool) -> list[str]:
    found = []
    if count != taken.wanted:
        found.append(wrong_number(taken.wanted, count))
    found += problems[:_EXPLAINED]
    if taken.error:
        code = f" (code: {taken.error.code})" if taken.error.code else ""
        found.append(f"The answer is incomplete: {taken.error.message}{code}")
    if not cost_is_complete:
        found.append("The request may have cost more than the answer reported")
    return found


def _identity(entry: dict[str, Any]) -> tuple[int, str] | None:
    """Return index and content of an image, to find duplicates; ``None`` if it has no index."""
    spool, index = _spool(entry), entry.get("index")
    is_whole = spool is not None and spool.complete and spool.problem is None
    return (index, spool.sha256) if spool and is_whole and isinstance(index, int) else None


def _spool(entry: dict[str, Any]) -> Spool | None:
    """Return the image's spool; servers may send both fields and fill only one."""
    values = (entry.get(key) for key in ("b64_json", "url"))
    filled = [value for value in values if isinstance(value, Spool) and (value.size_bytes or value.problem)]
    return min(filled, key=lambda spool: spool.problem is not None, default=None)
