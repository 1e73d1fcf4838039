"""What the widgets compute and say, without a browser; the browser's part is in test_browser.py."""
import base64
import html
import io
import os
import re
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import lab2rgb

from colorize import widgets
from colorize.lab import lab_to_rgb, to_gamut
from colorize.losses import GANLoss, expected_loss, ideal_judge
from colorize.mood import Mood
from colorize.runs.stop import stop_run
from colorize.widgets import OwnColours, ab_picker, gamut_view, loss_explorer, mood_explorer, run_state, training_monitor


def said(panel): return re.sub("<[^>]*>", "", panel.message.value)


def linked(explorer):
    "The file in the link"
    name, data = re.search(r'download="([^"]*)" href="data:[^,]*;base64,([^"]*)"', explorer.link.value).groups()
    return name, base64.b64decode(data)


class Counted(OwnColours):
    "Counts how often it is asked"
    def __init__(self): self.asked = []
    def predict_ab(self, photo, size=None): self.asked.append(size); return super().predict_ab(photo, size)


@pytest.fixture
def photo():
    rng = np.random.default_rng(2)
    return Image.fromarray(rng.integers(30, 220, (12, 16, 3), dtype=np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)


@pytest.fixture
def uploaded(photo):
    "The bytes of a PNG"
    with io.BytesIO() as file: photo.save(file, "PNG"); return file.getvalue()


def give(explorer, **files): explorer._uploaded({"new": [{"name": name.replace("_", "."), "content": memoryview(data)} for name, data in files.items()]})


# the mood explorer

def test_the_network_is_asked_once_a_photograph_and_once_a_size(photo):
    network = Counted()
    explorer = mood_explorer([photo, photo.rotate(180)], network)
    for name, value in dict(hue=50, warmth=.5, saturation=2, vibrance=1).items(): explorer.sliders[name].value = value
    explorer.divider.value = 10
    explorer.reset.click()
    assert network.asked == [256]
    explorer.size.value = 128
    explorer.chosen.value = explorer.chosen.options[1]
    assert network.asked == [256, 128, 128]
    explorer.reset.click()
    assert network.asked == [256, 128, 128, 256]


def test_the_picture_is_what_the_mood_says(photo):
    explorer = mood_explorer(photo, OwnColours())
    assert (np.array(explorer.picture) == np.array(widgets.to_picture(lab_to_rgb(to_gamut(explorer.lab))))).all()
    for name, value in dict(hue=-70, warmth=-.4, saturation=1.5, vibrance=.5).items(): explorer.sliders[name].value = value
    mood = Mood(hue=-70, warmth=-.4, saturation=1.5, vibrance=.5)
    assert explorer.mood == mood
    assert (np.array(explorer.picture) == np.array(widgets.to_picture(lab_to_rgb(mood(explorer.lab))))).all()
    shown = np.array(Image.open(io.BytesIO(explorer.image.value)))
    assert (shown[:, 300:] == np.array(explorer.picture)[:, 300:]).all()
    assert (np.ptp(shown[:, :250], axis=2) <= 2).all()


def test_the_full_size_is_what_the_colorizer_makes_and_keeps_transparency(model, photo):
    from colorize.colorizer import Colorizer
    colorizer = Colorizer.from_pretrained(model, "cpu")
    see_through = photo.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(photo.size))
    with io.BytesIO() as file: see_through.save(file, "PNG"); data = file.getvalue()
    explorer = mood_explorer(photo, colorizer)
    give(explorer, a_png=data)
    explorer.sliders["hue"].value = 33
    explorer.full.click()
    name, made = linked(explorer)
    expected = colorizer(data, hue=33)
    assert name == "a-color.png" and expected.mode == "RGBA"
    assert (np.array(Image.open(io.BytesIO(made))) == np.array(expected)).all()
    explorer.sliders["hue"].value = 34
    assert explorer.link.value == "", "a link to a picture that is no longer the one shown"


