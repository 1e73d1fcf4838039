"""README.md from nbs/index.ipynb.

    python tools/make_readme.py        (or: make readme)

Cells that begin with `#| hide` are left out, and links are turned from the notebooks' folder to the top.
"""
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

ROOT = Path(__file__).resolve().parent.parent


def readme():
    "The text of README.md"
    notebook = nbformat.read(ROOT/"nbs"/"index.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not cell.source.startswith("#| hide")]
    for cell in notebook.cells: cell.source = re.sub(r"^#\|.*\n", "", cell.source, flags=re.M)
    text, _ = MarkdownExporter().from_notebook_node(notebook)
    text = re.sub(r"(\]\(|src=\")(?!https?:|#|/)([^)\"]+)", lambda m: m[1] + ((m[2][3:]) if m[2].startswith("../") else f"nbs/{m[2]}"), text)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


if __name__ == "__main__":
    (ROOT/"README.md").write_text(readme(), encoding="utf-8")
