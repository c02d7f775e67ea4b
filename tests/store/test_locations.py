"""URIs that name the same object for every program, and those that do not."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from airflow.sdk import ObjectStoragePath
from hypothesis import given
from hypothesis import strategies as st

from deepshi_provider.exceptions import InvalidRequest
from deepshi_provider.hooks.directories import default_output_uri
from deepshi_provider.journal.entries import Owner
from deepshi_provider.store.locations import checked, locate, split

CHARACTERS = "ab.~%4/ \\?#*[]:@+=-_ä\n\t"


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("data:application/octet-stream;base64,AAAA", "a data URI"),
        ("s3://bucket/a//b", "empty part"),
        ("s3://bucket//a", "empty part"),
        ("s3://bucket/a//", "empty part"),
        ("s3://bucket//", "empty part"),
        ("file:////tmp/a", "empty part"),
        ("s3://bucket/a/../b", "as a part"),
        ("s3://bucket/./a", "as a part"),
        ("file:///tmp/..", "as a part"),
        ("s3://bucket/a?versionId=1", "characters"),
        ("s3://bucket/a#b", "characters"),
        ("s3://bucket/a*b", "characters"),
        ("s3://bucket/a[1]", "characters"),
        ("s3://bucket/a\\b", "characters"),
        ("s3://bucket/a::b", "'::'"),
        ("/data/a#b", "characters"),
        ("s3://bucket/a%41", "percent code"),
        ("file:///tmp/a%20b", "percent code"),
        ("/data/%2e%2e", "percent code"),
        ("s3://bucket/a\nb", "control character"),
        ("s3://bucket/a ", "begins or ends with a space"),
        ("s3://bucket/ a/b", "begins or ends with a space"),
        ("s3://bucket/a /b", "begins or ends with a space"),
        ("s3://bucket /a", "begins or ends with a space"),
        (" s3://bucket/a", "not a scheme"),
        ("s3://bucket/a./b", "ends with a dot"),
        ("s3:/bucket/a", "two slashes"),
        ("file:/tmp/a", "two slashes"),
        ("s3:///a", "no bucket"),
        ("file://host/a", "it has a host"),
        ("s3://bucket/" + "ä" * 376, "longer than 750 bytes"),
        ("/data/a\ud800", "unpaired surrogate"),
    ],
)
def test_uri_on_which_programs_do_not_agree_is_refused(uri: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem) as refused:
        checked(uri)
    assert refused.value.charged == "no"
    assert "versionId" not in refused.value.message, "what follows a ? may be a signature"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("s3a://bucket/a", "s3://conn@bucket/a", True),
        ("s3://bucket/a", "s3://bucket/A", False),
        ("s3://bucket/a//b", "s3://bucket/a/b", False),
        ("adl://container/a", "abfss://container/a", True),
        ("sftp://host/data/a", "sftp://HOST:22/data//x/../a", True),
        ("ssh://conn@host/data/a", "sftp://host//data/./a", True),
        ("sftp://host:2222/data/a", "sftp://host/data/a", False),
        ("smb://host/Share/a", "smb://host/share/a", False),
    ],
)
def test_one_directory_is_known_in_each_spelling(one: str, other: str, same: bool) -> None:
    assert locate(one).is_same(locate(other)) is same


@pytest.mark.parametrize(
    ("given_uri", "uri"),
    [
        ("s3://bucket/a b/100%/ü/x=1/a+b:c@d", "s3://bucket/a b/100%/ü/x=1/a+b:c@d"),
        ("S3://Bucket/A/", "s3://Bucket/A"),
        ("s3://conn@bucket/a", "s3://bucket/a"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("file://localhost/tmp/a", "file:///tmp/a"),
        ("/data//a/", "file:///data/a"),
        ("/data/a/../b", "file:///data/b"),
        ("file:///", "file:///"),
    ],
)
def test_uri_has_one_spelling(given_uri: str, uri: str) -> None:
    assert checked(given_uri).uri == uri
    assert checked(uri).uri == uri


@given(st.text(CHARACTERS, max_size=12))
def test_an_accepted_uri_is_one_path_for_all_readers(path: str) -> None:
    """As a browser, a command-line client and Airflow read a URI's path."""
    uri = f"file:///data/{path}"
    try:
        found = checked(uri).uri
    except InvalidRequest:
        return
    plain = found.removeprefix("file://")
    assert os.path.normpath(plain) == plain
    parts = urlsplit(found)
    assert (unquote(parts.path), parts.query, parts.fragment) == (plain, "", "")
    assert ObjectStoragePath(found).path == plain
    assert plain in (f"/data/{path}", f"/data/{path}".removesuffix("/"))


def test_a_file_is_split_only_if_its_uri_is_valid() -> None:
    assert split("s3://conn@bucket/a/rows.jsonl") == ("s3://conn@bucket/a", "rows.jsonl")
    assert split("rows.jsonl") == (".", "rows.jsonl")
    for uri in ("s3://bucket/a//rows.jsonl", "s3://bucket/a/rows?.csv", "/data/%41.csv", "s3://bucket/a/"):
        with pytest.raises(InvalidRequest):
            split(uri)


@given(st.text(CHARACTERS, min_size=1, max_size=6), st.text(min_size=1, max_size=6))
def test_default_directory_is_valid_whatever_the_ids_are(dag_id: str, run_id: str) -> None:
    owner = Owner(dag_id=dag_id, run_id=run_id, task_id="t.")
    uri = default_output_uri("s3://bucket/deepshi/", owner)
    assert checked(uri).uri == uri


def test_the_same_place_is_known_under_its_other_names(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert locate(f"{tmp_path}/link").is_same(locate(f"file://localhost{tmp_path}/real"))
    assert locate("s3a://c@bucket/a").is_same(locate("s3://bucket/a"))
    assert not locate("s3://bucket/a").is_same(locate("s3://bucket/b"))
