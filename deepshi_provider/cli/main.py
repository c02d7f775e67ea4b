"""Arguments and exit codes of ``python -m deepshi_provider``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from deepshi_provider.api.requests import REQUEST_FIELDS
from deepshi_provider.batch.columns import Columns
from deepshi_provider.cli.check import check_file
from deepshi_provider.cli.models import as_json, as_table
from deepshi_provider.cli.plan import as_table as as_price_table
from deepshi_provider.cli.plan import known_prices, plan_file
from deepshi_provider.costs.money import amount_of
from deepshi_provider.exceptions import DeepshiError, InvalidRequest
from deepshi_provider.hooks.deepshi import DeepshiHook
from deepshi_provider.operators.rendered import input_images

_FITS, _COMPLAINTS, _FAILED = 0, 1, 2
_CONN_ID = "deepshi_command_line"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    :returns: exit code: 0 = success, 1 = the file has complaints, or certainly costs more than allowed, 2 = the command
        failed.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.base_url and not options.api_key:
        parser.error("--base-url needs a key: set DEEPSHI_API_KEY, or --api-key")
    try:
        hook = _hook(options)
        return {"models": _models, "check": _check, "plan": _plan, "prices": _prices}[options.command](hook, options)
    except DeepshiError as err:
        print(f"error: {err.message}", file=sys.stderr)
        return _FAILED
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED


def _models(hook: DeepshiHook, options: argparse.Namespace) -> int:
    models = [model for model in hook.list_models() if model.makes_images is not False]
    print(json.dumps(as_json(models), indent=2) if options.json else as_table(models))
    return _FITS


def _check(hook: DeepshiHook, options: argparse.Namespace) -> int:
    defaults, columns = dict(options.default), _columns(options)

    def warn(text: str) -> None:
        print(f"warning: {text}", file=sys.stderr)

    report = asyncio.run(check_file(hook, options.file, options.file_conn_id, defaults, columns, print, warn))
    print(report.summary, file=sys.stderr)
    return _COMPLAINTS if report.complaints else _FITS


def _plan(hook: DeepshiHook, options: argparse.Namespace) -> int:
    place = options.output_uri, options.output_conn_id
    rows = options.file, options.file_conn_id, dict(options.default), _columns(options)
    plan = asyncio.run(plan_file(hook, *rows, place, options.max_cost_usd))
    print(plan.model_dump_json(indent=2) if options.json else "\n".join(plan.as_lines()))
    return _COMPLAINTS if plan.refusal() else _FITS


def _prices(hook: DeepshiHook, options: argparse.Namespace) -> int:
    prices = asyncio.run(known_prices(hook))
    found = [price.model_dump(mode="json") for price in prices]
    print(json.dumps(found, indent=2) if options.json else as_price_table(prices))
    return _FITS


def _columns(options: argparse.Namespace) -> Columns:
    return Columns(key=options.key_column, carry="*" if "*" in options.carry else tuple(options.carry))


def _hook(options: argparse.Namespace) -> DeepshiHook:
    if options.base_url is None:
        return DeepshiHook(options.conn_id)
    connection = {"conn_type": "deepshi", "host": options.base_url, "password": options.api_key}
    os.environ[f"AIRFLOW_CONN_{_CONN_ID.upper()}"] = json.dumps(connection)
    return DeepshiHook(_CONN_ID)


def _parser() -> argparse.ArgumentParser:
    account = argparse.ArgumentParser(add_help=False)
    whose = account.add_mutually_exclusive_group()
    whose.add_argument("--conn-id", default="deepshi_default", help="Airflow connection (%(default)s)")
    whose.add_argument("--base-url", help="instead of a connection: such as http://127.0.0.1:8710, the emulator")
    account.add_argument(
        "--api-key",
        default=os.environ.get("DEEPSHI_API_KEY"),
        help="with --base-url; better in the environment, as DEEPSHI_API_KEY: other users can see arguments",
    )
    parser = argparse.ArgumentParser(
        prog="python -m deepshi_provider",
        description="Read the model catalog and the object store, and add up costs; never buys anything.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    models = commands.add_parser("models", parents=[account], help="list the image models and the fields they accept")
    models.add_argument("--json", action="store_true", help="print the parsed catalog as JSON; null is unknown")
    prices = commands.add_parser("prices", parents=[account], help="list the recent prices of each price class")
    prices.add_argument("--json", action="store_true", help="print JSON; money is text")
    rows = _rows()
    commands.add_parser(
        "check",
        parents=[account, rows],
        help="compare a file of requests with the catalog",
        description="Exit code 1 if a row has a complaint, 2 if the file cannot be checked.",
    )
    plan = commands.add_parser(
        "plan",
        parents=[account, rows],
        help="find out what a file of requests would cost",
        description="Exit code 1 if it certainly costs more than --max-cost-usd, 2 if the cost cannot be determined.",
    )
    plan.add_argument("--output-uri", required=True, help="like the operator's: directory of images already stored")
    plan.add_argument("--output-conn-id", help="Airflow connection of its object store")
    plan.add_argument("--max-cost-usd", type=_amount, metavar="USD", help="like the operator's max_cost_usd")
    plan.add_argument("--json", action="store_true", help="print JSON; money is text")
    return parser


def _rows() -> argparse.ArgumentParser:
    """Return the arguments for the rows."""
    rows = argparse.ArgumentParser(add_help=False)
    rows.add_argument("file", help="JSONL, CSV or Parquet, as for DeepshiGenerateImagesOperator(requests_uri=…)")
    rows.add_argument("--file-conn-id", help="Airflow connection of the file's object store")
    rows.add_argument(
        "--default",
        action="append",
        default=[],
        type=_default,
        metavar="FIELD=VALUE",
        help="default value of a field, like the operator's own; may be a template; repeatable",
    )
    rows.add_argument("--key-column", metavar="COLUMN", help="like the operator's key_column")
    rows.add_argument(
        "--carry",
        action="append",
        default=[],
        metavar="COLUMN",
        help="like the operator's carry; '*' for all; repeatable",
    )
    return rows


def _amount(text: str) -> Decimal:
    found = amount_of(text)
    if found is None:
        raise argparse.ArgumentTypeError("an amount in USD is needed")
    return found


def _default(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or name not in (*REQUEST_FIELDS, "images"):
        raise argparse.ArgumentTypeError(f"FIELD=VALUE, with one of {', '.join(REQUEST_FIELDS)}, images")
    try:
        return name, input_images(value, columns=True) if name == "images" else value
    except InvalidRequest as err:
        raise argparse.ArgumentTypeError(err.message) from None
