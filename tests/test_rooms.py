"""The plan of the house: which room of the library may import from which, drawn from the code and held against it."""
import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent/"colorize"

# From the top down. A module imports from the rows below its own, and from its own row as long as no circle comes of it.
# `pictures` stands for all modules of the sub-package that have no row of their own.
ORDER = """
    cli widgets
    jobs
    experiments box recipe models.distillation
    adversarial
    pretraining metrics
    runs
    colorizer models.engines
    models.store
    hints classes mood losses discriminators
    generators
    batches
    ageing photos
    pictures
    lab models.weights
    files devices exercises
"""
ROW = {room: -i for i, row in enumerate(ORDER.split("\n")) for room in row.split()}


def modules(package=PACKAGE):
    "{name within the package: path}"
    return {".".join(path.relative_to(package).with_suffix("").parts): path for path in sorted(package.rglob("*.py")) if not path.name.startswith("_")}


def imported(tree, name, known):
    "Modules that a module imports, also within functions"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import): found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["colorize", *name.split(".")][:-node.level] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            found = [whole, *(f"{whole}.{alias.name}" for alias in node.names)]
        else: continue
        yield from (one.removeprefix("colorize.") for one in found if one.startswith("colorize.") and one.removeprefix("colorize.") in known)


def graph(paths):
    "{module: modules it imports}"
    return {name: {*imported(ast.parse(path.read_text(encoding="utf-8")), name, paths)} - {name} for name, path in paths.items()}


def circle(arrows):
    "Modules that import each other round in a circle, or None"
    done = set()
    def walk(name, way):
        if name in way: return [*way[way.index(name):], name]
        if name in done: return None
        found = next(filter(None, (walk(other, [*way, name]) for other in sorted(arrows[name]))), None)
        done.add(name)
        return found
    return next(filter(None, (walk(name, []) for name in sorted(arrows))), None)


def row(name): return ROW.get(name, ROW.get(name.split(".")[0]))
def upward(arrows): return [f"{name} → {other}" for name, others in sorted(arrows.items()) for other in sorted(others) if row(other) > row(name)]


def public(path):
    "Public names that a module defines"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            if not any(ast.unparse(d).startswith("patch") for d in node.decorator_list): yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))


def twice(paths):
    "Public names that more than one module defines"
    homes = {}
    for name, path in paths.items():
        for one in {*public(path)}: homes.setdefault(one, []).append(name)
    return {one: where for one, where in homes.items() if len(where) > 1 and not one.startswith("_")}


def test_every_module_has_its_place(): assert [name for name in modules() if row(name) is None] == []
def test_nothing_imports_in_a_circle(): assert circle(graph(modules())) is None
def test_imports_lead_downward(): assert upward(graph(modules())) == []
def test_a_public_name_has_one_home(): assert twice(modules()) == {}


def test_what_the_rooms_have_is_found_from_the_front_door():
    import colorize
    for paths in modules().items():
        for name in public(paths[1]):
            if not name.startswith("_"): assert name in dir(colorize), f"{paths[0]}: {name}"


@pytest.mark.parametrize("text, circles, up", [
    ("from colorize.lab import x\nfrom .pictures.read import y", None, []),
    ("def f():\n    from colorize.cli import g", ["cli", "photos", "cli"], ["photos → cli"]),
    ("def f():\n    from . import cli", ["cli", "photos", "cli"], ["photos → cli"]),
    ("import colorize.cli as c", ["cli", "photos", "cli"], ["photos → cli"])])
def test_these_checks_notice_an_arrow_upward_and_a_circle(tmp_path, text, circles, up):
    (tmp_path/"pictures").mkdir()
    for name, code in {"photos": text, "cli": "from .photos import f", "lab": "x = 1", "pictures/read": "from ..lab import x\ny = 1"}.items():
        (tmp_path/f"{name}.py").write_text(code)
    arrows = graph(modules(tmp_path))
    assert arrows["pictures.read"] == {"lab"} and circle(arrows) == circles and upward(arrows) == up


def test_these_checks_notice_a_name_with_two_homes(tmp_path):
    (tmp_path/"a.py").write_text("def f(): pass\ndef _own(): pass\nN = 1")
    (tmp_path/"b.py").write_text("class f: pass\ndef _own(): pass\nM: int = 1")
    assert twice(modules(tmp_path)) == {"f": ["a", "b"]}
