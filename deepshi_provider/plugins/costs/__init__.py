"""The page "Deepshi costs" in Airflow's UI.

Airflow loads ``plugin``; ``app`` answers requests with ``access`` (rights), ``sheets`` (database queries), ``book`` and
``views`` (sums), ``gallery`` and ``pictures`` (images). ``page`` has the files for the browser.
"""
