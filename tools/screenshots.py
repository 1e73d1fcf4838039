"""The pictures of chapter 13: its widgets as a real browser shows them, into nbs/images/13_*.png.

    python tools/screenshots.py [--app]

The explorer shows a photograph's own colours; the app works with the model of the package.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from browser import ROOT, chromium, opened, press, voila, wait_until, write_notebook

TRAINING = """
import torch
from colorize.adversarial import train_gan
from colorize.batches import photo_dls
from colorize.generators import create_generator
torch.manual_seed(42)
train_gan(photo_dls(size=64, bs=16), {run!r}, net=create_generator("colorize_net"), epochs=500, lr=1e-2, d_lr=5e-5, l1_weight=100, choose_every=0, preview_every=25, progress=False)
"""
CELLS = ["""from colorize.pictures.folders import sample_photos
from colorize.widgets import *
explorer = mood_explorer(sample_photos("valid")[4:5], OwnColours())
explorer.sliders["hue"].value, explorer.sliders["warmth"].value = 100, .3
explorer""", "losses = loss_explorer()\nlosses.sliders['l1'].value, losses.sliders['l2'].value, losses.sliders['adversarial'].value = 0, 1, .02\nlosses", "ab_picker()",
         "gamut_view(70, 100)", "training_monitor({run!r}, seconds=1)"]
NAMES = ["mood_explorer", "loss_explorer", "ab_picker", "gamut_view", "monitor"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--app", action="store_true", help="make the picture of the app alone")
    app_alone, images = parser.parse_args().app, ROOT/"nbs"/"images"
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        folder = Path(folder)
        with voila(ROOT/"nbs"/"app.ipynb", folder/"app.log") as address, opened(browser, address, 1180, 660) as page:
            page.wait_for_selector("img.widget-image")
            wait_until(lambda: page.locator("[role=status]").count() == 0)
            page.locator("select").select_option(label="city-taj-mahal.jpg")
            press(page, "Saturation", "ArrowRight", 2)
            time.sleep(3)
            page.screenshot(path=images/"13_app.png")
        if app_alone: return
        run = folder/"run"
        training = subprocess.Popen([sys.executable, "-c", TRAINING.format(run=str(run))], env={**os.environ, "OMP_NUM_THREADS": "1"})
        notebook = write_notebook(folder/"widgets.ipynb", *[cell.replace("{run!r}", repr(str(run))) for cell in CELLS])
        try:
            with voila(notebook, folder/"log") as address, opened(browser, address, 1180, 3000) as page:
                page.wait_for_selector("text=/Running: [3-9][0-9]{2}|Running: [0-9],/", timeout=180000)
                page.locator("button[title='a = 25, b = 35']").click()
                time.sleep(2)
                for place, name in enumerate(NAMES): page.locator(".jp-OutputArea-output").nth(place).screenshot(path=images/f"13_{name}.png")
        finally: training.kill()


if __name__ == "__main__": main()
