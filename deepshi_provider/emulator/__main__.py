"""``python -m deepshi_provider.emulator``."""

from __future__ import annotations

import argparse
import sys

_MISSING = "The emulator needs {}: pip install 'airflow-provider-deepshi[emulator]'"

try:
    from .server import serve
except ModuleNotFoundError as err:
    sys.exit(_MISSING.format(err.name))


def main() -> None:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m deepshi_provider.emulator",
        description="A local Deepshi images API: real HTTP and pictures, invented prices.",
    )
    parser.add_argument("--port", type=_port, default=8710, help="0 = a free port (%(default)s)")
    parser.add_argument("--latency", type=_latency, default=2.0, help="seconds per picture (%(default)s)")
    parser.add_argument("--api-key", type=_api_key, default="sk-bf-emulator", help="the one valid key (%(default)s)")
    parser.add_argument("--tls", action="store_true", help="serve HTTPS; creates a CA and prints its file")
    options = parser.parse_args()
    try:
        serve(port=options.port, latency=options.latency, api_key=options.api_key, tls=options.tls)
    except ModuleNotFoundError as err:  # needed only for TLS
        sys.exit(_MISSING.format(err.name))


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError("a port from 0 to 65535 is needed")
    return port


def _latency(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < 1e6:
        raise argparse.ArgumentTypeError("seconds are needed, 0 or more")
    return seconds


def _api_key(text: str) -> str:
    if not text.startswith("sk-bf-"):
        raise argparse.ArgumentTypeError("keys begin with sk-bf-")
    return text


if __name__ == "__main__":
    main()
