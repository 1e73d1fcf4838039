"""What notebooks store: photographs as JPEG with all of their colours, charts as they were drawn, nothing too heavy."""
import base64
import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, JpegImagePlugin

import shrink_notebooks
from shrink_notebooks import JPEG, MAX_NOTEBOOK, MAX_TOGETHER, PNG, main, smaller

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = sorted((ROOT/"data"/"photos"/"valid").glob("*.jpg"))[:3]


def png(picture, **options):
    with io.BytesIO() as file:
        picture.save(file, "PNG", **options)
        return file.getvalue()


def opened(data):
    return Image.open(io.BytesIO(base64.b64decode("".join(data))))


def grid(mode="RGB"):
    "Three photographs in a white margin, with a line of text"
    sheet = Image.new("RGB", (640, 180), "white")
    for i, path in enumerate(PHOTOS):
        sheet.paste(Image.open(path).convert("RGB").resize((190, 140)), (10 + 205*i, 30))
    ImageDraw.Draw(sheet).text((60, 8), "after 36 steps", fill="black")
    return sheet.convert("L").convert(mode) if mode == "L" else sheet.convert(mode)


def figure(draw, **options):
    "A chart, as matplotlib draws it"
    from matplotlib.figure import Figure
    made = Figure(figsize=(6, 3), dpi=75)
    draw(made.subplots(1, 2))
    with io.BytesIO() as file:
        made.savefig(file, format="png", **options)
        return file.getvalue()


def curves(axes):
    steps = np.linspace(0, 9, 200)
    for ax in axes:
        for k in range(8):
            ax.plot(steps, np.sin(steps + k) + .1*np.sin(17*steps*k), label=f"run {k}")
        ax.legend()


def plane(axes):
    "Contours over smooth colours, as in the chapter on losses"
    y, x = np.mgrid[0:1:181j, 0:1:181j]
    colours = np.stack([x, y, 1 - x*y], -1)
    for ax in axes:
        ax.imshow(colours, extent=(0, 1, 0, 1), origin="lower")
        ax.contour(x, y, np.hypot(x - .3, y - .6), 12, colors="black", linewidths=.7, alpha=.6)


def bars(axes):
    for ax in axes:
        ax.bar(range(9), range(9))


def output(data, **about):
    data = {kind: base64.b64encode(value).decode() if "image" in kind else value for kind, value in data.items()}
    return dict(output_type="display_data", data=data, metadata=about)


def as_cleaned(notebook):
    "Its text, as nbdev-clean leaves it"
    return json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def notebook(path, *outputs):
    "A notebook with a cell for each output"
    cells = [dict(cell_type="markdown", id="a1", metadata={}, source=["# Größe\n", "and words"])]
    for i, out in enumerate(outputs):
        source = [f"#| fig-alt: picture {i}\n", "show()"]
        about = dict(cell_type="code", execution_count=None, id=f"b{i}", metadata=dict(tags=["kept"]))
        cells.append(dict(about, outputs=[out], source=source))
    kernel = dict(kernelspec=dict(display_name="python3", language="python", name="python3"))
    path.write_text(as_cleaned(dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5)), encoding="utf-8")
    return path


def stored(path, place=1):
    return json.loads(path.read_text(encoding="utf-8"))["cells"][place]["outputs"][0]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_photograph_becomes_jpeg_with_all_of_its_colours(tmp_path, mode):
    path = notebook(tmp_path/"a.ipynb", output({PNG: png(grid(mode)), "text/plain": ["<Figure>"]}))
    assert main([str(path)]) == 0
    data = stored(path)["data"]
    assert [*data] == [JPEG, "text/plain"]
    picture = opened(data[JPEG])
    assert JpegImagePlugin.get_sampling(picture) == 0, "4:4:4"
    with io.BytesIO() as file:
        grid().save(file, "JPEG", quality=90, subsampling=0)
        assert picture.quantization == Image.open(file).quantization
    assert np.abs(np.asarray(picture).astype(float) - np.asarray(grid(mode).convert("RGB"))).mean() < 3


@pytest.mark.parametrize("draw", [curves, plane, bars])
def test_a_chart_keeps_every_pixel(tmp_path, draw):
    before = figure(draw)
    path = notebook(tmp_path/"a.ipynb", output({PNG: before}))
    assert main([str(path)]) == 0
    after = stored(path)["data"]
    assert [*after] == [PNG] and len(base64.b64decode(after[PNG])) < len(before)
    pixels = [np.asarray(picture.convert("RGBA")) for picture in (opened(after[PNG]), Image.open(io.BytesIO(before)))]
    assert np.array_equal(*pixels)


