"""Real servers for tests, such as Airflow in separate processes, and S3 storage."""
