"""Text from templates and cells → the values that it stands for, and values → text that is fit for a message."""

from __future__ import annotations

import ast
import difflib
import json
import math
from collections.abc import Iterable
from typing import Any

#: What Jinja, ``tojson`` and pandas write for a value that is missing.
_BLANK = frozenset({"", "None", "null", "NaN", "nan"})
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "'airflow-provider-deepshi[amazon]'"),
    **dict.fromkeys(("gs", "gcs"), "apache-airflow-providers-google"),
    **dict.fromkeys(("abfs", "abfss", "adl", "az", "wasb", "wasbs"), "apache-airflow-providers-microsoft-azure"),
}
#: Characters of a URI in a message.
_LONGEST_URI = 200


def is_blank(value: Any) -> bool:
    """Return whether a rendered value means that nothing was given."""
    if isinstance(value, str):
        return value.strip() in _BLANK
    return value is None or (isinstance(value, float) and math.isnan(value))


def parsed(text: str) -> Any:
    """Return the value that a text stands for: JSON (the filter ``tojson``), or Python's form (a plain template).

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


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the question which known name a wrong one stands for, with a space before it; empty if none is near."""
    near = difflib.get_close_matches(str(name).strip().lower(), sorted(known), n=1, cutoff=0.65)
    return f" Did you mean {near[0]}?" if near else ""


def shown_uri(uri: str) -> str:
    """Return a URI for a message: without the data of a ``data:`` URI or a query, which may be a signature."""
    if uri[:5].lower() == "data:":
        return f"{uri[:30].partition(',')[0]},… ({len(uri):,} characters)"
    plain, mark, _ = uri.partition("?") if "://" in uri else (uri, "", "")
    short = plain if len(plain) <= _LONGEST_URI else f"{plain[:_LONGEST_URI]}…"
    return f"{short}?…" if mark else short


def missing_support(uri: str, err: BaseException) -> str | None:
    """Return what to install for a store that Airflow does not know; ``None`` if the error is another one.

    :param err: that Airflow raised when the store was opened.
    """
    scheme = uri.partition("://")[0]
    if not isinstance(err, ImportError) and not str(err).startswith("No filesystem registered for scheme"):
        return None
    package = _PACKAGES.get(scheme, "the Airflow provider of this store")
    return f"nothing was sent: Airflow here does not know {scheme}:// stores. Run: pip install {package}"


class _Nan(ast.NodeTransformer):
    """Python writes NaN as a name, which is not a literal."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(math.nan) if node.id == "nan" else node
