"""The widgets in a real browser: Voilà on loopback, chromium, and no other host."""
import io
import os
import re
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from browser import CHROMIUM, ROOT, chromium, opened, pixels, press, readout, slider, voila, wait_until, write_notebook

pytestmark = pytest.mark.skipif(CHROMIUM is None and not os.environ.get("CI"), reason="no chromium on this machine; .ci/run installs it")


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser: yield browser


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    "A grey photograph, as a file"
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(40, 220, (12, 18), dtype=np.uint8))
    file = tmp_path_factory.mktemp("photos")/"grey photo.png"
    small.resize((700, 480), Image.Resampling.BICUBIC).save(file)
    return file


@pytest.fixture(scope="module")
def app(browser, model, tmp_path_factory):
    "The app with a model, opened"
    with voila(ROOT/"nbs"/"app.ipynb", tmp_path_factory.mktemp("voila")/"app.log", COLORIZE_MODEL=str(model)) as address, opened(browser, address) as page:
        page.wait_for_selector("img.widget-image")
        yield page
        assert page.strangers == []


def message(page): return page.locator("[role=alert], [role=status]")
def upload(page, *files):
    with page.expect_file_chooser() as chooser: page.locator("button.widget-upload").click()
    chooser.value.set_files(files)
def named(page, name): wait_until(lambda: name in page.locator(".widget-html", has_text=" px").first.inner_text())
def reset(page):
    "Press Reset, and wait until the sliders have moved"
    page.get_by_role("button", name="Reset").click()
    wait_until(lambda: readout(page, "Divider") == "50" and readout(page, "Hue") == "0")
    still(page)
def still(page):
    "Wait until the picture no longer changes"
    seen = [None, pixels(page)]
    while seen[0] is None or not np.array_equal(*seen): time.sleep(.7); seen = [seen[1], pixels(page)]
def alike(a, b): return a.shape == b.shape and np.abs(a.astype(int) - b).max() <= 2


@pytest.fixture
def in_python(grey, model):
    "The explorer of the same photograph and model, without a browser"
    from colorize.colorizer import Colorizer
    from colorize.widgets import mood_explorer
    return mood_explorer(grey, Colorizer.from_pretrained(model, "cpu"))


def test_a_photograph_its_colours_the_hue_by_keyboard_and_back(app, grey, in_python):
    upload(app, grey)
    named(app, "grey photo.png: 700 × 480 px")
    press(app, "Divider", "Home")
    plain = np.array(in_python.picture)
    assert np.ptp(plain, axis=2).max() > 20, "the model of this test gives no colours"
    wait_until(lambda: alike(pixels(app), plain))
    press(app, "Hue", "ArrowRight", 40)
    in_python.sliders["hue"].value = 40
    turned = np.array(in_python.picture)
    assert not alike(turned, plain)
    wait_until(lambda: alike(pixels(app), turned))
    press(app, "Warmth", "ArrowLeft", 10)
    in_python.sliders["warmth"].value = -.5
    wait_until(lambda: alike(pixels(app), np.array(in_python.picture)))
    reset(app)
    press(app, "Divider", "Home")
    wait_until(lambda: alike(pixels(app), plain))


def test_the_divider_shows_grey_on_its_left(app, grey):
    upload(app, grey)
    named(app, "grey photo.png: 700 × 480 px")
    reset(app)
    press(app, "Divider", "Home")
    press(app, "Divider", "ArrowRight", 30)
    def grey_columns():
        shown = pixels(app)
        return (np.ptp(shown, axis=2).max(0) <= 2).sum()/shown.shape[1]
    wait_until(lambda: abs(grey_columns() - .3) < .02)


def test_the_download_has_the_full_size(app, grey, in_python, tmp_path):
    large = tmp_path/"large.jpg"
    Image.open(grey).resize((2100, 1440)).save(large)
    upload(app, large)
    named(app, "large.jpg: 2100 × 1440 px")
    reset(app)
    plain = pixels(app)
    press(app, "Hue", "ArrowRight", 20)
    wait_until(lambda: not alike(pixels(app), plain))
    still(app)
    app.get_by_role("button", name="Make full size").click()
    with app.expect_download() as download: app.get_by_role("link", name="Save large-color.jpg").click()
    assert download.value.suggested_filename == "large-color.jpg"
    saved = Image.open(download.value.path())
    assert (saved.size, saved.format) == ((2100, 1440), "JPEG")
    expected = in_python.colorizer(large, hue=20)
    assert np.abs(np.array(saved).astype(int) - np.array(expected)).mean() < 2
    press(app, "Hue", "ArrowRight")
    wait_until(lambda: app.get_by_role("link", name="Save").count() == 0)


def test_several_photographs_dropped_onto_the_page_come_back_in_one_file(app, grey, tmp_path):
    import base64
    data = base64.b64encode(grey.read_bytes()).decode()
    app.evaluate("""data => {
        const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0)), transfer = new DataTransfer();
        for (const name of ["one.png", "two.png"]) transfer.items.add(new File([bytes], name, {type: "image/png"}));
        document.querySelector("#rendered_cells").dispatchEvent(new DragEvent("drop", {bubbles: true, cancelable: true, dataTransfer: transfer}));
    }""", data)
    named(app, "one.png: 700 × 480 px")
    app.get_by_role("button", name="Make all").click()
    with app.expect_download(timeout=120000) as download: app.get_by_role("link", name="Save colorized.zip").click(timeout=120000)
    with zipfile.ZipFile(download.value.path()) as files:
        assert files.namelist()[-2:] == ["one-color.png", "two-color.png"]
        assert len(files.namelist()) <= 5, "the samples are not what was asked for"
        assert Image.open(io.BytesIO(files.read("two-color.png"))).size == (700, 480)


