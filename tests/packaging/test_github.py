"""GitHub's files: workflows run only make targets, with pinned actions and few permissions."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.packaging.conftest import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
MATRIX = re.findall(r"^MATRIX := (.*)$", MAKEFILE, re.MULTILINE)[0].split()
BIN = Path(sys.executable).parent
PYTHONS = re.findall(r"^PYTHONS := (.*)$", MAKEFILE, re.MULTILINE)[0].split()


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((GITHUB / "workflows" / name).read_text())
    return content


def steps_of(path: Path) -> Iterator[dict[str, Any]]:
    for job in read(path.name)["jobs"].values():
        yield from job["steps"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_steps_only_call_make_targets_that_exist(path: Path) -> None:
    runs = [step["run"] for step in steps_of(path) if "run" in step]
    assert runs
    for run in runs:
        (target,) = re.findall(r'^make "?([a-z-]+|test-airflow-\$AIRFLOW)"?(?: [A-Z]+="\$[A-Z_]+")?$', run)
        assert target in TARGETS | {"test-airflow-$AIRFLOW"}
        assert "${{" not in run  # the name of a branch would be executed


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_with_their_version(path: Path) -> None:
    uses = re.findall(r"uses: (.*)$", path.read_text(), re.MULTILINE)
    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []


def test_an_action_is_the_same_everywhere() -> None:
    pins = {tuple(step["uses"].split("@")) for path in WORKFLOWS for step in steps_of(path) if "uses" in step}
    assert len(pins) == len({name for name, _ in pins})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_jobs_have_no_rights_but_those_they_name(path: Path) -> None:
    workflow = read(path.name)
    assert workflow["permissions"] == {}
    assert "concurrency" in workflow
    for name, job in workflow["jobs"].items():
        assert job["permissions"] == ({"id-token": "write"} if name == "publish" else {"contents": "read"})
        assert job["timeout-minutes"] <= 90


def test_ci_covers_each_airflow_on_each_python() -> None:
    jobs = read("ci.yml")["jobs"]
    assert jobs["test"]["strategy"]["matrix"] == {"python": PYTHONS}
    assert jobs["test-airflow"]["strategy"]["matrix"] == {"airflow": MATRIX[:-1], "python": PYTHONS}
    newest = f"apache-airflow=={MATRIX[-1]}"
    assert newest in (ROOT / "constraints.txt").read_text().splitlines()


def test_coverage_is_measured_once_and_not_by_what_must_pass() -> None:
    runs = [
        (job, step["run"])
        for path in WORKFLOWS
        for job, content in read(path.name)["jobs"].items()
        for step in content["steps"]
        if "coverage" in step.get("run", "")
    ]
    assert runs == [("coverage", "make coverage")]
    assert re.findall(r"^([a-z%-]+):.*\n.*--cov", MAKEFILE, re.MULTILINE) == ["coverage"]


def test_metadata_and_pages_claim_the_pythons_that_are_tested() -> None:
    metadata = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r"Python :: (3\.\d+)", metadata) == PYTHONS
    oldest, newest = PYTHONS[0], PYTHONS[-1]
    assert f'requires-python = ">={oldest},<3.{int(newest[2:]) + 1}"' in metadata
    assert f'target-version = "py{oldest.replace(".", "")}"' in metadata
    assert f'\npython_version = "{oldest}"' in metadata
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
    claims = {claim for page in pages for claim in re.findall(r"Python[ |]+(3\.\d+ to 3\.\d+)", page.read_text())}
    assert claims == {f"{oldest} to {newest}"}


def test_only_the_publishing_job_may_publish() -> None:
    jobs = read("release.yml")["jobs"]
    publishing = [name for name, job in jobs.items() if any("pypi-publish" in str(step) for step in job["steps"])]
    assert publishing == ["publish"]
    assert (jobs["publish"]["environment"], jobs["publish"]["needs"]) == ("pypi", "build")
    assert [name for name, job in jobs.items() if "secrets." in str(job)] == []
    # None of our code runs with these permissions.
    assert [step for step in jobs["publish"]["steps"] if "run" in step] == []


def test_a_tag_must_name_the_version() -> None:
    def check(tag: str) -> int:
        command = [
            "make",
            "--no-print-directory",
            "--assume-old=.venv/.installed",
            "check-tag",
            f"TAG={tag}",
            f"BIN={BIN}",
        ]
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode

    from deepshi_provider import __version__

    assert (check(f"v{__version__}"), check(__version__), check("")) == (0, 2, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schema", "pattern"),
    [
        ("github-workflows", "workflows/*.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/[!c]*.yml"),
        ("github-issue-config", "ISSUE_TEMPLATE/config.yml"),
        ("dependabot", "dependabot.yml"),
    ],
)
def test_files_are_valid_for_github(schema: str, pattern: str) -> None:
    files = [str(path) for path in GITHUB.glob(pattern)]
    assert files
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hooks_call_make_targets_too() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"] for repo in hooks for hook in repo["hooks"]]
    assert [repo["repo"] for repo in hooks] == ["local"]
    assert [entry for entry in entries if entry.removeprefix("make ") not in TARGETS] == []


def test_contributing_explains_every_target() -> None:
    explained = re.findall(r"^\| `make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert sorted(explained) == sorted(TARGETS - {"help"})
    assert sorted(explained) == sorted(set(re.findall(r"^\.PHONY: ([a-z-]+)$", MAKEFILE, re.MULTILINE)) - {"help"})
