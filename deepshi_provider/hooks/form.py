"""The connection's form for Airflow 3.1, built from ``get_provider_info``, which later versions read directly."""

from __future__ import annotations

from typing import Any

from deepshi_provider.get_provider_info import get_provider_info


def form_widgets() -> dict[str, Any]:
    """Return the form's fields for the connection's extra, as wtforms fields."""
    # Imported here: Airflow 3 does not depend on wtforms; its API server provides a stand-in during this call.
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
    """Return the standard fields that the form hides, and the labels of the others."""
    return {name.replace("-", "_"): value for name, value in _connection_type()["ui-field-behaviour"].items()}


def _connection_type() -> dict[str, Any]:
    (connection_type,) = get_provider_info()["connection-types"]
    return dict(connection_type)
