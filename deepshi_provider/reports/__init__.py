"""Reports of what a DAG run has cost: sums, tables and a page, from cost sheets; nothing is read or written here."""