def test_all_in_one_file_with_the_broken_one_named(uploaded, monkeypatch):
    explorer = mood_explorer(None, OwnColours())
    samples = len(explorer.sources)
    give(explorer, a_png=uploaded, a_tif=uploaded, broken_png=uploaded[:1000])
    assert samples > 5 and list(explorer.sources) == ["a.png", "a.tif", "broken.png"]
    explorer.every.click()
    name, data = linked(explorer)
    with zipfile.ZipFile(io.BytesIO(data)) as files:
        assert files.namelist() == ["a-color.png", "a.tif-color.png"]
        assert all(Image.open(io.BytesIO(files.read(f))).size == (640, 480) for f in files.namelist())
    assert said(explorer).startswith("broken.png: ") and 'role="alert"' in explorer.message.value


@pytest.mark.parametrize("data,words", [(b"hello", "evil<i>.png: "), (b"", "evil<i>.png: ")])
def test_a_file_that_is_no_picture_is_named_and_escaped_and_the_next_one_works(uploaded, data, words):
    explorer = mood_explorer(None, OwnColours())
    explorer._uploaded({"new": [{"name": "evil<i>.png", "content": data}]})
    assert "evil&lt;i&gt;.png: " in explorer.message.value and "<i>" not in explorer.message.value
    assert explorer.image.value == b"" and explorer.lab is None
    explorer.size.value, explorer.sliders["hue"].value = 128, 20
    assert explorer.image.value == b"", "the photograph before it, under the name of the broken one"
    explorer.full.click()
    assert "there is no coloured photograph yet" in said(explorer)
    explorer.every.click()
    assert explorer.link.value == "" and "evil<i>.png: " in html.unescape(said(explorer))
    give(explorer, good_png=uploaded)
    assert explorer.message.value == "" and explorer.chosen.value == "good.png"


def test_too_large_is_refused_before_it_is_unpacked(photo, monkeypatch):
    monkeypatch.setattr(widgets, "open_photo", lambda *args, **kwargs: pytest.fail("unpacked"))
    with io.BytesIO() as file: Image.new("L", (8000, 6250)).save(file, "PNG"); data = file.getvalue()
    explorer = mood_explorer([data], OwnColours())
    assert "50 megapixels, and this page takes up to 40; the command colorize takes larger ones" in said(explorer)


def test_without_a_model_the_page_says_so_and_takes_a_folder(photo, model, tmp_path, monkeypatch):
    monkeypatch.setattr("colorize.colorizer.PRETRAINED", tmp_path/"nothing")
    monkeypatch.delenv("COLORIZE_MODEL", raising=False)
    explorer = mood_explorer(photo)
    assert "there is no trained model" in said(explorer) and explorer.model.layout.display is None
    explorer.model.value = str(tmp_path/"wrong")
    assert "there is no such folder" in said(explorer)
    explorer.model.value = str(model)
    assert explorer.message.value == "" and explorer.model.layout.display == "none" and explorer.size.value == 64


def test_an_unexpected_error_is_told_too(photo):
    class Breaks(OwnColours):
        def predict_ab(self, photo, size=None): raise KeyError("inside")
    assert "unexpected: KeyError" in said(mood_explorer(photo, Breaks()))


# the plane of colours

def test_the_plane_shows_the_colours_that_scikit_image_has_there():
    plane = np.array(widgets.plane_picture(60)).astype(float)
    for a, b in [(0, 0), (20, 30), (-30, 40), (10, -40), (50, 10)]:
        x, y = widgets._place(a, b)
        assert np.abs(plane[int(y), int(x)]/255 - lab2rgb([[[60., a, b]]])[0, 0]).max() < .02, (a, b)
    x, y = widgets._place(-90, -90)
    assert plane[int(y), int(x)].min() > 225, "outside sRGB there is no colour to show"


