"""A task that does nothing, since the first run of all is slow."""

import os

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG

from benchmarks.ways import DEFAULTS

with DAG("warm", schedule=None, default_args=DEFAULTS):
    PythonOperator(task_id="nothing", python_callable=os.getpid)
