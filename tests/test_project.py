"""The house: one version, a library that is what the notebooks export, commands and imports that answer quickly."""
import json
import re
import shutil
import subprocess
import sys
import time
from configparser import ConfigParser
from pathlib import Path

import pytest

from notebooks import lessons, notebooks

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = notebooks()


def python(code): return subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def settings():
    parser = ConfigParser(delimiters=["="])
    parser.read(ROOT/"settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


def test_one_version_and_one_name(settings):
    import colorize
    from importlib.metadata import version
    pyproject = (ROOT/"pyproject.toml").read_text(encoding="utf-8")
    assert colorize.__version__ == settings["version"] == version(settings["lib_name"])
    assert f'name = "{settings["lib_name"]}"' in pyproject
    assert f'lib_path = "{settings["lib_path"]}"' in pyproject


def test_library_and_readme_are_what_the_notebooks_say():
    from check_export import drifted
    assert drifted() == []


def test_check_export_notices_a_change_by_hand(monkeypatch, tmp_path):
    import check_export
    shutil.copytree(ROOT/"nbs", tmp_path/"nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints", "runs"))
    shutil.copytree(ROOT/"colorize", tmp_path/"colorize", ignore=shutil.ignore_patterns("pretrained", "__pycache__"))
    shutil.copy(ROOT/"README.md", tmp_path)
    (tmp_path/"colorize"/"lab.py").write_text((tmp_path/"colorize"/"lab.py").read_text() + "\n# by hand\n")
    monkeypatch.setattr(check_export, "ROOT", tmp_path)
    assert check_export.drifted() == ["colorize/lab.py"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_are_stored_executed_and_clean(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o["output_type"] == "error"]
    assert all(set(cell.get("metadata", {})) <= {"tags"} for cell in notebook["cells"]), "noise in the metadata"
    if path in lessons(): assert any({"image/png", "image/jpeg"} & set(o.get("data", {})) for o in outputs), "no picture"


def test_texts_name_no_path_of_a_machine():
    for path in [*NOTEBOOKS, *(ROOT/"colorize").rglob("*.py"), ROOT/"README.md"]:
        found = re.findall(r"(?:/home|/root|/Users|/tmp)/\w+|site-packages", path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found[:3]}"


def test_import_is_quick_and_loads_nothing_heavy():
    code = "import time; t = time.perf_counter(); import colorize; print(time.perf_counter() - t)"
    assert min(float(python(code)) for _ in range(3)) < 0.3
    assert python("import colorize, sys; print(sorted({'torch', 'fastai', 'matplotlib', 'numpy'} & set(sys.modules)))").strip() == "[]"


def test_public_names_are_found_when_asked_for():
    assert python("from colorize import Colorizer, rgb_to_lab; print(Colorizer.__module__, rgb_to_lab.__module__)").split() == ["colorize.colorizer", "colorize.lab"]
    assert "matplotlib.pyplot" not in python("import sys, colorize.lab, colorize.photos; print(list(sys.modules))")
    with pytest.raises(subprocess.CalledProcessError): python("from colorize import nothing_of_this_name")


@pytest.mark.parametrize("command", ["colorize", "colorize-train"])
def test_help_answers_in_under_a_second(command):
    program = str(Path(sys.executable).with_name(command))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        text = subprocess.run([program, "--help"], text=True, capture_output=True, check=True).stdout
        times.append(time.perf_counter() - start)
    assert min(times) < 1, times
    assert "usage" in text and "--model" in text or "--epochs" in text


@pytest.mark.parametrize("python_", ["no-such-python", "too-old"])
def test_make_says_in_a_sentence_when_python_is_missing_or_too_old(tmp_path, python_):
    folder = tmp_path/"a folder"
    folder.mkdir()
    for name in ("Makefile", "settings.ini", "setup.py", "pyproject.toml"): shutil.copy(ROOT/name, folder)
    old = folder/"too-old"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.8.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    name = f"./{python_}" if python_ == "too-old" else python_
    result = subprocess.run(["make", "setup", f"PYTHON={name}"], cwd=folder, text=True, capture_output=True)
    assert result.returncode != 0
    assert "colorize needs Python 3.10 or newer" in result.stderr
    assert not (folder/".venv").exists()
