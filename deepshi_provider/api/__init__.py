"""The wire format: requests, answers, the catalog and the rules for retries.

Pure: no module here imports Airflow, opens a socket, reads a clock or needs an event loop.
"""
