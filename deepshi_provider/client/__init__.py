"""The HTTP client of the Deepshi API; does not use Airflow."""
