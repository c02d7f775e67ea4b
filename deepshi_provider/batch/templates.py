"""Templates over the columns of a row: ``{column}``, and ``{{`` and ``}}`` for braces.

Rows are not trusted, so this is neither Jinja nor Python's formatting: a column is found by its whole name, and its
text is inserted unchanged and not parsed again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from deepshi_provider.api.texts import did_you_mean
from deepshi_provider.batch.cells import as_text, is_missing
from deepshi_provider.exceptions import InvalidRequest

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
#: Characters with a meaning in Python's formatting.
_FORMATTING = re.compile(r"[.\[\]!:]")
_SHOWN = 100  # characters of a name in a message


def columns_of(value: Any) -> frozenset[str]:
    """Return the columns that a field's templates read.

    :param value: the field's value: text, or lists and dictionaries of text; other values read none.
    :raises InvalidRequest: a text is not a valid template.
    """
    return frozenset(column for text in _texts(value) for _, column in _parts(text) if column is not None)


def check_has_none(where: str, value: Any) -> None:
    """Check that a value that is the same for all rows has no templates, nor what looks like one.

    :raises InvalidRequest: a text has braces.
    """
    for text in _texts(value):
        if "{" in text or "}" in text:
            raise InvalidRequest(
                f"{where} is the same for all rows, so it cannot have columns or braces: {text[:100]!r}"
            )


def filled(value: Any, row: Mapping[Any, Any]) -> Any:
    """Return a field with the cells of a row in place of its columns.

    A text that consists of one column keeps the type of a number or boolean.

    :param value: as for :func:`columns_of`.
    :raises InvalidRequest: a text is not a valid template, or the row lacks a value for it.
    """
    if isinstance(value, str):
        return _filled(value, row)
    if isinstance(value, Mapping):
        return {name: filled(item, row) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [filled(item, row) for item in value]
    return value


def _filled(text: str, row: Mapping[Any, Any]) -> Any:
    parts = _parts(text)
    if len(parts) == 1 and parts[0][0] == "" and (only := parts[0][1]) is not None:
        cell = _cell(only, row)
        return cell if isinstance(cell, bool | int | float) else _text(only, cell)
    return "".join(
        literal if column is None else literal + _text(column, _cell(column, row)) for literal, column in parts
    )


def _cell(column: str, row: Mapping[Any, Any]) -> Any:
    if column not in row:
        names = [name for name in row if isinstance(name, str)]
        form = " A template takes {column} alone: no attributes, items, formats or conversions."
        raise InvalidRequest(
            f"there is no column {column[:_SHOWN]!r} for the template.{did_you_mean(column, names)}"
            f"{form if _FORMATTING.search(column) else ''} The row has {', '.join(map(repr, names[:20]))[:500]}; write "
            "{{ and }} for braces"
        )
    if is_missing(row[column]):
        raise InvalidRequest(f"the column {column[:_SHOWN]!r} is empty, and the template needs it")
    return row[column]


def _text(column: str, cell: Any) -> str:
    try:
        return as_text(cell)
    except ValueError as err:
        raise InvalidRequest(f"the column {column[:_SHOWN]!r} {err}; the template needs text") from None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for item in value.values() for text in _texts(item))
    elif isinstance(value, list | tuple):
        yield from (text for item in value for text in _texts(item))


@lru_cache(maxsize=256)
def _parts(text: str) -> tuple[tuple[str, str | None], ...]:
    """Return pairs of a literal text and the column that follows it."""
    parts: list[tuple[str, str | None]] = []
    literal, end = "", 0
    for token in _TOKEN.finditer(text):
        literal += text[end : token.start()]
        end = token.end()
        if token[0] in ("{{", "}}"):
            literal += token[0][0]
        elif token[1]:
            parts.append((literal, token[1]))
            literal = ""
        else:
            raise InvalidRequest(
                f"the template has {token[0]!r} without a column at character {token.start() + 1}: "
                f"{text[max(0, token.start() - 20) : end + 20]!r}. Write {{{{ and }}}} for braces"
            )
    literal += text[end:]
    return (*parts, (literal, None)) if literal or not parts else tuple(parts)
