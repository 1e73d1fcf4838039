"""Is the library what the notebooks export, and README.md what nbs/index.ipynb says?

    python tools/check_export.py        exits with 1 and a sentence for each file that has drifted
"""
import re
import sys
import tempfile
from pathlib import Path

from nbdev.export import nb_export

from make_readme import readme
from notebooks import module_of, notebooks

ROOT = Path(__file__).resolve().parent.parent


def code(path):
    "An exported module, without the way from it to its notebook"
    return re.sub(r"(# %% |File to edit: ).*/", r"\1", path.read_text(encoding="utf-8"))


def modules(package):
    "{name in the package: code} of its exported modules"
    return {path.relative_to(package).as_posix(): code(path) for path in package.rglob("*.py") if not path.name.startswith("_")}


def drifted():
    "Names of the files that are not what their notebook makes of them"
    with tempfile.TemporaryDirectory() as tmp:
        for notebook in filter(module_of, notebooks(ROOT/"nbs")): nb_export(notebook, lib_path=Path(tmp)/"colorize")
        fresh = modules(Path(tmp)/"colorize")
    own = modules(ROOT/"colorize")
    names = [f"colorize/{name}" for name in sorted(fresh | own) if fresh.get(name) != own.get(name)]
    return names + ([] if (ROOT/"README.md").read_text(encoding="utf-8") == readme() else ["README.md"])


if __name__ == "__main__":
    names = drifted()
    for name in names: print(f"{name} is not what its notebook says; run {'make readme' if name == 'README.md' else 'make export'}", file=sys.stderr)
    sys.exit(bool(names))
