"""Sphinx settings: ``make docs`` builds the pages offline, and treats a warning as an error."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Airflow writes its configuration when it is imported, and the reference is read from the imported package.
os.environ.setdefault("AIRFLOW_HOME", str(Path(__file__).parents[1] / "build" / "airflow"))
sys.path.insert(0, str(Path(__file__).parents[1]))

from deepshi_provider import __version__

project = "airflow-provider-deepshi"
author = "The airflow-provider-deepshi authors"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["examples"]

myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

nitpicky = True
nitpick_ignore_regex = [
    # Other packages' names would need their inventories from the internet.
    (r"py:.*", r"(?!deepshi_provider).*"),
    # Names in signatures that users need not know: the provider's own modules, validators, and type variables.
    (r"py:.*", r"deepshi_provider\.(batch|client|costs|jobs|journal|store|api\.(spool|answer|received))\b.*"),
    (r"py:.*", r"deepshi_provider\.operators\.flows\b.*"),
    (r"py:.*", r"deepshi_provider\..*\._\w+"),
    (r"py:.*", r"deepshi_provider\.(api\.requests\.Request|operators\.lifecycle\.Result)"),
]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "model_config"}

html_theme = "furo"
html_title = f"{project} {version}"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "native"
