"""A package, so that what starts an Airflow for all its tests stops it with the last of them."""
