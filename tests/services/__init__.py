"""Real servers that tests talk to: Airflow as separate processes, and S3 storage."""
