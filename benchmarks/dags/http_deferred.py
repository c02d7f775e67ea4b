"""The mapped operator of the http provider, deferred."""

from airflow.sdk import DAG

from benchmarks.over_http import over_http
from benchmarks.ways import DEFAULTS, prompts

with DAG("http_deferred", schedule=None, default_args=DEFAULTS):
    over_http("http_deferred", prompts("http_deferred"), deferrable=True)
