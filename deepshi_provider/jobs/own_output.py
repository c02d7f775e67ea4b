"""Refuses edits that read their own output: each run would edit the last run's image again, and pay for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.store.locations import Location, locate

_IMAGE = re.compile(r"(.+)-\d+\.(?:png|jpe?g|webp)", re.IGNORECASE | re.DOTALL)
_NAMED = 5  # rows in a message


def refuse_own_output(request: GenerateRequest, name: str, output: Location) -> None:
    """Check that an edit does not read the images that it writes.

    :param name: the name of its images, without index and extension.
    :param output: its output directory.
    :raises InvalidRequest: the edit reads its own output.
    """
    if name in names_read(request, output):
        raise InvalidRequest(
            f"Not sent: the edit reads an image that it would replace, {output.uri}/{name}-…, so every run would edit "
            "it again and pay for it. Give the result another output_uri, or in a batch another key"
        )


def refuse_circles(edits: Iterable[tuple[str, GenerateRequest]], output: Location) -> None:
    """Check that no rows of a batch edit their own images, or each other's in a circle.

    :param edits: each edit with the name of its images, without index and extension.
    :raises InvalidRequest: there is a circle.
    """
    reads = {name: read for name, request in edits if (read := names_read(request, output))}
    while reads:
        done = [name for name, read in reads.items() if not read & reads.keys()]
        if not done:
            names = sorted(reads)
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise InvalidRequest(
                f"Nothing was sent: the rows {', '.join(names[:_NAMED])}{more} edit their own images, or each other's "
                "in a circle, so every run would edit them again and pay for it. Give the results other keys or "
                "another output_uri"
            )
        for name in done:
            del reads[name]


def names_read(request: GenerateRequest, output: Location) -> set[str]:
    """Return the names of those inputs of an edit that are in its output directory."""
    inputs = request.images if isinstance(request, EditRequest) else []
    return set(_names(inputs, output))


def _names(inputs: Iterable[str], output: Location) -> Iterator[str]:
    for uri in inputs:
        found = locate(uri).real()
        folder, _, file = found.path.rpartition("/")
        match = _IMAGE.fullmatch(file)
        if match and found.at(folder).is_same(output):
            yield match[1]
