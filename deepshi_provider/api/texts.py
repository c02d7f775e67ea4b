"""Parses text from templates and cells, and prepares values for messages."""

from __future__ import annotations

import ast
import difflib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

#: Text of a missing value from Jinja, ``tojson`` and pandas.
_BLANK = frozenset({"", "None", "null", "NaN", "nan"})
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "'airflow-provider-deepshi[amazon]'"),
    **dict.fromkeys(("gs", "gcs"), "apache-airflow-providers-google"),
    **dict.fromkeys(("abfs", "abfss", "adl", "az", "wasb", "wasbs"), "apache-airflow-providers-microsoft-azure"),
}
#: Maximum characters of a URI in a message.
_LONGEST_URI = 200


def is_blank(value: Any) -> bool:
    """Return whether a rendered value is blank."""
    if isinstance(value, str):
        return value.strip() in _BLANK
    return value is None or (isinstance(value, float) and math.isnan(value))


def storable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object as every database stores it.

    PostgreSQL's JSON has neither NUL characters nor unpaired surrogates.
    """
    return {_storable(name): _storable(value) for name, value in fields.items()}


def parsed(text: str) -> Any:
    """Return the value of a text: JSON (the filter ``tojson``), or a Python literal (a plain template).

    :raises ValueError: it is neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return ast.literal_eval(_Nan().visit(tree))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise ValueError("neither JSON nor a Python literal") from None


def did_you_mean(name: object, known: Iterable[str], *, cutoff: float = 0.65) -> str:
    """Return `` Did you mean …?`` with the most similar known name; empty if none is similar.

    :param cutoff: how similar it must be, at most 1.
    """
    near = difflib.get_close_matches(str(name).strip().lower(), sorted(known), n=1, cutoff=cutoff)
    return f" Did you mean {near[0]}?" if near else ""


def shown_uri(uri: str) -> str:
    """Return a URI for a message: without the data of a ``data:`` URI or a query, which may be a signature."""
    if uri[:5].lower() == "data:":
        return f"{uri[:30].partition(',')[0]},… ({len(uri):,} characters)"
    plain, mark, _ = uri.partition("?") if "://" in uri else (uri, "", "")
    short = plain if len(plain) <= _LONGEST_URI else f"{plain[:_LONGEST_URI]}…"
    return f"{short}?…" if mark else short


def missing_support(uri: str, err: BaseException) -> str | None:
    """Return advice on what to install for a store that Airflow does not support; ``None`` for other errors.

    :param err: Airflow's error when the store was opened.
    """
    scheme = uri.partition("://")[0]
    if not isinstance(err, ImportError) and not str(err).startswith("No filesystem registered for scheme"):
        return None
    package = _PACKAGES.get(scheme, "the Airflow provider of this store")
    return f"nothing was sent: this Airflow does not support {scheme}:// stores. Run: pip install {package}"


class _Nan(ast.NodeTransformer):
    """Replaces the name ``nan``, which is how Python writes NaN, by a value."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(math.nan) if node.id == "nan" else node


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "").encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return storable(value)
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value
