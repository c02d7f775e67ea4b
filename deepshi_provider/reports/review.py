"""What a person is shown of images before a DAG goes on, and what they chose: as Markdown, and as an XCom."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

#: XCom of a review: which images it is about, and what became of each.
XCOM_KEY = "deepshi_review"
#: Images that one review shows.
MOST = 50

#: Images side by side: of a few, and of many. Airflow's form is about 800 pixels wide.
_FEW, _COLUMNS, _MORE_COLUMNS = 4, 2, 3
#: Characters of a prompt: below its image, and above all of them.
_SHORT_PROMPT, _LONG_PROMPT = 200, 4000


class ReviewImage(BaseModel):
    """One of the images of a review.

    :param sha256: in hex, as the task that made it reported it.
    :param chosen: ``None`` until somebody has chosen.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    uri: str
    media_type: str
    sha256: str | None = None
    chosen: bool | None = None


class Review(BaseModel):
    """What a review is about.

    :param images: in the order in which they are shown.
    :param output_conn_id: connection of their object store.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    version: Literal[1] = 1
    images: list[ReviewImage]
    output_conn_id: str | None = None

    def as_xcom(self) -> dict[str, Any]:
        """Return it as JSON types."""
        return self.model_dump(mode="json")

    def decided(self, chosen: Sequence[int]) -> Review:
        """Return the review after somebody has chosen some of its images, by position."""
        images = [image.model_copy(update={"chosen": n in chosen}) for n, image in enumerate(self.images)]
        return self.model_copy(update={"images": images})


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One image that can be chosen, with what is known of it.

    :param image: as the result of an image task names it: ``uri``, ``index``, ``media_type``, ``sha256`` and more.
    :param key: names the row of a batch, or the result of a mapped task.
    :param cost: of its request, in words.
    """

    image: dict[str, Any] = field(default_factory=dict)
    media_type: str = ""
    key: Any = None
    model: str | None = None
    prompt: str | None = None
    cost: str | None = None


def label(position: int) -> str:
    """Return the option by which an image is chosen; positions count from 0."""
    return f"Image {position + 1}"


def as_markdown(candidates: Sequence[Candidate], address: Callable[[int], str], more: int = 0) -> str:
    """Return the images with what is known of each, as GitHub's Markdown.

    Prompts and keys are shown as code, so nothing in them is read as Markdown.

    :param address: returns where a browser finds the image at a position.
    :param more: images that are not shown.
    """
    prompts = {candidate.prompt for candidate in candidates}
    common = prompts.pop() if len(prompts) == 1 else None
    parts = [_block(common)] if common else []
    columns = _COLUMNS if len(candidates) <= _FEW else _MORE_COLUMNS
    for start in range(0, len(candidates), columns):
        shown = range(start, min(start + columns, len(candidates)))
        rows = [[f"![{label(n)}]({address(n)})" for n in shown], [_details(candidates[n]) for n in shown]]
        if not common:
            rows.append([_code(candidates[n].prompt) for n in shown])
        table = [[label(n) for n in shown], ["---"] * len(shown), *(row for row in rows if any(row))]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    if more:
        parts.append(f"{more} more {'image is' if more == 1 else 'images are'} not shown and cannot be chosen here.")
    return "\n\n".join(parts)


def _details(candidate: Candidate) -> str:
    width, height = candidate.image.get("width"), candidate.image.get("height")
    size = f"{width} x {height}" if width and height else ""
    key = "" if candidate.key is None else _code(str(candidate.key))
    return " · ".join(part for part in (key, size, _code(candidate.model), candidate.cost or "") if part)


def _block(text: str) -> str:
    fence = "`" * (_longest_run(text) + 3)
    return f"{fence}text\n{_shortened(text, _LONG_PROMPT)}\n{fence}"


def _code(text: str | None) -> str:
    """Return a text as code inside a cell: in one line, and without what would end the cell."""
    line = _shortened(re.sub(r"\s+", " ", text or "").strip(), _SHORT_PROMPT).replace("|", "│")
    fence = "`" * (_longest_run(line) + 1)
    space = " " if len(fence) > 1 or line.endswith("\\") else ""
    return f"{fence}{space}{line}{space}{fence}" if line else ""


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
