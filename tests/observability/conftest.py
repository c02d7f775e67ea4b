"""Leaves out what older versions of Airflow have no place for."""

from __future__ import annotations

from importlib.metadata import version

from packaging.version import Version

#: Before 3.3 a test cannot set Airflow's metrics up by a public function.
collect_ignore = [] if Version(version("apache-airflow-core")) >= Version("3.3") else ["test_metrics.py"]
