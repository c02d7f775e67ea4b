"""Edits whose inputs are their own outputs: each run would edit the last one's image again, and pay for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from deepshi_provider.api.requests import EditRequest, GenerateRequest
from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.store.locations import Location, locate

_IMAGE = re.compile(r"(.+)-\d+\.(?:png|jpe?g|webp)", re.IGNORECASE | re.DOTALL)
_NAMED = 5  # rows in a message


def refuse_own_output(request: GenerateRequest, name: str, output: Location) -> None:
    """Make sure that an edit does not read the images that it writes.

    :param name: what its images are called.
    :param output: the directory that they go to.
    :raises InvalidRequest: it does.
    """
    if name in names_read(request, output):
        raise InvalidRequest(
            f"Not sent: the edit reads an image that it replaces itself, {output.uri}/{name}-…, so every run would "
            "edit the image anew and pay for it. Give the result another output_uri, or in a batch another key"
        )


def refuse_circles(edits: Iterable[tuple[str, GenerateRequest]], output: Location) -> None:
    """Make sure that no rows of a batch edit their own or each other's images in a circle.

    :param edits: what each edit's images are called, and the edit.
    :raises InvalidRequest: some do.
    """
    reads = {name: read for name, request in edits if (read := names_read(request, output))}
    while reads:
        done = [name for name, read in reads.items() if not read & reads.keys()]
        if not done:
            names = sorted(reads)
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            raise InvalidRequest(
                f"Nothing was sent: the rows {', '.join(names[:_NAMED])}{more} edit their own images, or each other's "
                "in a circle, so every run would edit them anew and pay for it. Give the results other keys or another "
                "output_uri"
            )
        for name in done:
            del reads[name]


def names_read(request: GenerateRequest, output: Location) -> set[str]:
    """Return what the inputs of an edit are called that lie in the directory to which images go."""
    inputs = request.images if isinstance(request, EditRequest) else []
    return set(_names(inputs, output))


def _names(inputs: Iterable[str], output: Location) -> Iterator[str]:
    for uri in inputs:
        found = locate(uri).real()
        folder, _, file = found.path.rpartition("/")
        match = _IMAGE.fullmatch(file)
        if match and found.at(folder).is_same(output):
            yield match[1]