def test_most_chroma_is_where_scikit_image_leaves_srgb():
    def inside(L, turn, c):
        lab = np.array([[[L, c*np.cos(np.radians(turn)), c*np.sin(np.radians(turn))]]])
        from skimage.color import rgb2lab
        return np.abs(rgb2lab(lab2rgb(lab)) - lab).max() < .5
    for L, turn in [(50, 40), (80, 100), (30, 300), (60, 200)]:
        most = widgets.most_chroma(L, turn)
        assert inside(L, turn, most - 1) and not inside(L, turn, most + 3)


def test_the_picker_follows_clicks_and_sliders():
    picker = ab_picker(50, 0, 0)
    seen = picker.plane.value
    picker.cells[-25, 65].click()
    assert picker.lab == (50, -25, 65) and picker.plane.value != seen and "a -25, b 65" in picker.patch.value
    picker.L.value = 95
    assert "sRGB has no such colour" not in ab_picker(60, 20, 30).patch.value
    assert "sRGB has no such colour at this lightness" in ab_picker(95, 60, -60).patch.value
    assert len(picker.cells) == 484 and not any(button.tabbable for button in picker.cells.values())


def test_the_gamut_view_counts_what_srgb_has():
    view = gamut_view(60, 40)
    assert f"chroma of {widgets.most_chroma(60, 40):.0f} in the hue 40°" in view.words.value
    view.L.value = 0
    assert "chroma of 0" in view.words.value and "covers 0%" in view.words.value


# the loss explorer

@pytest.fixture(scope="module")
def losses(): return loss_explorer()


def weigh(explorer, first=.6, **weights):
    explorer.first.value = first
    for name, slider in explorer.sliders.items(): slider.value = weights.get(name, 0)
    return explorer.minimum()


def test_the_surface_is_the_weighted_sum_of_the_losses_of_chapter_4(losses):
    weigh(losses, .7, l1=.8, l2=1.5, adversarial=.05, colourfulness=.4)
    judge = ideal_judge(losses.colours, [.7, .3])
    def one(pred, ab):
        fooled = GANLoss().generator(judge(pred))
        return .8*(pred - ab).abs().mean() + 1.5*(pred - ab).square().mean() + .05*fooled + .4*(1 - (110*pred.norm()).clamp(max=110)/110)
    expected = expected_loss(one, losses.colours, [.7, .3], losses.grid)
    assert torch.allclose(losses.surface(), expected, atol=1e-4)


def test_where_the_minimum_lies(losses):
    red, green = losses.colours.tolist()
    assert weigh(losses, l1=1) == tuple(red)
    a, b = weigh(losses, .5, l2=1)
    assert abs(a - 14) <= 1 and abs(b - 16) <= 1
    assert np.hypot(*np.subtract(weigh(losses, .3, l2=.2, adversarial=.2), green)) < 8
    assert np.hypot(*weigh(losses, l1=.2, colourfulness=1)) > 100
    weigh(losses, l2=1); before = losses.words.value, losses.chart.value
    weigh(losses, l2=1, adversarial=.2)
    assert "The minimum: a = " in losses.words.value and before[0] != losses.words.value and before[1] != losses.chart.value


def test_feature_costs_are_those_of_the_feature_loss(losses):
    net, colours = widgets.random_features(), losses.colours
    assert torch.equal(net.features[0].weight, widgets.random_features().features[0].weight), "chance, but always the same"
    costs = widgets.feature_costs(net, colours, losses.grid, 60.)
    waves = torch.sin(torch.arange(16)*1.3)[:, None]*torch.cos(torch.arange(16)*.8)
    L = net.scale.encode_L(60 + 8*waves)[None, None]
    def far(answer, true):
        flat = [net.scale.encode_ab(torch.tensor(c)).view(1, 2, 1, 1).expand(1, 2, 16, 16) for c in (answer, true)]
        return net(L, *flat).item()
    grey = np.mean([far([0., 0.], c) for c in colours.tolist()])
    for row, column in [(0, 0), (45, 60), (30, 75)]:
        answer = losses.grid[row, column].tolist()
        for k, colour in enumerate(colours.tolist()): assert abs(costs[k, row, column].item() - far([float(x) for x in answer], colour)/grey) < 1e-3


