"""The connection's form for Airflow 3.1, from what later versions read themselves in ``get_provider_info``."""

from __future__ import annotations

from typing import Any

from deepshi_provider.get_provider_info import get_provider_info


def form_widgets() -> dict[str, Any]:
    """Return the form's fields of the connection's extra, as wtforms fields; wtforms is imported only here."""
    # Airflow 3 does not depend on wtforms; its API server puts a stand-in there while it asks for this.
    from wtforms import IntegerField, StringField  # type: ignore[import-untyped]  # is not installed
    from wtforms.validators import Optional  # type: ignore[import-untyped]  # is not installed

    kinds = {"integer": IntegerField}
    return {
        name: kinds.get(field["schema"]["type"][0], StringField)(
            field["label"], description=field["description"], validators=[Optional()]
        )
        for name, field in _connection_type()["conn-fields"].items()
    }


def field_behaviour() -> dict[str, Any]:
    """Return which standard fields the form hides, and what it calls the others."""
    return {name.replace("-", "_"): value for name, value in _connection_type()["ui-field-behaviour"].items()}


def _connection_type() -> dict[str, Any]:
    (connection_type,) = get_provider_info()["connection-types"]
    return dict(connection_type)
