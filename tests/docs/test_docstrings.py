"""Parameters in docstrings; lint checks that every public name has a docstring."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from pydantic import BaseModel

import deepshi_provider


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(deepshi_provider.__path__, "deepshi_provider."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Public classes and functions of a module, and public methods of its classes."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            yield name, value
            methods = {method: of for method, of in vars(value).items() if not method.startswith("_")}
            found = {m: getattr(of, "__func__", of) for m, of in methods.items()}  # of class and static methods
            yield from ((f"{name}.{method}", of) for method, of in found.items() if isinstance(of, FunctionType))
        elif isinstance(value, FunctionType):
            yield name, value


def parameters(value: Any) -> set[str]:
    """Names of a call's parameters; for a class also its fields and the parameters of its bases."""
    if not inspect.isclass(value):
        taken = inspect.signature(value).parameters
        # Keyword arguments that are passed on may be described here.
        return {*taken, "multiple_outputs"} if any(p.kind is p.VAR_KEYWORD for p in taken.values()) else set(taken)
    found: set[str] = set()
    for base in inspect.getmro(value):
        found |= set(inspect.get_annotations(base))
        if "__init__" in vars(base):
            found |= set(inspect.signature(vars(base)["__init__"]).parameters)
    return found | (set(value.model_fields) if issubclass(value, BaseModel) else set())


def test_described_parameters_exist() -> None:
    """A renamed parameter is also renamed in its description."""
    wrong = [
        f"{module.__name__}.{member}: {name}"
        for module in modules()
        for member, value in members(module)
        for name in re.findall(r"^:param (\w+):", inspect.cleandoc(value.__doc__ or ""), re.MULTILINE)
        if name not in parameters(value)
    ]
    assert wrong == []
