"""The pages describe the newest Airflow; with an older one nothing here is collected."""

from __future__ import annotations

from importlib.metadata import version

if tuple(map(int, version("apache-airflow").split(".")[:2])) < (3, 3):
    collect_ignore_glob = ["test_*.py"]
