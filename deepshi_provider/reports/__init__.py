"""Makes reports on the costs of a DAG run from cost sheets: sums, tables and a page."""
