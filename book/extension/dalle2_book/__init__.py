"""What the rendered book adds to Jupyter Book, and where.

- `search`: finds Chinese as well as English words, with no dictionary;
- `sources`: every file of the package as a page, and links to its lines;
- `lessons`: the list of all files of the package, with the chapters that use them;
- `chapters`: the line under a chapter's title, the words on hidden cells, formulas as
  JupyterLab shows them;
- `pages`: the switch to the other language, and the theme's words that have no Chinese
  translation yet.
"""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

from . import chapters, lessons, pages, search, sources


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx, once for each language's build."""
    app.add_config_value(
        "comments_config", {}, ""
    )  # Jupyter Book sets it, for an extension that _config.yml leaves out
    for part in (search, sources, lessons, chapters, pages):
        part.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