def test_the_networks_of_the_alpha_slider_are_trained_and_labelled(losses):
    assert {0., .1, .9} <= set(losses.models)
    seen = {}
    for alpha in losses.models:
        losses.alpha.value = alpha
        seen[alpha] = losses.sheet.value
        assert losses.message.value == "" and "1,821 steps on 9,721 photographs at 64 px, one run" in losses.said.value
    assert len(set(seen.values())) == len(losses.models)


def test_the_numbers_beside_the_alpha_networks_can_be_measured_here_too(losses):
    "α = 0 is duller than the truth and duller than α = 0.9, on the sample photographs as on those it was measured on"
    from colorize.colorizer import Colorizer
    from colorize.pictures.folders import sample_photos
    from colorize.pictures.read import open_photo
    from colorize.lab import chroma, rgb_to_lab
    photos = [open_photo(p) for p in sample_photos("valid")[:12]]
    truth = np.mean([chroma(rgb_to_lab(torch.from_numpy(np.array(p.resize((64, 64)))).permute(2, 0, 1))).mean().item() for p in photos])
    def ratio(alpha):
        colorizer = Colorizer.from_pretrained(losses.models[alpha], "cpu")
        return np.mean([torch.linalg.vector_norm(colorizer.predict_ab(p), dim=0).mean().item() for p in photos])/truth
    assert .15 < ratio(0.) < .6 < ratio(.9)


def test_no_networks_is_told_in_the_page(tmp_path): assert "no networks trained with different α" in said(loss_explorer(models=tmp_path))


# the monitor

HEAD = "step,epoch,lr,loss,loss_avg,valid_loss\n"


def begin(folder, rows=5):
    folder.mkdir(parents=True, exist_ok=True)
    (folder/"losses.csv").write_text(HEAD + "".join(f"{i + 1},0,0.001,{.5 - .01*i:.6f},{.5 - .01*i:.6f},\n" for i in range(rows)))


def test_the_states_of_a_run(tmp_path):
    run = tmp_path/"run"
    assert run_state(run) == ("waiting", run)
    begin(run/"pretraining")
    assert run_state(run) == ("running", run/"pretraining")
    begin(run)
    assert run_state(run) == ("running", run)
    assert run_state(run, silent=-1)[0] == "silent"
    stop_run(run)
    assert run_state(run)[0] == "stopping"
    (run/"stop").unlink()
    for finished, state in ((True, "finished"), (False, "stopped")):
        (run/"config.json").write_text('{"arch": "tiny", "arch_args": {}, "scale": {"L_center": 50.0, "L_range": 50.0, "ab_center": 0.0, "ab_range": 110.0}, '
                                       f'"size": 32, "training": {{"finished": {str(finished).lower()}}}}}')
        assert run_state(run)[0] == state
    time.sleep(.02); os.utime(run/"losses.csv")
    assert run_state(run)[0] == "running", "a run that was resumed"


