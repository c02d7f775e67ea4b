"""A package, so that the fixture that starts Airflow for all its tests ends after the last of them."""
