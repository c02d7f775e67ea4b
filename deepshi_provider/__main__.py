"""``python -m deepshi_provider``: see :mod:`deepshi_provider.cli`."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # As in Airflow's own commands: otherwise connections are not looked up in the metadata database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    # Airflow logs to stdout, which is for the command's output.
    os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "ERROR")
    from deepshi_provider.cli.main import main

    sys.exit(main())
