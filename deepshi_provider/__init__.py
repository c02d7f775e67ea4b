"""Airflow provider for the Deepshi images API. Imports nothing: provider discovery loads it."""

__version__ = "0.1.0"
