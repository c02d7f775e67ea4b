"""Decides whether to test Airflow's provider for models, which needs Python 3.11 and packages of Airflow 3.3."""

from __future__ import annotations

import importlib.metadata
import sys

WITH_MODELS = sys.version_info >= (3, 11) and importlib.metadata.version("apache-airflow") >= "3.3"
