"""The chapters as one book: their shape, their style in numbers, their words."""
import ast
import json
import re
from pathlib import Path
from statistics import median

import pytest
from notebooks import lessons, machinery, notebooks
from solved import source

ROOT = Path(__file__).parent.parent
CHAPTERS = lessons()
chapters = pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
machines = pytest.mark.parametrize("notebook", machinery(), ids=lambda path: path.stem)


def cells(path, kind): return [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]
def prose(path): return "\n\n".join(map(source, cells(path, "markdown"))) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
def exported(cell): return re.match(r"#\| *exporti?\b", source(cell))
def checks(cell): return not exported(cell) and re.search(r"\b(test_\w+\(|assert |expect_fail\(|check\()", source(cell))
def flagged(cell): return re.search(r"^#\| *(slow|cuda|weights)", source(cell), re.M)


def length(cell):
    "Lines, without directives and empty ones"
    return sum(bool(line.strip()) and not line.startswith("#|") for line in source(cell).splitlines())


@chapters
def test_the_cells_of_a_chapter_are_short(chapter):
    lengths = sorted(length(cell) for cell in cells(chapter, "code") if not re.match(r"(#\|.*\n)*(import|from) ", source(cell)))
    assert median(lengths) <= 4
    assert lengths[int(.9*len(lengths))] <= 13
    assert lengths[-1] <= 25


@chapters
def test_a_chapter_has_as_many_cells_with_tests_as_exported_ones(chapter):
    code = cells(chapter, "code")
    assert sum(map(bool, map(checks, code))) >= sum(map(bool, map(exported, code)))


@chapters
def test_a_chapter_says_what_it_is_for_and_ends_with_exercises_and_papers(chapter):
    text, opening = prose(chapter), source(cells(chapter, "markdown")[0])
    assert re.match(r"# .+\n\n> .+\n\n", opening), "title, then one line under it"
    assert "At the end of this chapter you" in opening and re.search(r"\btakes? (about )?[\w ]+ (minutes|hours?) to read\b", " ".join(opening.split()))
    ends = [text.index(f"## {part}\n") for part in ("What we learned", "Exercises", "Further reading")]
    assert ends == sorted(ends)
    assert 3 <= len(re.findall(r"^\*\*\d\.\*\*", text[ends[1]:ends[2]], re.M)) <= 5


@machines
def test_a_notebook_of_the_library_says_what_it_is_for_before_it_does_it_and_tests_it(notebook):
    assert re.match(r"# .+\n\n> .+\n\n\S", source(cells(notebook, "markdown")[0])), "title, one line under it, and a first paragraph"
    every = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    first = next(i for i, cell in enumerate(every) if re.search(r"^(def|class) ", source(cell), re.M))
    assert any(cell["cell_type"] == "markdown" for cell in every[:first])
    code = cells(notebook, "code")
    assert 3*sum(map(bool, map(checks, code))) >= sum(map(bool, map(exported, code))), "a test for every three exported cells at least"


def last_value(cell):
    "The expression whose value a cell shows, if it ends in one"
    lines = ["pass" if line.lstrip().startswith(("%", "!")) else line for line in source(cell).splitlines()]
    body = ast.parse("\n".join(lines)).body
    if body and isinstance(body[-1], ast.Expr) and not source(cell).rstrip().endswith(";"): return ast.unparse(body[-1])


@chapters
def test_what_a_cell_shows_is_stored(chapter):
    shows = r"pd\.|check\(|show_\w+\(|plot_\w+\(|\w+$"
    for cell in cells(chapter, "code"):
        if not exported(cell) and not flagged(cell) and re.match(shows, last_value(cell) or ""): assert cell["outputs"], source(cell)


def test_the_glossary_leads_to_chapters_that_speak_of_its_words():
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| \[[^\]]+\]\((.+?)\) \|$", prose(ROOT/"nbs"/"glossary.ipynb"), re.M)
    assert len(rows) > 40
    texts = {path.relative_to(ROOT/"nbs").as_posix(): prose(path).lower() + "\n".join(map(source, cells(path, "code"))).lower() for path in [*CHAPTERS, *machinery()]}
    assert [] == [row for row in rows if not any(word.strip("` ").lower() in texts[row[1]] for word in row[0].split(","))]


def test_words_are_spelled_as_in_the_dictionary():
    spelling = pytest.importorskip("spellchecker").SpellChecker()
    known = {*(ROOT/"docs"/"words.txt").read_text(encoding="utf-8").split()}
    texts = [*CHAPTERS, *machinery(), *(ROOT/name for name in ("nbs/index.ipynb", "nbs/glossary.ipynb", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "MODEL_CARD.md", "data/photos/README.md"))]
    wrong = {}
    for path in texts:
        plain = re.sub(r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$|\]\([^)]*\)|<[^>]*>|https?://\S+", " ", prose(path), flags=re.S)
        words = {w.lower().strip("'").removesuffix("'s") for w in re.findall(r"(?<![\w.])[^\W\d_]['’\w]+\b(?!\.\w)", plain) if not re.search(r"[\d_]", w)}
        if unknown := spelling.unknown(words) - known: wrong[path.name] = sorted(unknown)
    assert not wrong, wrong
