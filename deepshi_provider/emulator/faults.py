"""Faults on demand: their parameters, and the queue of the next faults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .settings import checked_forms, is_number

Check = Callable[[object], bool]


def _is_seconds(value: object) -> bool:
    return is_number(value) and float(value) >= 0  # type: ignore[arg-type]  # a number


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _one_of(*values: object) -> Check:
    return lambda value: value in values


_CHARGED: dict[str, tuple[object, Check]] = {"charged": (True, _is_flag)}
_REQUIRED = object()

#: Fault -> its parameters, each with its default and a check of its value.
PARAMETERS: dict[str, dict[str, tuple[object, Check]]] = {
    "status": {
        "status": (_REQUIRED, lambda value: isinstance(value, int) and 400 <= value <= 599),
        "code": (None, _is_text),
        "type": (None, _is_text),
        "message": (None, _is_text),
        "retry_after": (None, lambda value: _is_text(value) or is_number(value)),
        "body": ("json", _one_of("json", "html", "empty")),
        "charged": (False, _is_flag),
        "delay": (0, _is_seconds),
    },
    "cut": {
        "at": ("headers", _one_of("headers", "body")),
        "reset": (False, _is_flag),
        **_CHARGED,
    },
    "silence": _CHARGED,
    "slow": {"bytes_per_second": (_REQUIRED, lambda value: _is_seconds(value) and value != 0)},
    "wrong_json": _CHARGED,
    "html_200": _CHARGED,
    "no_data": _CHARGED,
    "not_an_image": _CHARGED,
    "truncated_image": _CHARGED,
    "broken_base64": _CHARGED,
    "error_event": {
        "shape": ("object", _one_of("object", "text", "flat")),
        "code": (None, _is_text),
        "message": (None, _is_text),
        "charged": (False, _is_flag),
    },
    "no_terminal": _CHARGED,
    "late_cut": {"reset": (False, _is_flag), **_CHARGED},
    "form": {"form": (_REQUIRED, lambda value: bool(checked_forms("form", value)))},
}
STREAM_ONLY = frozenset({"error_event", "no_terminal", "late_cut"})
#: Faults that can also happen to ``GET /v1/models``, if ``path`` names it.
FOR_GET = frozenset({"status", "cut", "silence", "slow", "wrong_json", "html_200", "no_data"})
_SELECTORS = {"fault", "times", "prompt", "path"}


@dataclass(kw_only=True)
class Fault:
    """A fault that waits for matching requests.

    :param times: remaining number of requests, ``None`` = all.
    :param prompt: only for requests whose prompt contains this.
    :param path: only for requests whose path ends with this.
    """

    name: str
    params: Mapping[str, object]
    times: int | None = 1
    prompt: str | None = None
    path: str | None = None

    def text(self, name: str) -> str | None:
        """Return a parameter that is a string or missing."""
        value = self.params.get(name)
        return None if value is None else str(value)

    def number(self, name: str) -> float:
        """Return a parameter that is a number."""
        return float(str(self.params[name]))

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a parameter that is a boolean."""
        return bool(self.params.get(name, default))

    def matches(self, path: str, prompt: str | None, *, stream: bool) -> bool:
        """Return whether the fault matches a request; ``prompt`` is ``None`` for a GET."""
        if prompt is None and (self.name not in FOR_GET or not self.path):
            return False
        if self.name in STREAM_ONLY and not stream:
            return False
        if self.prompt is not None and self.prompt not in (prompt or ""):
            return False
        return self.path is None or path.endswith(self.path)


class FaultQueue:
    """Faults in the order in which they were added."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, description: Mapping[str, object]) -> Fault:
        """Queue one fault.

        :param description: the body of ``POST /emulator/faults``.
        :raises ValueError: it contains an unknown name or value.
        """
        fault = read_fault(description)
        self._waiting.append(fault)
        return fault

    def take(self, path: str, prompt: str | None, *, stream: bool = False) -> Fault | None:
        """Return the first fault that matches a request, and count it as used."""
        for fault in self._waiting:
            if fault.matches(path, prompt, stream=stream):
                self._use(fault)
                return fault
        return None

    def clear(self) -> None:
        """Remove all faults."""
        self._waiting.clear()

    def _use(self, fault: Fault) -> None:
        if fault.times is not None:
            fault.times -= 1
            if fault.times == 0:
                self._waiting.remove(fault)


def read_fault(description: Mapping[str, object]) -> Fault:
    """Return a fault from its JSON description.

    :raises ValueError: the fault, a parameter or a value is unknown.
    """
    name = description.get("fault")
    if not isinstance(name, str) or name not in PARAMETERS:
        raise ValueError(f"unknown fault {name!r}; known: {', '.join(PARAMETERS)}")
    times, prompt, path = (description.get(key) for key in ("times", "prompt", "path"))
    if "times" not in description:
        times = 1
    if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 1):
        raise ValueError("times must be null or an integer from 1")
    if not _is_text(prompt) or not _is_text(path):
        raise ValueError("prompt and path must be strings or null")
    given = {key: value for key, value in description.items() if key not in _SELECTORS}
    fault = Fault(name=name, params=_read_params(name, given), times=times)
    fault.prompt = None if prompt is None else str(prompt)
    fault.path = None if path is None else str(path)
    return fault


def _read_params(name: str, given: Mapping[str, object]) -> dict[str, object]:
    known = PARAMETERS[name]
    if unknown := set(given) - set(known):
        raise ValueError(f"unknown parameters of {name}: {sorted(unknown)}")
    params = {key: given.get(key, default) for key, (default, _) in known.items()}
    for key, value in params.items():
        if value is _REQUIRED or not known[key][1](value):
            raise ValueError(f"{key} of {name} cannot be {given.get(key)!r}")
    if name == "status" and params["charged"] and int(str(params["status"])) < 500:
        raise ValueError("a 4xx is never charged")
    return params
