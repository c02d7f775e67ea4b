"""Targets and their measured values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Target:
    """A measured value and its bound.

    :param form: format of the figure.
    :param at_least: whether the bound is a minimum.
    """

    what: str
    found: float
    bound: float
    unit: str = "x"
    form: str = "{:.2f}"
    at_least: bool = False

    @property
    def is_met(self) -> bool:  # noqa: D102 -- its name says it
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    def row(self) -> str:
        """Return a row of the table."""
        sign, met = "≥" if self.at_least else "≤", "yes" if self.is_met else "**no**"
        return (
            f"| {self.what} | {sign} {self.bound:g} {self.unit} | {self.form.format(self.found)} {self.unit} | {met} |"
        )


def table(targets: Iterable[Target]) -> str:
    """Return the table."""
    return "\n".join(["| measure | target | found | met |", "|---|---|---|---|", *(target.row() for target in targets)])