@pytest.mark.parametrize("size", [(1, 1), (9, 40), (10, 10), (64, 300)])
@pytest.mark.parametrize("colours", [2, 256, 257])
def test_few_colours_get_a_palette_and_no_colour_changes(size, colours):
    rng = np.random.default_rng(0)
    palette = np.unique(rng.integers(0, 2**24, 2*colours))[:colours]
    numbers = palette[rng.integers(0, colours, size)]
    pixels = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], -1).astype(np.uint8)
    kind, data = smaller(png(Image.fromarray(pixels)))
    assert kind == PNG and np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), pixels)


def test_what_is_transparent_stays_so():
    photo = grid("RGBA")
    photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    kind, data = smaller(png(photo))
    assert kind == PNG and np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")), np.asarray(photo))


def test_more_than_8_bits_are_left_alone():
    deep = Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (200, 200)).astype(np.uint16))
    assert smaller(png(deep)) == (PNG, png(deep))


def test_the_profile_stays_with_the_picture():
    from PIL import ImageCms
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for picture, expected in ((grid(), JPEG), (Image.new("RGB", (300, 200), "white"), PNG)):
        kind, data = smaller(png(picture, icc_profile=profile))
        assert kind == expected and Image.open(io.BytesIO(data)).info["icc_profile"] == profile


def test_where_pillow_gave_both_one_is_left(tmp_path):
    coarse = io.BytesIO()
    grid().save(coarse, "JPEG")
    about = {JPEG: dict(width=7)}
    both = [output({PNG: data, JPEG: coarse.getvalue()}, **about) for data in (png(grid()), figure(bars))]
    path = notebook(tmp_path/"a.ipynb", *both)
    assert main([str(path)]) == 0
    photo, chart = stored(path, 1), stored(path, 2)
    assert [*photo["data"]] == [JPEG] and JpegImagePlugin.get_sampling(opened(photo["data"][JPEG])) == 0
    assert [*chart["data"]] == [PNG] and chart["metadata"] == {} and photo["metadata"] == {JPEG: dict(width=7)}


