"""Where the notebooks are: lessons in nbs/, how the library is built in nbs/library/, what its users need in nbs/guide/."""
import re
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent/"nbs"
ROOMS = (".", "library", "guide")


def notebooks(nbs=NBS):
    "All of them: the lessons, the pages beside them, the library's and the users'"
    return [path for room in ROOMS for path in sorted((nbs/room).glob("*.ipynb"))]


def lessons(nbs=NBS): return sorted(nbs.glob("[0-9]*.ipynb"))
def machinery(nbs=NBS): return [path for path in notebooks(nbs) if path.parent.name in ROOMS[1:]]


def module_of(path):
    "The module that a notebook exports (`lab`, `pictures.formats`), or None"
    found = re.search(r'"#\| *default_exp ([\w.]+)', path.read_text(encoding="utf-8"))
    return found and found[1]
