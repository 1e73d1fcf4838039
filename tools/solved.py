"""The notebooks as somebody leaves them who has done all exercises.

    python tools/solved.py FOLDER

Each folded solution stands in the place of its answer, and the cell below, which says whether it is right, fails where it is not.
`make test` runs these copies: every cell of every chapter once, and the solutions with it.
"""
import json
import re
import sys
from pathlib import Path

from notebooks import NBS, notebooks


def source(cell): return "".join(cell["source"])


def exercises(cells):
    "(place of the answer, place of the check, solution or None) of each exercise"
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "code" and re.search(r"^check\(", source(cell), re.M):
            solution = re.search(r"<details><summary>Solution</summary>\n\n```python\n(.*?)```", source(cells[i + 1]), re.S)
            yield i - 1, i, solution and solution[1]


def solved(notebook):
    "The notebook with its solutions"
    cells = notebook["cells"]
    for place, asked, solution in exercises(cells):
        cells[place]["source"] = solution
        cells[asked]["source"] = re.sub(r"^check\(", "verdict = check(", source(cells[asked]), flags=re.M) + '\nassert verdict == "right", verdict'
    return notebook


if __name__ == "__main__":
    if len(sys.argv) != 2: sys.exit(__doc__.strip())
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for path in notebooks():
        place = folder/path.relative_to(NBS)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(solved(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
