"""Details of one image: its record, its input images, and the edits that used it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import replace
from datetime import date
from itertools import islice
from typing import Any

from sqlalchemy.orm import Session

from deepshi_provider.journal.entries import Record
from deepshi_provider.plugins.costs.gallery import Picture, described, read_sheet
from deepshi_provider.plugins.costs.pictures import read_record
from deepshi_provider.plugins.costs.reviews import Decisions
from deepshi_provider.plugins.costs.sheets import Scope, SheetRow, newest_rows

#: Maximum number of images of each kind.
MOST = 12


def details(
    session: Session, row: SheetRow, number: int, may_read_prompts: Callable[[str], bool], dag_ids: Set[str]
) -> dict[str, Any] | None:
    """Return the details of an image as JSON types; ``None`` if the task has no such image.

    :param dag_ids: the DAGs that the reader may see; the image may have been bought by another one.
    """
    sheet = read_sheet(row.text)
    if sheet is None or not 0 <= number < len(sheet.images):
        return None
    picture = Picture(row, sheet, number)
    decisions = Decisions(session, _run_of(row))

    def shown(pictures: Iterable[Picture]) -> list[dict[str, Any]]:
        return described(session, list(pictures), may_read_prompts, decisions)

    (card,) = shown([picture])
    record = read_record(sheet, number)
    sources = _sources(picture, record)
    uri = sheet.images[number].uri
    return {
        **card,
        **(_of_record(record, uri, dag_ids, with_prompt=may_read_prompts(row.dag_id)) if record else {}),
        "sources": [{"uri": source, "pictures": shown(_named(session, row, source)[:1])} for source in sources[:MOST]],
        "edits": shown(islice(_edits(session, row, uri), MOST)),
    }


def _of_record(record: Record, uri: str, dag_ids: Set[str], *, with_prompt: bool) -> dict[str, Any]:
    request = dict(record.request or {})
    prompt = request.pop("prompt", None)
    name = uri.rpartition("/")[2]
    image = next((image for image in record.images if image.uri.rpartition("/")[2] == name), None)
    shown = {
        "request": request,
        "model": record.model,
        "size": record.size,
        "sends": record.sends,
        "lost_before": record.unknown_outcomes,
        "size_bytes": image and image.size_bytes,
        "sha256": image and image.sha256,
        "bought_by": record.owner.model_dump() if record.owner.dag_id in dag_ids else None,
    }
    if with_prompt:
        shown["revised_prompt"] = image and image.revised_prompt
        if prompt:
            shown["prompt"] = prompt
    return shown


def _sources(picture: Picture, record: Record | None) -> list[str]:
    named = (record.request or {}).get("images") if record else None
    return [str(uri) for uri in named] if isinstance(named, list) else picture.sheet.sources


def _named(session: Session, row: SheetRow, uri: str) -> list[Picture]:
    """Return the images of the same run with a URI."""
    return [picture for picture in _pictures(_sheets(session, row, uri)) if picture.image.uri == uri]


def _edits(session: Session, row: SheetRow, uri: str) -> Iterator[Picture]:
    """Yield the images of the same run that are edits of the one with a URI."""
    for picture in _pictures(_sheets(session, row, uri)):
        if uri in picture.sheet.sources:
            yield picture


def _sheets(session: Session, row: SheetRow, word: str) -> Iterator[SheetRow]:
    # The database's JSON may escape other letters.
    return newest_rows(session, replace(_run_of(row), word=word if word.isascii() else None))


def _run_of(row: SheetRow) -> Scope:
    return Scope(dag_ids={row.dag_id}, start=date.min, end=date.min, run=(row.dag_id, row.run_id))


def _pictures(rows: Iterable[SheetRow]) -> Iterator[Picture]:
    for row in rows:
        if sheet := read_sheet(row.text):
            yield from (Picture(row, sheet, number) for number in range(len(sheet.images)))