def test_what_is_wrong_with_a_file_stands_in_the_page(app, tmp_path):
    (tmp_path/"no<b>picture.jpg").write_bytes(b"hello")
    upload(app, tmp_path/"no<b>picture.jpg")
    wait_until(lambda: "no<b>picture.jpg" in message(app).inner_text() and message(app).get_attribute("role") == "alert")
    Image.new("L", (8000, 6250), 90).save(tmp_path/"huge.png")
    upload(app, tmp_path/"huge.png")
    wait_until(lambda: "huge.png: 50 megapixels, and this page takes up to 40" in message(app).inner_text())


def test_more_than_ten_megabytes_come_through(app, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (2000, 2200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path/"noise.png")
    assert (tmp_path/"noise.png").stat().st_size > 12e6
    upload(app, tmp_path/"noise.png")
    named(app, "noise.png: 2200 × 2000 px")


def check_sliders(page, number):
    sliders = page.locator(".widget-slider:visible")
    assert sliders.count() == number
    for i in range(number):
        one = sliders.nth(i)
        label = one.locator(".widget-label")
        assert label.inner_text().strip() and label.evaluate("e => e.scrollWidth <= e.clientWidth"), f"{label.inner_text()}: cut off"
        titles = [one.get_attribute("title"), label.get_attribute("title"), one.locator(".noUi-target").get_attribute("title")]
        assert any(t and len(t) > 20 for t in titles), label.inner_text()
        assert one.locator(".noUi-handle").get_attribute("tabindex") == "0"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_every_slider_has_a_name_a_tooltip_and_a_place_in_the_tab_order_and_the_page_fits(app): check_sliders(app, 6)


def test_a_missing_model_is_told_and_can_be_named(browser, model, tmp_path):
    none = tmp_path/"none"
    with voila(ROOT/"nbs"/"app.ipynb", tmp_path/"log", COLORIZE_MODEL=str(none), HF_HUB_OFFLINE="1") as address, opened(browser, address) as page:
        page.wait_for_selector("[role=alert]")
        assert "none" in message(page).inner_text()
        field = page.locator("input[type=text]:visible")
        field.fill(str(tmp_path/"wrong")); field.press("Enter")
        wait_until(lambda: "there is no such folder" in message(page).inner_text())
        field.fill(str(model)); field.press("Enter")
        press(page, "Divider", "Home")
        wait_until(lambda: np.ptp(pixels(page), axis=2).max() > 20)
        wait_until(lambda: message(page).count() == 0)
        assert page.strangers == []


TRAINING = """
from colorize.batches import photo_dls
from colorize.pretraining import pretrain
learn = pretrain(photo_dls(size=32, bs=16), {run!r}, epochs=2000, arch="colorize_net", preview_every=20, progress=False)
print("finished", learn.checkpoint.finished, "steps", learn.train_iter)
"""


@pytest.fixture(scope="module")
def page_of_three(browser, tmp_path_factory):
    "Loss explorer, colour picker and training monitor on one page; gives the page and the run's folder"
    folder = tmp_path_factory.mktemp("three")
    notebook = write_notebook(folder/"three.ipynb", "from colorize.widgets import *\nloss_explorer()", "ab_picker()", "gamut_view()", f"training_monitor({str(folder/'run')!r}, seconds=.5)")
    with voila(notebook, folder/"log") as address, opened(browser, address, height=1600) as page:
        page.wait_for_selector("text=waiting for it")
        yield page, folder/"run"
        assert page.strangers == []


def test_so_it_is_on_the_other_widgets(page_of_three): check_sliders(page_of_three[0], 6 + 3 + 2 + 1)


def test_the_loss_slider_moves_the_marked_minimum(page_of_three):
    page, _ = page_of_three
    words = page.locator("text=/^The minimum: a/")
    assert "a = 56, b = 40" in words.inner_text()
    before = pixels(page, 0)
    press(page, "L1", "Home")
    press(page, "L2", "End")
    wait_until(lambda: "a = 22, b = 20" in words.inner_text())
    assert not np.array_equal(before, pixels(page, 0))
    press(page, "Adversarial", "End")
    wait_until(lambda: "a = 56, b = 40" not in words.inner_text() and "a = 22, b = 20" not in words.inner_text())


def test_a_click_in_the_plane_picks_the_colour(page_of_three):
    page, _ = page_of_three
    plane = page.locator("button[title='a = -45, b = 25']")
    plane.click()
    wait_until(lambda: page.locator("text=L 60, a -45, b 25").count() == 1)
    press(page, "a: green to red", "ArrowRight", 5)
    wait_until(lambda: page.locator("text=L 60, a -40, b 25").count() == 1)


def test_the_monitor_shows_a_running_training_and_stops_it(page_of_three):
    page, run = page_of_three
    training = subprocess.Popen([sys.executable, "-c", TRAINING.format(run=str(run))], env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True)
    try:
        def steps():
            found = re.search(r"Running: ([\d,]+) steps", page.locator("body").inner_text())
            return found and int(found[1].replace(",", ""))
        first = wait_until(steps, 90)
        wait_until(lambda: (steps() or 0) > first + 10, 60)
        wait_until(lambda: slider(page, "Preview").count() == 1 and pixels(page, 6).shape[0] > 30, 30)
        page.get_by_role("button", name="Stop the training").click()
        assert training.wait(60) == 0
        assert "finished False" in training.stdout.read()
        wait_until(lambda: re.search(r"Stopped after [\d,]+ steps\. It can be resumed", page.locator("body").inner_text()))
        assert (run/"checkpoint.pt").exists() and not (run/"stop").exists()
    finally: training.kill()
