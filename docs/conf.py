"""How Sphinx makes the manual; `make docs` runs it, and a warning is an error."""

from __future__ import annotations

import logging
import re
from typing import Any

import fastinit

project = "fastinit"
author = copyright = "the fastinit authors"
version = release = fastinit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "dollarmath"]
autodoc_typehints = "none"  # the signature in the docstring's own words; types are in the stubs
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
default_role = "code"
doctest_global_setup = "import torch, fastinit"

html_theme = "furo"
html_title = f"fastinit {release}"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_copy_source = html_show_sourcelink = False

# What a module owns and must not know is for those who change it.
INTERNAL = re.compile(r"^Owns .*?\n\n", re.MULTILINE | re.DOTALL)
LABEL = re.compile(r"^(Formula|Source|Returns|Raises|Reproducibility): ", re.MULTILINE)
CODE = re.compile(r"``.+?``|`[^`]+`|^ *>>>.*(?:\n *\S.*)*", re.MULTILINE | re.DOTALL)


def _markdown_to_rst(*event: Any) -> None:
    """Docstrings are plain text with `code`; outside of code, no character of theirs is markup."""
    lines = event[-1]
    text = INTERNAL.sub("", "\n".join(lines))
    escaped, end = "", 0
    for code in CODE.finditer(text):
        escaped += re.sub(r"([*|\\]|_\b)", r"\\\1", text[end : code.start()])
        span = code[0]
        escaped += f"`{span}`" if span.startswith("`") and not span.startswith("``") else span
        end = code.end()
    escaped += re.sub(r"([*|\\]|_\b)", r"\\\1", text[end:])
    lines[:] = LABEL.sub(r"**\1.** ", escaped).split("\n")


def _is_no_empty_place(record: logging.LogRecord) -> bool:
    """Whether this is another message than that a place for pages to come has none yet."""
    return "didn't match any documents" not in record.getMessage()


def setup(app: Any) -> None:
    """Docstrings are seen before napoleon, which reads their sections."""
    logging.getLogger("sphinx.sphinx.directives.other").addFilter(_is_no_empty_place)
    app.connect("autodoc-process-docstring", _markdown_to_rst, priority=100)
