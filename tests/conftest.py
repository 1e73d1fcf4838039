import os
import signal
import sys
from pathlib import Path

import nursery
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/"tools"))


def pytest_addoption(parser): parser.addoption("--long", action="store_true", help="the long forms too, which are marked so: about an hour more on one core")


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes minutes, and is run with --long only")
    nursery.everything_real |= config.getoption("--long")


# With two workers a file goes to the one that is free; so both end together if the longest come first.
LONGEST_FIRST = ["experiments", "scale", "cli", "crashes", "engines", "packaging", "docs", "browser", "folders", "widgets", "box"]


def place(item):
    name = item.path.stem.removeprefix("test_")
    return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)


def pytest_collection_modifyitems(config, items):
    items.sort(key=place)
    if config.getoption("--long"): return
    for item in items:
        if item.get_closest_marker("long"): item.add_marker(pytest.mark.skip(reason="takes minutes; with --long"))


# Whoever is started by a shell in the background has Ctrl-C switched off, and so have his children; some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    "Decoded photographs of the tests go to a folder of their own"
    os.environ["COLORIZE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="session")
def nursery_ends():
    yield
    nursery.close_server()


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    "The folder of a model with random weights"
    import torch
    from colorize.colorizer import Colorizer
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    Colorizer(size=64).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    "A folder with a few small grey photographs of different sizes"
    import numpy as np
    from PIL import Image
    folder = tmp_path/"box with a space"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, (w, h) in {"a.jpg": (90, 60), "b.png": (40, 70), "c.webp": (64, 64)}.items():
        Image.fromarray(rng.integers(0, 255, (h, w), dtype=np.uint8)).resize((w, h)).save(folder/name)
    return folder
