"""Airflow hooks: connections, stores and jobs."""
