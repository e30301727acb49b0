"""How Sphinx makes a site of the pages: `make docs`."""

from __future__ import annotations

project = "relaxc"
copyright = "the relaxc maintainers, Apache-2.0"  # noqa: A001 - the name that Sphinx asks for
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
html_theme = "furo"
html_title = "relaxc"
exclude_patterns = ["_build"]
# Links to headings, as GitHub makes them.
myst_heading_anchors = 3
# In docstrings, single backticks are code.
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
# Pages link to files of the repository, which are not part of the site.
suppress_warnings = ["myst.xref_missing"]
