"""What is handed out: a source distribution from which a wheel can be built, a wheel that works outside the repository, and nothing imported that is not declared."""
import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from importlib.metadata import packages_distributions
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


# ---------------------------------------------------------------- distributions

def built(kind, source, out):
    "Call setuptools as pip and build do, without a network and in this environment"
    out.mkdir()
    code = f"import sys; from setuptools import build_meta; print(build_meta.build_{kind}(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, out], cwd=source, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return out/done.stdout.split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    (folder/"tree").mkdir()
    for file in ROOT.iterdir():
        if file.is_file(): shutil.copy(file, folder/"tree")
    shutil.copytree(ROOT/"colorize", folder/"tree"/"colorize")
    return built("sdist", folder/"tree", folder/"dist")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    "Built from nothing but the source distribution"
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as tar: tar.extractall(folder/"source", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    tree, = (folder/"source").iterdir()
    return built("wheel", tree, folder/"dist")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("installed")
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--target", folder, wheel], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return folder


def package(): return {f.relative_to(ROOT).as_posix() for f in (ROOT/"colorize").rglob("*") if f.is_file() and "__pycache__" not in f.parts and not f.name.startswith(".")}


def test_the_source_distribution_has_what_it_is_built_from(sdist):
    with tarfile.open(sdist) as tar: names = {name.partition("/")[2] for name in tar.getnames()}
    assert package() | {"settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "PKG-INFO"} <= names
    assert not [name for name in names if re.match(r"(nbs|data|runs|\.venv)/", name) or "__pycache__" in name]


def test_the_wheel_from_it_has_the_whole_package_and_its_metadata(wheel, settings):
    with zipfile.ZipFile(wheel) as files:
        assert {name for name in files.namelist() if name.startswith("colorize/")} == package()
        told = {name.rpartition("/")[2]: files.read(name).decode() for name in files.namelist() if ".dist-info/" in name and name.endswith(("METADATA", "entry_points.txt"))}
    assert f"Version: {settings['version']}\n" in told["METADATA"] and "Requires-Dist: torch>=" in told["METADATA"]
    assert "# colorize" in told["METADATA"], "the readme"
    for line in settings["console_scripts"].split(): assert line.replace("=", " = ") in told["entry_points.txt"]


def test_what_the_wheel_installs_colorizes_outside_the_repository(installed, tmp_path):
    Image.linear_gradient("L").resize((80, 60)).save(tmp_path/"old.jpg")
    code = "import colorize, sys; from colorize.cli import colorize as command; print(colorize.__file__); sys.exit(command('old.jpg', device='cpu'))"
    env = {k: v for k, v in os.environ.items() if not k.startswith("COLORIZE_")} | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, text=True, capture_output=True)
    assert done.returncode == 0 and done.stdout.startswith(str(installed)), done.stdout + done.stderr
    with Image.open(tmp_path/"old-color.jpg") as made: assert made.size == (80, 60) and np.ptp(np.asarray(made.convert("RGB")).astype(int), axis=2).max() > 3


# ---------------------------------------------------------------- declared and imported

@pytest.fixture(scope="module")
def settings():
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def normal(name): return re.sub(r"[-_.]+", "-", name).lower()
def declared(settings, *parts): return {normal(re.match(r"[\w.-]+", line)[0]) for part in parts for line in settings[part].split("\n") if line.strip()}


def imports(code):
    "The packages that a piece of Python imports, and those that it asks for by name"
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import): yield from (alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and not node.level: yield node.module.partition(".")[0]
        if isinstance(node, ast.Call) and re.search(r"import_module|find_spec|importorskip", ast.unparse(node.func)) and node.args and isinstance(node.args[0], ast.Constant): yield node.args[0].value.partition(".")[0]


@functools.cache
def imported(*files):
    "{module: where} of what is neither Python's nor ours"
    ours, found = {"colorize", *(f.stem for folder in ("tests", "tools", "bench", "docs") for f in (ROOT/folder).glob("*.py"))}, {}
    for file in files:
        codes = [file.read_text(encoding="utf-8")]
        if file.suffix == ".ipynb":
            cells = [c["source"] if isinstance(c["source"], str) else "".join(c["source"]) for c in json.loads(codes[0])["cells"] if c["cell_type"] == "code"]
            codes = ["\n".join("pass" if line.lstrip().startswith(("%", "!")) else line for line in cell.splitlines()) for cell in cells]
        for code in codes:
            for name in imports(code):
                if name not in sys.stdlib_module_names and name not in ours: found.setdefault(name, file.name)
    return found


distributions_of = functools.cache(packages_distributions)
def distributions(module): return {normal(name) for name in distributions_of().get(module, [module])}


def extras(settings): return [f"{extra.strip()}_requirements" for extra in settings["extras"].split("\n") if extra.strip()]
def library(): return (ROOT/"colorize").rglob("*.py")
def everything(): return [*library(), *(f for folder in ("tests", "tools", "bench", "docs") for f in (ROOT/folder).rglob("*.py")), *(ROOT/"nbs").rglob("*.ipynb")]


def undeclared(files, known): return {module: where for module, where in imported(*files).items() if not distributions(module) & known}


def test_what_the_library_imports_is_declared(settings):
    assert undeclared(library(), declared(settings, "requirements", *(e for e in extras(settings) if e not in ("dev_requirements", "docs_requirements")))) == {}


def test_what_tests_tools_and_notebooks_import_is_declared(settings):
    assert undeclared(everything(), declared(settings, "requirements", *extras(settings))) == {}


AS_A_PROGRAM = {"jupyterlab": "jupyter lab", "pytest-xdist": "pytest -n", "voila": "-m voila", "setuptools": "setuptools.build_meta", "furo": '"furo"', "myst-nb": '"myst_nb"', "docutils": "docutils", "ray-data": "ray"}


def test_what_is_declared_is_imported_or_run(settings):
    used = set().union(*map(distributions, imported(*everything())))
    texts = "\n".join(f.read_text(encoding="utf-8") for f in (ROOT/"Makefile", ROOT/"pyproject.toml", *(ROOT/"tools").glob("*.py"), *(ROOT/"docs").glob("*.py")))
    idle = declared(settings, "requirements", *extras(settings)) - used
    assert {name for name in idle if AS_A_PROGRAM.get(name, name + " is not run") not in texts} == set()


def test_the_checks_notice_what_is_missing_and_what_is_idle(tmp_path):
    (tmp_path/"a.py").write_text("def f():\n    try: import numpy.linalg as x, os\n    except ImportError: from PIL import Image\n")
    assert imported(tmp_path/"a.py") == {"numpy": "a.py", "PIL": "a.py"}
    assert undeclared([tmp_path/"a.py"], {"numpy"}) == {"PIL": "a.py"} and undeclared([tmp_path/"a.py"], {"numpy", "pillow"}) == {}
