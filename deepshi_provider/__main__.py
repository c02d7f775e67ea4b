"""``python -m deepshi_provider``: see :mod:`deepshi_provider.cli`."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Airflow's own commands say so before they look connections up: without it, the metadata database is not asked.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    # Airflow logs to stdout, where the answer goes.
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")
    from deepshi_provider.cli.main import main

    sys.exit(main())
