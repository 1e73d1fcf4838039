"""Every exercise says whether the answer is right, and has a solution. (That the solutions are right is shown by `tools/solved.py`, whose notebooks `make test` runs.)"""
import json
import re
from pathlib import Path

import pytest
from notebooks import notebooks
from solved import exercises, solved, source

from colorize.exercises import check

CHAPTERS = [path for path in notebooks() if "## Exercises" in path.read_text(encoding="utf-8")]
chapters = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)


def read(chapter): return json.loads(chapter.read_text(encoding="utf-8"))


@chapters
def test_an_exercise_has_a_place_a_verdict_and_a_solution(chapter):
    cells = read(chapter)["cells"]
    found = [*exercises(cells)]
    assert found, "a chapter has exercises"
    for place, asked, solution in found:
        assert solution, f"no solution below: {source(cells[asked])}"
        assert re.search(r"\bNone\b", source(cells[place])), f"no place for an answer above: {source(cells[asked])}"
        assert "not yet" in str(cells[asked]["outputs"]), f"the stored verdict is not that of a reader who has not begun: {source(cells[asked])}"


def test_a_wrong_solution_would_be_noticed():
    def cell(kind, text): return dict(cell_type=kind, source=text)
    def run(solution):
        folded = f"<details><summary>Solution</summary>\n\n```python\nanswer = {solution}\n```"
        cells = solved(dict(cells=[cell("code", "answer = None"), cell("code", 'limit = 1\ncheck(answer, lambda x: x > limit, "more")'), cell("markdown", folded)]))["cells"]
        exec("\n".join(c["source"] for c in cells if c["cell_type"] == "code"), dict(check=check))
    run(2)
    with pytest.raises(AssertionError, match="not right"): run(0)


def test_the_hint_comes_after_three_wrong_answers_and_a_failing_answer_is_wrong():
    def asked(answer): return check(answer, lambda x: x > 1, "more than one")
    assert [asked(a) for a in (None, (3, None), 0, "a", 1, 2)] == ["not yet", "not yet", "not right", "not right", "not right; a hint: more than one", "right"]


@chapters
def test_restart_and_run_all(chapter, request):
    if not request.config.getoption("--run-all"): pytest.skip("every chapter in Jupyter: a quarter of an hour, with --run-all")
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    nb = nbformat.read(chapter, 4)
    nb.cells = [c for c in nb.cells if not re.match(r"#\| *(slow|cuda|weights|notest)", source(c))]
    nbclient.NotebookClient(nb, timeout=300, resources={"metadata": {"path": str(chapter.parent)}}).execute()
