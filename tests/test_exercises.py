"""Every exercise says whether the answer is right, and its solution is."""
import json
import re
from pathlib import Path

import pytest

from colorize.basics import check

CHAPTERS = sorted((Path(__file__).parent.parent/"nbs").glob("[0-9]*.ipynb"))


def source(cell): return "".join(cell["source"])


def exercises(chapter):
    "(place of the answer, place of the check, solution) of each exercise of a notebook"
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    for i, cell in enumerate(cells):
        if cell["cell_type"] == "code" and re.search(r"^check\(", source(cell), re.M):
            solution = re.search(r"<details><summary>Solution</summary>\n\n```python\n(.*?)```", source(cells[i + 1]), re.S)
            yield i - 1, i, solution and solution[1]


def without_long_cells(cells): return [c for c in cells if c["cell_type"] == "code" and not re.match(r"#\| *(slow|cuda|weights|notest)", source(c))]


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_solutions_are_right_and_nothing_is_said_without_an_answer(chapter):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    nb, found = nbformat.read(chapter, 4), [*exercises(chapter)]
    assert found, "a chapter has exercises"
    for place, asked, solution in found:
        assert solution, f"no solution below: {source(nb.cells[asked])}"
        assert re.search(r"\bNone\b", source(nb.cells[place])), f"no place for an answer above: {source(nb.cells[asked])}"
        assert "not yet" in str(nb.cells[asked].outputs), f"the stored verdict is not that of a reader who has not begun: {source(nb.cells[asked])}"
        nb.cells[place].source = solution
    asked = [nb.cells[i] for _, i, _ in found]
    nb.cells = without_long_cells(nb.cells[:found[-1][1] + 1])
    def run(): nbclient.NotebookClient(nb, timeout=300, resources={"metadata": {"path": str(chapter.parent)}}).execute()
    try: run()
    except nbclient.exceptions.CellExecutionError: run() # a chapter that stops processes in time may be late on a busy machine
    for cell in asked: assert "'right'" in str(cell.outputs[-1].get("data")), source(cell)


def test_the_hint_comes_after_three_wrong_answers_and_a_failing_answer_is_wrong():
    def asked(answer): return check(answer, lambda x: x > 1, "more than one")
    assert [asked(a) for a in (None, (3, None), 0, "a", 1, 2)] == ["not yet", "not yet", "not right", "not right", "not right; a hint: more than one", "right"]
