"""The mapped operator of the http provider, blocking."""

from airflow.sdk import DAG

from benchmarks.over_http import over_http
from benchmarks.ways import DEFAULTS, prompts

with DAG("http_blocking", schedule=None, default_args=DEFAULTS):
    over_http("http_blocking", prompts("http_blocking"), deferrable=False)
