"""The page "Deepshi costs" in Airflow's UI.

``plugin`` is what Airflow finds; ``app`` answers requests by ``access`` (who may see what), ``sheets`` (what is in the
database), ``totals`` (sums), ``gallery`` and ``pictures`` (images). ``page`` is what the browser gets.
"""
