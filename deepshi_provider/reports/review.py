"""Reviews: the images that a person is shown before a DAG continues, as Markdown, and their choice, as an XCom."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from deepshi_provider.api.texts import storable

#: Key of the XCom of a review, with its images and the choice.
XCOM_KEY = "deepshi_review"
#: Maximum number of images in a review.
MOST = 50

#: Images per row: if there are few, and if there are many. Airflow's form is about 800 pixels wide.
_FEW, _COLUMNS, _MORE_COLUMNS = 4, 2, 3
#: Maximum characters of a prompt: below its image, and above all images.
_SHORT_PROMPT, _LONG_PROMPT = 200, 4000


class ReviewImage(BaseModel):
    """One of the images of a review.

    :param sha256: hash in hex of the image in its store when it was shown.
    :param chosen: ``None`` until somebody has chosen.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    uri: str
    media_type: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    chosen: bool | None = None


class Review(BaseModel):
    """The images of a review.

    :param images: in the order shown.
    :param output_conn_id: connection of their object store.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    version: Literal[1] = 1
    images: list[ReviewImage]
    output_conn_id: str | None = None

    def as_xcom(self) -> dict[str, Any]:
        """Return the review as JSON types."""
        return storable(self.model_dump(mode="json"))

    def decided(self, chosen: Sequence[int]) -> Review:
        """Return the review with a person's choice of images, by position."""
        images = [image.model_copy(update={"chosen": n in chosen}) for n, image in enumerate(self.images)]
        return self.model_copy(update={"images": images})


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One image to choose from, with its details.

    :param image: the image in a task's result: ``uri``, ``index``, ``media_type``, ``sha256`` and more.
    :param key: key of the row of a batch, or of the result of a mapped task.
    :param cost: cost of its request, as text.
    """

    image: dict[str, Any] = field(default_factory=dict)
    media_type: str = ""
    key: Any = None
    model: str | None = None
    prompt: str | None = None
    cost: str | None = None


def label(position: int) -> str:
    """Return the option for an image; positions count from 0."""
    return f"Image {position + 1}"


def as_markdown(candidates: Sequence[Candidate], address: Callable[[int], str], more: int = 0) -> str:
    """Return the images and their details as GitHub's Markdown.

    Prompts and keys are shown as code, so that Markdown in them is not rendered.

    :param address: returns the URL of the image at a position.
    :param more: number of images that are not shown.
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
    """Return a text as code for a table cell: on one line, and without characters that would end the cell."""
    line = _shortened(re.sub(r"\s+", " ", text or "").strip(), _SHORT_PROMPT).replace("|", "│")
    fence = "`" * (_longest_run(line) + 1)
    space = " " if len(fence) > 1 or line.endswith("\\") else ""
    return f"{fence}{space}{line}{space}{fence}" if line else ""


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
