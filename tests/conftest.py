import os
import signal
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/"tools"))


def pytest_addoption(parser): parser.addoption("--run-all", action="store_true", help="Restart & Run All of every chapter in Jupyter, too")


# Whoever is started by a shell in the background has Ctrl-C switched off, and so have his children; some tests press it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    "Decoded photographs of the tests go to a folder of their own"
    os.environ["COLORIZE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


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
