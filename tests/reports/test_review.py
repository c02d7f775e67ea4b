"""The text of a review, as a Markdown parser reads it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from deepshi_provider.reports.review import Candidate, Review, ReviewImage, as_markdown, label

TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.sampled_from(["`", "``", "|", "\\", "\n", "![a](b)", "<img src=x>", "[a](b)", "# a", " ", "~~~"])).map(
        "".join
    ),
)


def candidate(**fields: object) -> Candidate:
    image = {"uri": "file:///a/image-0.png", "width": 96, "height": 64}
    return Candidate(image=image, media_type="image/png", **fields)  # type: ignore[arg-type] # any field of it


def address(position: int) -> str:
    return f"deepshi-costs/image?number={position}"


def test_images_of_one_request_have_its_prompt_above_them() -> None:
    four = [candidate(model="nano-banana-2", prompt="a boat", cost="$0.04 for all 4")] * 4
    below = "96 x 64 · `nano-banana-2` · $0.04 for all 4"

    def table(*numbers: int) -> str:
        images = " | ".join(f"![Image {n + 1}](deepshi-costs/image?number={n})" for n in numbers)
        head = " | ".join(label(n) for n in numbers)
        return f"| {head} |\n| --- | --- |\n| {images} |\n| {below} | {below} |"

    assert as_markdown(four, address) == f"```text\na boat\n```\n\n{table(0, 1)}\n\n{table(2, 3)}"


def test_images_that_are_not_shown_are_counted() -> None:
    assert as_markdown([candidate()], address, more=1).endswith("1 more image is not shown and cannot be chosen here.")
    assert as_markdown([candidate()], address, more=2).endswith(
        "2 more images are not shown and cannot be chosen here."
    )


@given(st.lists(st.tuples(TEXTS, TEXTS, st.none() | TEXTS), min_size=1, max_size=9))
def test_prompts_and_keys_stay_text(rows: list[tuple[str, str, str | None]]) -> None:
    shown = [candidate(prompt=prompt, key=key, model=model) for prompt, key, model in rows]
    tokens = MarkdownIt("commonmark").enable("table").parse(as_markdown(shown, address))
    inner = [child for token in tokens for child in token.children or []]
    assert [child.attrs["src"] for child in inner if child.type == "image"] == [address(n) for n in range(len(rows))]
    assert not [t for t in [*tokens, *inner] if t.type in ("link_open", "html_inline", "html_block", "heading_open")]
    tables = [token for token in tokens if token.type == "table_open"]
    assert len(tables) == -(-len(rows) // (2 if len(rows) <= 4 else 3))
    headers = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "th_open"]
    assert headers == [label(n) for n in range(len(rows))]


def test_a_decision_records_for_each_image_whether_it_was_chosen() -> None:
    review = Review(images=[ReviewImage(uri=f"file:///a/{n}.png", media_type="image/png") for n in range(3)])
    assert [image.chosen for image in review.images] == [None] * 3
    assert [image.chosen for image in review.decided([1]).images] == [False, True, False]
    assert [image.chosen for image in review.decided([]).images] == [False] * 3