def test_nothing_else_in_the_notebook_changes(tmp_path):
    about = {PNG: dict(alt="Drei Photos, größer", width=320, height=90), "needs_background": "light"}
    lines = output({PNG: png(grid())}, **about)
    lines["data"][PNG] = [lines["data"][PNG][i:i + 76] + "\n" for i in range(0, len(lines["data"][PNG]), 76)]
    path = notebook(tmp_path/"a.ipynb", lines, output({"text/html": ["<b>ü</b>"]}), output({PNG: figure(curves)}))
    before = json.loads(path.read_text(encoding="utf-8"))
    assert main([str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    after = json.loads(text)
    assert text == as_cleaned(after)
    assert after["cells"][1]["outputs"][0]["metadata"] == {JPEG: about[PNG], "needs_background": "light"}
    for one in (before, after):
        for cell in one["cells"][1::2]:
            cell["outputs"] = "pictures"
    assert before == after


def test_a_second_run_changes_nothing(tmp_path, capsys):
    outputs = [output({PNG: data}) for data in (png(grid()), figure(curves), figure(plane), figure(bars))]
    path = notebook(tmp_path/"a.ipynb", *outputs)
    assert main([str(tmp_path)]) == 0 and "→" in capsys.readouterr().out
    once, when = path.read_bytes(), path.stat().st_mtime_ns
    assert main([str(tmp_path)]) == 0 and capsys.readouterr().out == ""
    assert path.read_bytes() == once and path.stat().st_mtime_ns == when
    assert main(["--check", str(tmp_path)]) == 0 and capsys.readouterr().out == ""


def test_notebooks_of_folders_within_are_found_but_not_those_of_jupyterlab(tmp_path):
    for name in ("library/deep/a.ipynb", ".ipynb_checkpoints/a-checkpoint.ipynb"):
        (tmp_path/name).parent.mkdir(parents=True)
        notebook(tmp_path/name, output({PNG: png(grid())}))
    assert main([str(tmp_path)]) == 0
    assert JPEG in stored(tmp_path/"library/deep/a.ipynb")["data"]
    assert PNG in stored(tmp_path/".ipynb_checkpoints/a-checkpoint.ipynb")["data"]


def test_check_says_what_is_wrong_and_changes_nothing(tmp_path, capsys, monkeypatch):
    coarse = io.BytesIO()
    grid().save(coarse, "JPEG", quality=90, subsampling="4:2:0")
    three = [output({PNG: data}) for data in (png(grid()), figure(bars), png(grid("L")))]
    paths = [notebook(tmp_path/"a.ipynb", *three),
             notebook(tmp_path/"b.ipynb", output({JPEG: coarse.getvalue()})),
             notebook(tmp_path/"c.ipynb", output({"text/plain": ["x"*MAX_NOTEBOOK]})),
             notebook(tmp_path/"d.ipynb", output({PNG: figure(bars)}))]
    before = [path.read_bytes() for path in paths]
    assert main(["--check", str(tmp_path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{paths[0]}: a photograph is stored as PNG (cell 1, 3)",
                    f"{paths[1]}: a JPEG with half of its colours' resolution; run the cell again (cell 1)",
                    f"{paths[2]}: 1.50 MB, and 1.50 MB are allowed"]
    monkeypatch.setattr(shrink_notebooks, "MAX_TOGETHER", 10**6)
    assert main(["--check", str(paths[2])]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "the notebooks together: 1.50 MB, and 1.00 MB are allowed"
    assert [path.read_bytes() for path in paths] == before


NO_PICTURE = "cell 0: the picture can't be read"
BROKEN = {"half a file": ('{"cells": [', "not readable as JSON"),
          "no notebook": ("[1, 2]", "JSON, but not a notebook"),
          "odd cells": ('{"cells": [1]}', "JSON, but not a notebook"),
          "odd outputs": ('{"cells": [{"outputs": [3]}]}', "JSON, but not a notebook"),
          "no base64": ('{"cells": [{"outputs": [{"data": {"image/png": "?"}}]}]}', NO_PICTURE),
          "no picture": ('{"cells": [{"outputs": [{"data": {"image/png": "QUJD"}}]}]}', NO_PICTURE),
          "a number": ('{"cells": [{"outputs": [{"data": {"image/png": 3}}]}]}', NO_PICTURE),
          "not there": (None, "could not be read")}


@pytest.mark.parametrize("check", [[], ["--check"]], ids=["shrink", "check"])
@pytest.mark.parametrize("text, words", BROKEN.values(), ids=BROKEN)
def test_a_broken_notebook_is_named_in_a_sentence_and_nothing_is_written(tmp_path, capsys, text, words, check):
    good, bad = notebook(tmp_path/"a.ipynb", output({PNG: png(grid())})), tmp_path/"b.ipynb"
    if text:
        bad.write_text(text)
    before = good.read_bytes()
    assert main([*check, str(good), str(bad)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and str(bad) in said.err and words in said.err
    assert good.read_bytes() == before and not [*tmp_path.glob("*.partial")]


def test_a_picture_cut_short_is_refused(tmp_path, capsys):
    path = notebook(tmp_path/"a.ipynb", output({PNG: png(grid())[:5000]}))
    assert main([str(path)]) == 2 and "cell 1: the picture can't be read" in capsys.readouterr().err


def test_nothing_half_written_where_the_disk_is_full(tmp_path, capsys, monkeypatch):
    path = notebook(tmp_path/"a.ipynb", output({PNG: png(grid())}))
    before = path.read_bytes()

    def full(old, new):
        raise OSError(28, "No space left on device", str(new))

    monkeypatch.setattr(shrink_notebooks.os, "replace", full)
    assert main([str(path)]) == 2 and "could not be written (No space left on device)" in capsys.readouterr().err
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


# The notebooks of the course, and all that git keeps

def test_stored_notebooks_are_light_and_their_photographs_are_jpeg(capsys):
    assert (MAX_NOTEBOOK, MAX_TOGETHER) == (1_500_000, 16_000_000)
    assert main(["--check"]) == 0, capsys.readouterr().out + "run `make shrink`"


def test_all_tracked_files_together_are_light():
    if not shutil.which("git"):
        pytest.skip("no git")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a checkout")
    files = [ROOT/name for name in listed.stdout.decode().split("\0") if name]
    sizes = {path: path.stat().st_size for path in files if path.is_file()}
    together = sum(sizes.values())
    heaviest = [f"{path.relative_to(ROOT)}: {sizes[path]/1e6:.1f} MB" for path in sorted(sizes, key=sizes.get)[-5:]]
    assert together <= 50_000_000, heaviest
