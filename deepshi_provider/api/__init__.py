"""The wire: requests, answers, the catalog and the rules for retries.

Pure: nothing in here imports Airflow, opens a socket, reads a clock or needs an event loop.
"""
