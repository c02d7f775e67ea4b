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
    prompt: str
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
        _migrate()
        print("Running the DAG product_images …", flush=True)
        rows = _run()
        taken = Decimal(emulator.stats()["cost_usd"]) if emulator else None
    _print_table(rows)
    if taken is not None and taken != _total(rows):
        sys.exit(f"The emulator took ${taken:f}, and the tasks say ${_total(rows):f}.")
    page = FOLDER / "index.html"
    page.write_text(_page(rows), encoding="utf-8")
    print(f"\nPictures, contact sheet and price list: {FOLDER}\nOpen this page: {page.as_uri()}")


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


def _migrate() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "airflow", "db", "migrate"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"airflow db migrate failed:\n{done.stdout}{done.stderr}")


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
                prompt=_prompt(Path(urlsplit(line["picture"]).path).parent),
                path=str(Path(urlsplit(line["picture"]).path).relative_to(FOLDER)),
                size=line["size"],
                model=line["model"],
                cost=Decimal(line["cost_usd"]),
            )
            for line in csv.DictReader(file)
        ]


def _prompt(directory: Path) -> str:
    """Return the prompt in the record of a task's output directory."""
    (record,) = (directory / "_deepshi").glob("*.stored.json")
    return str(json.loads(record.read_text(encoding="utf-8"))["request"]["prompt"])


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
    """Return the page: the pictures of each product side by side, with prompt and cost, and the DAG that made them."""
    by_task: dict[str, list[Row]] = {}
    for row in rows:
        by_task.setdefault(row.task.partition("[")[0], []).append(row)
    figures = "".join(_figure(row) for same in zip(*by_task.values(), strict=True) for row in same)
    saved = html.escape(str(FOLDER))
    return _TEMPLATE.format(
        figures=figures, total=f"{_total(rows):.6f}", count=len(rows), folder=saved, code=html.escape(_code())
    )


def _figure(row: Row) -> str:
    path = html.escape(quote(row.path))
    facts = f"{row.model}, {row.size.replace('x', ' × ')}"  # noqa: RUF001 -- the sign of multiplication
    return (
        f'<figure><a href="{path}"><img src="{path}" alt="{html.escape(row.prompt)}"></a>'
        f"<figcaption><strong>{html.escape(row.prompt)}</strong>"
        f"<span>{html.escape(row.task)}: {html.escape(facts)}</span><b>${row.cost:.6f}</b></figcaption></figure>"
    )


def _code() -> str:
    """Return the DAG's source, as the documentation shows it."""
    source = Path(__file__).with_name("product_images.py").read_text(encoding="utf-8")
    return source.partition("# [START product_images]\n")[2].partition("# [END product_images]")[0].strip()


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Deepshi demo</title>
<style>
:root {{ color-scheme: light dark; --quiet: light-dark(#5b5b66, #a9b4c6); --line: light-dark(#e4e4e7, #323c50) }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem;
  color: light-dark(#18181b, #f1f5f9); background: light-dark(#fff, #171e2d) }}
h1 {{ margin: 0; font-size: 2rem }} p {{ color: var(--quiet); margin: .25rem 0 1.5rem }}
a {{ color: light-dark(#1d4ed8, #93c5fd) }}
main {{ display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.5rem }}
figure {{ margin: 0; border: 1px solid var(--line); border-radius: .6rem; overflow: hidden }}
img {{ width: 100%; display: block }}
figcaption {{ display: grid; grid-template-columns: 1fr auto; gap: 0 1rem; padding: .6rem .8rem; font-size: .9rem }}
figcaption strong {{ grid-column: 1 / -1; font-weight: 500 }} figcaption span {{ color: var(--quiet) }}
figcaption b {{ font-variant-numeric: tabular-nums }}
h2 {{ margin: 2.5rem 0 .5rem; font-size: 1.2rem }}
pre {{ overflow: auto; padding: 1rem; border: 1px solid var(--line); border-radius: .6rem; font-size: .85rem }}
@media (max-width: 40rem) {{ main {{ grid-template-columns: 1fr }} }}
</style></head>
<body><h1>{count} pictures for ${total}</h1>
<p>Left as generated, right as edited, each with the cost of its task. Stored in <code>{folder}</code>.</p>
<main>{figures}</main>
<h2>The DAG that made them</h2>
<pre tabindex="0"><code>{code}</code></pre>
<p>Next: <code>make ui</code> starts Airflow with this and other DAGs, and the page “Deepshi costs”.</p>
</body></html>
"""

if __name__ == "__main__":
    main()
