"""HTTP to Deepshi: send, retry, read the answer. Knows no Airflow."""
