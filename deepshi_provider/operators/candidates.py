"""Results of image tasks → the images that a person can choose from."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from deepshi_provider.api.media import EXTENSIONS
from deepshi_provider.api.texts import is_blank, shown_uri
from deepshi_provider.batch.manifest_file import stored_lines
from deepshi_provider.costs.money import usd
from deepshi_provider.exceptions import DeepshiError, InvalidRequest
from deepshi_provider.hooks.blocking import run_here
from deepshi_provider.hooks.directories import STORES
from deepshi_provider.operators.rendered import from_text
from deepshi_provider.reports.review import MOST, Candidate, ReviewImage
from deepshi_provider.store.hashes import stored_hashes

log = logging.getLogger(__name__)

_MEDIA_TYPES = {ending: media_type for media_type, ending in EXTENSIONS.items()} | {"jpeg": "image/jpeg"}
#: Manifest columns that describe the first image of a row.
_OF_IMAGE = ("media_type", "width", "height", "size_bytes", "sha256", "revised_prompt")


class Found:
    """The images of some results, in order and without duplicates.

    :ivar candidates: the first :data:`~deepshi_provider.reports.review.MOST`.
    :ivar more: number of further images.
    :ivar results: the results of single requests, unchanged.
    """

    def __init__(self, value: Any, conn_id: str | None) -> None:
        self._conn_id = conn_id
        self._seen: set[str] = set()
        self.candidates: list[Candidate] = []
        self.more = 0
        self.results: list[Mapping[str, Any]] = []
        for candidate in self._candidates_in(value):
            uri = candidate.image["uri"]
            if uri in self._seen:
                continue
            self._seen.add(uri)
            if len(self.candidates) < MOST:
                self.candidates.append(candidate)
            else:
                self.more += 1

    def as_stored(self) -> list[ReviewImage]:
        """Return the candidates with their hashes, after reading all of them from their store.

        :raises InvalidRequest: one does not exist, or is not the image that its task reported.
        """
        hashes = self._hashes(candidate.image["uri"] for candidate in self.candidates)
        for candidate, stored in zip(self.candidates, hashes, strict=True):
            if candidate.image.get("sha256") not in (None, stored):
                raise InvalidRequest(
                    f"The image {shown_uri(candidate.image['uri'])} has been replaced since its task reported it, so a "
                    "review would be about another image. Give each run an output_uri of its own, or clear that task"
                )
        return [
            ReviewImage(uri=candidate.image["uri"], media_type=candidate.media_type, sha256=stored)
            for candidate, stored in zip(self.candidates, hashes, strict=True)
        ]

    def is_as_seen(self, seen: Sequence[ReviewImage], chosen: Iterable[int]) -> bool:
        """Return whether these are the images that a person has seen; reads the chosen ones from their store.

        :param chosen: positions.
        :raises InvalidRequest: a chosen image does not exist.
        """
        if [(c.image["uri"], c.media_type) for c in self.candidates] != [(i.uri, i.media_type) for i in seen]:
            return False
        if any(c.image.get("sha256") not in (None, i.sha256) for c, i in zip(self.candidates, seen, strict=True)):
            return False
        wanted = [seen[n] for n in chosen]
        return self._hashes(image.uri for image in wanted) == [image.sha256 for image in wanted]

    def _hashes(self, uris: Iterable[str]) -> list[str]:
        return run_here(stored_hashes(uris, self._conn_id, STORES))

    def _candidates_in(self, value: Any) -> Iterator[Candidate]:
        if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
            value = from_text("images", value)
        if is_blank(value):
            return
        if isinstance(value, str | os.PathLike):
            yield _candidate({"uri": os.fspath(value)})
        elif isinstance(value, Mapping):
            yield from self._of_result(value)
        elif isinstance(value, Iterable) and not isinstance(value, bytes):
            for item in value:
                yield from self._candidates_in(item)
        else:
            raise InvalidRequest(f"images: URIs or results of image tasks are needed, got {type(value).__name__}")

    def _of_result(self, value: Mapping[str, Any]) -> Iterator[Candidate]:
        if isinstance(value.get("uri"), str):
            yield _candidate(value)
        elif isinstance(value.get("images"), Iterable):
            self.results.append(value)
            images = [{"uri": image} if isinstance(image, str) else image for image in value["images"]]
            known = {"key": value.get("key"), "model": value.get("model"), "prompt": self._prompt(value)}
            for image in images:
                yield _candidate({**known, **image}, cost=_cost(value, len(images)))
        elif "rows" in value and isinstance(value.get("manifest_uri"), str):
            yield from self._of_batch(value["manifest_uri"])
        else:
            raise InvalidRequest(f"images: a dictionary without uri or images is not a result: {list(value)}")

    def _of_batch(self, manifest_uri: str) -> Iterator[Candidate]:
        store, name = STORES.object_at(manifest_uri, self._conn_id)
        images, more = run_here(store.process(name, functools.partial(_of_manifest, name)))
        yield from images
        self.more += more

    def _prompt(self, result: Mapping[str, Any]) -> str | None:
        """Return the prompt of a single request, which is in its manifest but not in its XCom."""
        from deepshi_provider.jobs.run import load_outcome

        if not isinstance(result.get("manifest_uri"), str):
            return None
        try:
            return run_here(load_outcome(result["manifest_uri"], self._conn_id, STORES)).prompt
        except DeepshiError as err:
            log.warning("The prompt is not shown, since the manifest could not be read: %s", err)
            return None


def _candidate(image: Mapping[str, Any], cost: str | None = None) -> Candidate:
    if not isinstance(image.get("uri"), str):
        raise InvalidRequest("images: an image without a uri")
    ending = urlsplit(image["uri"]).path.rpartition(".")[2].lower()
    about = {name: image.get(name) for name in ("key", "model", "prompt")}
    return Candidate(
        image={name: value for name, value in image.items() if name != "prompt"},
        media_type=image.get("media_type") or _MEDIA_TYPES.get(ending, ""),
        cost=cost,
        **about,
    )


def _cost(result: Mapping[str, Any], images: int) -> str | None:
    if "cost_usd" not in result:
        return None
    if result.get("reused"):
        return "reused"
    cost = result["cost_usd"]
    if cost is None:
        return "cost not reported"
    return usd(Decimal(str(cost))) + (f" for all {images}" if images > 1 else "")


def _of_manifest(name: str, file: BinaryIO) -> tuple[list[Candidate], int]:
    """Return the first images of the rows that did not fail, and the number of further images."""
    images = _images_of(stored_lines(name, file, ("key", "model", "prompt", "cost_usd", "uri", *_OF_IMAGE)))
    return list(islice(images, MOST)), sum(1 for _ in images)


def _images_of(lines: Iterable[Mapping[str, Any]]) -> Iterator[Candidate]:
    for line in lines:
        cost = "reused" if line["status"] == "reused" else _cost(line, len(line["uris"]))
        about = {name: line[name] for name in ("key", "model", "prompt")}
        for index, uri in enumerate(line["uris"]):
            # The manifest describes only the first image of a row; for the others it has only URIs.
            known = {name: line[name] if uri == line["uri"] else None for name in _OF_IMAGE}
            yield _candidate({"uri": uri, "index": index, **known, **about}, cost=cost)
