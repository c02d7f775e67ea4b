"""Every public name says what its signature cannot."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

import deepshi_provider

# How the emulator is made is its own affair; what tests import of it is not.
PUBLIC_OF_EMULATOR = ("testing", "pytest_plugin")
#: Most lines; more is a page.
LONGEST = 45
#: Names of times, and what their unit may be called; amounts say theirs in the name (``cost_usd``).
UNITS = {
    "timeout": "second|unix",
    "deadline": "unix seconds",
}


def modules() -> Iterator[str]:
    for found in pkgutil.walk_packages(deepshi_provider.__path__, "deepshi_provider."):
        parts = found.name.split(".")[1:]
        if any(part.startswith("_") for part in parts):
            continue
        if parts[0] != "emulator" or parts[-1] in PUBLIC_OF_EMULATOR:
            yield found.name


MODULES = sorted(modules())


def members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public classes and functions of a module, and public methods and properties of its classes."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            yield name, value
            yield from ((f"{name}.{method}", of) for method, of in vars(value).items() if is_own(method, of))
        elif isinstance(value, FunctionType):
            yield name, value


def is_own(name: str, value: Any) -> bool:
    return not name.startswith("_") and isinstance(value, FunctionType | property | classmethod | staticmethod)


def doc_of(value: Any) -> str:
    return inspect.cleandoc(value.__doc__ or "")


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__ or is_empty(module), f"{name} does not say its one job"
    silent = [
        member for member, value in members(module) if not doc_of(value) and not is_described_elsewhere(module, member)
    ]
    assert silent == []


def is_empty(module: ModuleType) -> bool:
    return module.__name__.count(".") == 1 and hasattr(module, "__path__") and not list(members(module))


def is_described_elsewhere(module: ModuleType, member: str) -> bool:
    """Whether it is described elsewhere: by its class (``:ivar``), or in a class that it overrides."""
    owner, _, method = member.rpartition(".")
    if not owner:
        return False
    kind, *bases = inspect.getmro(getattr(module, owner))
    return f":ivar {method}:" in doc_of(kind) or any(method in vars(base) for base in bases)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_fit_a_screen_and_begin_with_a_sentence(name: str) -> None:
    module = importlib.import_module(name)
    for member, value in [("", module), *members(module)]:
        if doc := doc_of(value):
            lines = doc.splitlines()
            assert len(lines) <= LONGEST, f"{name}.{member}: more is a page"
            assert not lines[0][:1].islower(), f"{name}.{member}: {lines[0]}"


@pytest.mark.parametrize("name", MODULES)
def test_described_parameters_exist(name: str) -> None:
    """A parameter that was renamed is renamed where it is described."""
    module = importlib.import_module(name)
    for member, value in members(module):
        told = re.findall(r"^:param (\w+):", doc_of(value), re.MULTILINE)
        assert set(told) <= parameters(value), f"{name}.{member}: {sorted(set(told) - parameters(value))}"


def parameters(value: Any) -> set[str]:
    """Names that a call takes; of a class also its fields, and what its bases take."""
    if isinstance(value, property):
        return set()
    if isinstance(value, classmethod | staticmethod):
        value = value.__func__
    if not inspect.isclass(value):
        taken = inspect.signature(value).parameters
        # What is passed on as keyword arguments may be described here.
        return {*taken, "multiple_outputs"} if any(p.kind is p.VAR_KEYWORD for p in taken.values()) else set(taken)
    found: set[str] = set()
    for base in inspect.getmro(value):
        found |= set(vars(base).get("__annotations__", {}))
        if "__init__" in vars(base):
            found |= set(inspect.signature(vars(base)["__init__"]).parameters)
    return found | (set(value.model_fields) if issubclass(value, BaseModel) else set())


@pytest.mark.parametrize("name", MODULES)
def test_times_have_units(name: str) -> None:
    module = importlib.import_module(name)
    for member, value in members(module):
        for parameter, text in re.findall(r"^:param (\w+):((?:.|\n(?!:))*)", doc_of(value), re.MULTILINE):
            for ending, units in UNITS.items():
                if parameter.endswith(ending):
                    assert re.search(units, text), f"{name}.{member}: of {parameter} the unit is missing"
