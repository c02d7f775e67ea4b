"""``python -m deepshi_provider check`` finds mistakes in a batch's rows for free."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from deepshi_provider.cli.main import main
from deepshi_provider.emulator.testing import Emulator
from tests.support.places import Place

GOOD: list[dict[str, Any]] = [
    {"key": "a", "prompt": "a boat", "width": 64, "height": 48},
    {"prompt": "two boats", "model": "grok-imagine", "aspect_ratio": "16:9", "n": 2},
]
TAKES = "takes 1:1, 16:9, 9:16, 4:3, 3:4, 3:2, 2:3, 21:9 (default 1:1)"
LISTED = (
    "It lists deepshi-banana-pro, deepshi-image-1, flux-2-pro, nano-banana-2, nano-banana-pro, grok-imagine-quality, "
    "grok-imagine, seedream-4.5, gpt-image-1.5, gpt-image-2"
)
MODEL = ["--default", "model=deepshi-banana-pro"]


@pytest.fixture(autouse=True)
def nothing_is_bought(emulator: Emulator) -> Iterator[None]:
    """Assert for every test here that it buys nothing."""
    yield
    assert (emulator.requests(), emulator.stats()["cost_usd"]) == ([], "0")


def jsonl(folder: Path, *rows: Any) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    code = main(["check", *arguments])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err.strip()


def test_a_valid_file_reports_its_number_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = "2 rows read, no complaints; rows without complaints request 3 images"
    assert check(capsys, jsonl(tmp_path, *GOOD), *MODEL) == (0, [], summary)


def test_every_complaint_names_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = jsonl(
        tmp_path,
        *GOOD,
        {"key": "a", "prompt": "a second a"},
        {"key": "b"},
        "\n",
        {"key": "c", "prompt": "x", "wide": 64},
        {"key": "d", "prompt": "x", "width": "broad"},
        {"key": "e", "prompt": "x", "model": "grok-imagin"},
        {"key": "f", "prompt": "x", "model": "grok-imagine", "width": 64, "n": 4, "aspect_ratio": "5:1"},
        {"key": "g", "prompt": "x" * 8_001, "width": 9_000, "height": 64},
        {"key": "h", "prompt": "x", "model": "grok-imagine", "images": ["a.png", "b.png"]},
    )
    code, complaints, summary = check(capsys, file, *MODEL)
    assert code == 1
    assert complaints[:2] == [
        "row 3: Rows 1 and 3 have the same key 'a'; keys must differ",
        "row 4: prompt is missing or empty",
    ]
    # Blank lines are not rows.
    wrong = "row 5: unknown column 'wide'; put fields of the model into extra_params. Did you mean width? "
    assert complaints[2].startswith(wrong)
    assert complaints[3].startswith("row 6: width: ")
    assert complaints[4:] == [
        f"row 7: model is grok-imagin, which is not in the catalog of this key. Did you mean grok-imagine? {LISTED}",
        f"row 8: width is 64, but grok-imagine is sized by aspect_ratio and ignores width (aspect_ratio {TAKES})",
        f"row 8: aspect_ratio is 5:1, grok-imagine {TAKES}",
        "row 9: width is 9000, deepshi-banana-pro takes 16 to 4096 (default 1024)",
        "row 9: prompt has 8,001 characters, deepshi-banana-pro takes at most 8,000",
        "row 10: images has 2 input images, grok-imagine takes at most 1",
    ]
    assert summary == "10 rows read, 10 complaints; rows without complaints request 3 images"


def test_csv_and_parquet_are_read_as_a_batch_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv = tmp_path / "rows.csv"
    csv.write_text("key,prompt,width,height,n\na,a boat,64,64,\nb,a boat,5000,64,1\n")
    parquet = tmp_path / "rows.parquet"
    rows = [{"key": k, "prompt": "a boat", "width": w, "height": 64} for k, w in (("a", 64), ("b", 5000))]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    complaint = "row 2: width is 5000, deepshi-banana-pro takes 16 to 4096 (default 1024)"
    for file in (csv, parquet):
        assert check(capsys, str(file), *MODEL)[:2] == (1, [complaint])
        assert check(capsys, file.as_uri(), *MODEL)[0] == 1


def test_the_error_of_a_truncated_file_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = jsonl(tmp_path, GOOD[0], "{", "\n", GOOD[1])
    complaint = f"after row 1: {Path(file).as_uri()} is not JSONL: line 2 is not a JSON object"
    code, complaints, _ = check(capsys, file, *MODEL)
    assert (code, complaints) == (1, [complaint.replace("file://", "")])


def test_defaults_are_those_of_the_operator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = jsonl(tmp_path, {"key": "a"})
    complete = ["--default", "prompt=a boat", "--default", "model=grok-imagine", "--default", "images=a.png"]
    assert check(capsys, file)[:2] == (1, ["row 1: prompt is missing or empty"])
    assert check(capsys, file, *complete)[:2] == (0, [])
    with pytest.raises(SystemExit, match="2"):
        main(["check", file, "--default", "wide=64"])
    assert "FIELD=VALUE" in capsys.readouterr().err


def test_default_images_are_read_as_the_operator_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = jsonl(tmp_path, {"key": "a", "prompt": "p"})
    model = ["--default", "model=deepshi-image-1"]
    code, complaints, _ = check(capsys, file, *model, "--default", f"images={json.dumps(['a.png'] * 20)}")
    assert (code, complaints) == (1, ["row 1: images: at most 14 are allowed, got 20"])
    with pytest.raises(SystemExit, match="2"):
        main(["check", file, *model, "--default", "images=[1"])
    assert "images" in capsys.readouterr().err


def test_a_carried_column_that_is_missing_is_a_complaint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "shop.csv"
    file.write_text("sku,name\n007,mug\n")
    asked = (str(file), *MODEL, "--default", "prompt=a {name}", "--key-column", "sku")
    code, complaints, _ = check(capsys, *asked, "--carry", "nmae")
    assert (code, complaints) == (1, ["after row 1: carry: no row has a column 'nmae'. Did you mean name?"])
    assert check(capsys, *asked, "--carry", "name")[0] == 0


def test_models_without_a_description_in_the_catalog_are_allowed(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.settings(catalog_shape="odd")
    file = jsonl(tmp_path, {"prompt": "x", "width": 9_000})
    assert check(capsys, file, *MODEL)[:2] == (0, [])


def test_likely_mistakes_are_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = jsonl(tmp_path, {"prompt": "x", "quality": "high"})
    code, complaints, errors = check(capsys, file, *MODEL)
    assert (code, complaints) == (0, [])
    assert errors.startswith(
        "warning: row 1: quality is high, and deepshi-banana-pro will ignore it: the catalog lists"
    )


def test_a_failed_check_has_another_exit_code(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, complaints, errors = check(capsys, str(tmp_path / "nowhere.jsonl"), *MODEL)
    assert (code, complaints) == (2, [])
    assert "nowhere.jsonl" in errors
    (tmp_path / "empty.csv").touch()
    code, complaints, errors = check(capsys, str(tmp_path / "empty.csv"), *MODEL)
    assert (code, complaints) == (2, [])
    assert "is not CSV with a header" in errors
    emulator.fault("status", status=500, path="/v1/models", times=5)
    code, complaints, errors = check(capsys, jsonl(tmp_path, *GOOD), *MODEL)
    assert (code, complaints) == (2, [])
    assert errors.startswith("error: ")
    emulator.clear_faults()


@pytest.mark.s3
def test_a_file_in_an_object_store(s3_place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    s3_place.write("rows.jsonl", b'{"prompt": "a boat"}\n{"prompt": ""}\n')
    file = [f"{s3_place.uri}/rows.jsonl", "--file-conn-id", str(s3_place.conn_id)]
    code, complaints, _ = check(capsys, *file, *MODEL)
    # In this process Airflow's log is on; the amazon provider says which credentials it takes.
    assert (code, complaints[-1]) == (1, "row 2: prompt is missing or empty")


def test_a_table_is_checked_as_the_operator_reads_it(
    emulator: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "shop.csv"
    file.write_text("sku,category,name\n007,mugs,red mug\n8,mugs,\n")
    asked = ("--default", "prompt=a {name}", "--key-column", "sku")
    code, complaints, _ = check(capsys, str(file), *MODEL, *asked, "--carry", "*")
    assert (code, complaints) == (
        1,
        ["row 2: prompt: the column 'name' is empty, and the template needs it"],
    )
    code, complaints, _ = check(capsys, str(file), *MODEL, *asked)
    assert complaints[0].startswith("row 1: unknown column 'category'")
