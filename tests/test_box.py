"The model that comes with the package: there, small, working without a network, and as good as its card says"
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from colorize.box import contact_sheet, gallery_photos
from colorize.colorizer import PRETRAINED, Colorizer
from colorize.metrics import evaluate
from colorize.models.store import load_generator, save_generator
from colorize.pictures.folders import sample_photos
from colorize.pictures.read import open_photo
from colorize.recipe import read_recipe

ROOT = Path(__file__).resolve().parent.parent
CARD = (ROOT/"MODEL_CARD.md").read_text(encoding="utf-8")
OFFLINE = dict(os.environ, HF_HUB_OFFLINE="1", http_proxy="http://127.0.0.1:9", https_proxy="http://127.0.0.1:9")


def test_it_is_small_and_made_by_the_recipe():
    config = json.loads((PRETRAINED/"config.json").read_text())
    assert (PRETRAINED/"model.safetensors").stat().st_size < 95e6
    assert config["arch"] == read_recipe(ROOT/"recipes"/"box.yaml")["arch"]
    assert config["training"]["photos"] == 9721


def test_an_old_photograph_gets_colours_at_once(tmp_path):
    open_photo(sample_photos("valid")[0]).convert("L").save(tmp_path/"old.jpg")
    done = subprocess.run([Path(sys.executable).with_name("colorize"), "old.jpg"], cwd=tmp_path, env=OFFLINE, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path/"old.jpg") as old, Image.open(tmp_path/"old-color.jpg") as new:
        assert new.size == old.size and new.mode == "RGB"
        r, g, b = np.asarray(new).astype(float).transpose(2, 0, 1)
    assert abs(r - g).mean() + abs(g - b).mean() > 8, "there is hardly any colour in it"


@pytest.fixture(scope="module")
def measured(): return evaluate(sample_photos("valid"), Colorizer.from_pretrained(device="cpu"), progress=False)


def test_the_numbers_on_the_sample_photographs_are_those_of_the_card(measured):
    means = measured.scores["model"].mean()
    row = dict(re.findall(r"^\| sample photographs, (ΔE2000|PSNR) \| ([\d.]+)", CARD, flags=re.M))
    assert means.delta_e2000 == pytest.approx(float(row["ΔE2000"]), abs=.08)
    assert means.psnr == pytest.approx(float(row["PSNR"]), abs=.08)


def test_it_is_nearer_to_the_truth_than_grey(measured):
    better = measured.scores["grey"].delta_e2000 - measured.scores["model"].delta_e2000
    assert better.mean() > 2*better.std()/len(better)**.5


def test_with_8_bits_it_is_half_as_large_and_as_good(measured, tmp_path):
    net, config = load_generator(PRETRAINED)
    save_generator(tmp_path/"8", net, config, bits=8)
    assert (tmp_path/"8"/"model.safetensors").stat().st_size < 7.6e6
    light = evaluate(sample_photos("valid"), Colorizer.from_pretrained(tmp_path/"8", "cpu"), progress=False)
    assert abs(light.scores["model"].delta_e2000.mean() - measured.scores["model"].delta_e2000.mean()) < .02


def test_the_card_says_what_was_measured_on_the_validation_photographs():
    scores = pd.read_csv(ROOT/"data"/"runs"/"box"/"valid.csv")
    for name, digits in (("delta_e2000", 2), ("psnr", 2), ("ab_mae", 2), ("chroma_ratio", 2)):
        assert f"{scores[f'model_{name}'].mean():.{digits}f}" in CARD, name
        assert len(scores) == 498


def test_the_gallery_is_chosen_by_name_and_unseen():
    chosen = gallery_photos()
    assert len(chosen) == 12 and chosen == sorted(chosen) and not set(chosen) & set(sample_photos("train"))
    with Image.open(ROOT/"nbs"/"images"/"gallery.jpg") as page: assert page.width > 1000


def test_precise_and_fast_colours_are_the_same_to_the_eye():
    photo = open_photo(gallery_photos()[0])
    fast, precise = (Colorizer.from_pretrained(device="cpu", precise=p).predict_ab(photo) for p in (False, True))
    assert (fast - precise).norm(dim=0).mean() < 1.


def test_a_page_needs_pictures():
    with pytest.raises(ValueError, match="no pictures"): contact_sheet([])
