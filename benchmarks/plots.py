"""Bar charts as SVG, readable on light and dark pages."""

from __future__ import annotations

from xml.sax.saxutils import escape

_ROW, _LEFT, _WIDTH = 30, 170, 680


def bars(title: str, figures: dict[str, float], ours: int) -> str:
    """Return a chart of horizontal bars, one per figure, from 0; the first ``ours`` in a colour."""
    longest = max(figures.values()) or 1.0
    height = 50 + _ROW * len(figures)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif" '
        f'font-size="13" fill="#777"><title>{escape(title)}</title><text x="8" y="22">{escape(title)}</text>'
    )
    parts = [head]
    for number, (name, figure) in enumerate(figures.items()):
        y = 40 + _ROW * number
        length = max(1.0, figure / longest * (_WIDTH - _LEFT - 90))
        colour = "#2a7de1" if number < ours else "#aaa"
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="20" fill="{colour}"/>'
            f'<text x="{_LEFT + length + 6:.1f}" y="{y + 15}">{figure:,.1f}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"