def test_the_monitor_reads_along(tmp_path):
    run = tmp_path/"run"
    monitor = training_monitor(run)
    assert "waiting for it" in monitor.status.value and monitor.stop.disabled
    run.mkdir(); (run/"losses.csv").write_text(HEAD)
    monitor.refresh()
    assert "first step is under way" in monitor.status.value
    begin(run, 7)
    monitor.refresh()
    first = monitor.chart.value
    assert "Running: 7 steps, loss 0.44" in monitor.status.value and not monitor.stop.disabled
    begin(run, 9)
    (run/"losses.csv").write_text((run/"losses.csv").read_text() + "10,0,0.0")
    (run/"previews").mkdir(); Image.new("RGB", (30, 20)).save(run/"previews"/"step-0000005.png")
    monitor.refresh()
    assert monitor.chart.value != first and monitor.preview.value == (run/"previews"/"step-0000005.png").read_bytes()
    monitor.stop.click()
    assert (run/"stop").exists() and "Asked to stop" in monitor.status.value


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path, sample_dls):
    from fastai.callback.core import Callback
    from colorize.pretraining import pretrain
    from colorize.runs.log import read_losses
    import colorize.pretraining as pretraining
    settings = dict(epochs=2, arch="colorize_net", preview_every=0, progress=False)
    whole = pretrain(sample_dls(), tmp_path/"whole", **settings)
    (tmp_path/"run").mkdir(); (tmp_path/"run"/"stop").touch()

    class Asks(Callback):
        "Asks in the third step"
        order = 60
        def after_batch(self):
            if self.training and self.train_iter == 3: stop_run(tmp_path/"run")
    before = pretraining.run_callbacks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "run_callbacks", lambda *args, **kwargs: [Asks(), *before(*args, **kwargs)])
        stopped = pretrain(sample_dls(), tmp_path/"run", **settings)
    assert not stopped.checkpoint.finished and read_losses(tmp_path/"run").step.max() == 3
    resumed = pretrain(sample_dls(), tmp_path/"run", resume=True, **settings)
    assert resumed.checkpoint.finished and read_losses(tmp_path/"run").step.tolist() == read_losses(tmp_path/"whole").step.tolist()
    for a, b in zip(whole.model.parameters(), resumed.model.parameters()): assert torch.allclose(a, b, atol=1e-5)


@pytest.fixture
def sample_dls():
    "A small set of the sample photographs"
    from colorize.batches import photo_dls
    from colorize.pictures.folders import sample_photos
    return lambda: photo_dls((sample_photos("train")[:24], sample_photos("valid")[:4]), size=32, bs=8)


def test_stopping_what_does_not_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no run here that could be stopped"): stop_run(tmp_path)


# for everybody

DEFICIENT = dict(protan=[[.152286, 1.052583, -.204868], [.114503, .786281, .099216], [-.003882, -.048116, 1.051998]],
                 deutan=[[.367322, .860646, -.227968], [.280085, .672501, .047413], [-.011820, .042940, .968881]],
                 tritan=[[1.255528, -.076749, -.178779], [-.078411, .930809, .147602], [.004733, .691367, .303900]])


@pytest.mark.parametrize("kind", DEFICIENT)
def test_curves_can_be_told_apart_by_colour_blind_people(kind):
    "Machado, Oliveira and Fernandes 2009, full dichromacy, in linear RGB; the first four lines, which is what a training has"
    from skimage.color import deltaE_ciede2000, rgb2lab
    rgb = np.array([[int(colour[i:i+2], 16)/255 for i in (1, 3, 5)] for colour, _ in widgets.LINES[:4]])
    linear = np.where(rgb <= .04045, rgb/12.92, ((rgb + .055)/1.055)**2.4)@np.array(DEFICIENT[kind]).T
    seen = rgb2lab(np.where(linear.clip(0, 1) <= .0031308, 12.92*linear.clip(0, 1), 1.055*linear.clip(0, 1)**(1/2.4) - .055)[None])[0]
    apart = [deltaE_ciede2000(seen[i], seen[j]) for i in range(4) for j in range(i)]
    assert min(apart) > 10, apart
    assert len({dash for _, dash in widgets.LINES}) == len(widgets.LINES)


def test_every_knob_has_a_unit_or_a_meaning():
    explorer, losses, picker, view = mood_explorer(None, OwnColours()), loss_explorer(), ab_picker(), gamut_view()
    knobs = [*explorer.sliders.values(), explorer.size, explorer.divider, *losses.sliders.values(), losses.first, losses.alpha, picker.L, picker.a, picker.b, view.L, view.turn]
    for knob in knobs: assert knob.description and len(knob.tooltip) > 20, knob.description
