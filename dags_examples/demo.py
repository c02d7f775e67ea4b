"""``make demo``: run ``product_images`` in this process, against a local emulator, and show the result.

With ``DEEPSHI_API_KEY`` in the environment it runs against the real service instead, and costs real money.
"""

from __future__ import annotations

import csv
import html
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from deepshi_provider.emulator.testing import Emulator

FOLDER = Path("demo-output").absolute()


class Row(NamedTuple):
    """One picture; the path is relative to :data:`FOLDER`, the cost in USD."""

    task: str
    path: str
    size: str
    model: str
    cost: Decimal


def main() -> None:
    """Set up a throw-away Airflow, run the DAG, and write ``demo-output/index.html``."""
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="deepshi-demo-"))
        _configure(home)
        emulator = _connect(stack)
        print("Setting up a throw-away Airflow …", flush=True)
        _airflow("db", "migrate")
        _airflow("dags", "reserialize")
        print("Running the DAG product_images …", flush=True)
        rows = _run()
        taken = Decimal(emulator.stats()["cost_usd"]) if emulator else None
    _print_table(rows)
    if taken is not None and taken != _total(rows):
        sys.exit(f"The emulator took ${taken:f}, and the tasks say ${_total(rows):f}.")
    page = FOLDER / "index.html"
    page.write_text(_page(rows), encoding="utf-8")
    print(f"\nPictures, contact sheet and price list: {FOLDER}\nAs a page: {page.as_uri()}")


def _configure(home: str) -> None:
    os.environ |= {
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__DAGS_FOLDER": str(Path(__file__).parent),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }


def _connect(stack: ExitStack) -> Emulator | None:
    """Point the connection at the real service, or at an emulator that stops with the stack; return the connection."""
    output_uri = FOLDER.as_uri()
    key = os.environ.get("DEEPSHI_API_KEY")
    emulator = None
    if key:
        print("DEEPSHI_API_KEY is set: running against the real service, which costs money.")
        connection = json.dumps({"conn_type": "deepshi", "password": key, "extra": {"output_uri": output_uri}})
    else:
        from deepshi_provider.emulator.testing import Emulator

        emulator = stack.enter_context(Emulator(latency=0.2, tls=True))
        print(f"Started the emulator at {emulator.base_url}; nothing costs money.")
        connection = emulator.connection_json(output_uri=output_uri)
    os.environ["AIRFLOW_CONN_DEEPSHI_DEFAULT"] = connection
    return emulator


def _airflow(*arguments: str) -> None:
    done = subprocess.run(  # noqa: S603 -- the program is this Python
        [sys.executable, "-m", "airflow", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"airflow {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


def _run() -> list[Row]:
    """Run the DAG and return the lines of the price list that its last task wrote."""
    # Airflow reads its environment when it is imported.
    from dags_examples.product_images import product_images_dag

    run = product_images_dag.test()
    if run.state != "success":
        sys.exit(f"The DAG run ended as {run.state}; the log above says why.")
    (table,) = (FOLDER / "reports" / run.run_id.replace(":", "-").replace("+", "_")).glob("costs.csv")
    with table.open(newline="") as file:
        return [
            Row(
                task=line["task"],
                path=str(Path(urlsplit(line["picture"]).path).relative_to(FOLDER)),
                size=line["size"],
                model=line["model"],
                cost=Decimal(line["cost_usd"]),
            )
            for line in csv.DictReader(file)
        ]


def _total(rows: list[Row]) -> Decimal:
    return sum((row.cost for row in rows), Decimal(0))


def _print_table(rows: list[Row]) -> None:
    lines = [("picture", "size", "model", "cost"), *((r.path, r.size, r.model, f"${r.cost:.6f}") for r in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    print()
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(f"\nTotal: ${_total(rows):.6f} for {len(rows)} pictures")


def _page(rows: list[Row]) -> str:
    highest = max((row.cost for row in rows), default=Decimal(0)) or Decimal(1)
    figures = "".join(
        f'<figure><img src="{html.escape(quote(row.path))}" alt="{html.escape(row.task)}">'
        f"<figcaption>{html.escape(row.task)}: {html.escape(row.model)}, {row.size}</figcaption></figure>"
        for row in rows
    )
    bars = "".join(
        f'<tr><th>{html.escape(row.task)}</th><td><div style="width:{row.cost / highest * 100:.1f}%"></div></td>'
        f"<td>${row.cost:.6f}</td></tr>"
        for row in rows
    )
    return _TEMPLATE.format(figures=figures, bars=bars, total=f"{_total(rows):.6f}", count=len(rows))


_TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Deepshi demo</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1rem }}
figure {{ margin: 0 }} img {{ width: 100%; border-radius: .5rem }} figcaption {{ font-size: .85rem }}
table {{ width: 100%; border-collapse: collapse; margin-top: 2rem }}
th, td {{ text-align: left; padding: .3rem .6rem }} td:nth-child(2) {{ width: 70% }}
td div {{ background: #7c3aed; height: 1rem; border-radius: .25rem }}
</style>
<h1>{count} pictures for ${total}</h1><main>{figures}</main>
<table>{bars}</table></html>
"""

if __name__ == "__main__":
    main()
