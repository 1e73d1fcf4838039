"""Every measure against another implementation or published values; the evaluation from the perfect colorizer to the broken one."""
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage.color import deltaE_ciede2000
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import nn
from torchmetrics.image import StructuralSimilarityIndexMeasure
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from colorize.lab import LabScale, lab_to_rgb, rgb_to_lab
from colorize.metrics import (MEASURES, ColourParts, Oracle, Pictures, ab_chroma, ab_mae, ab_mse, as_metric, as_square, auc, bootstrap, chroma_ratio,
                              colour_classes, colourfulness, delta_e2000, delta_e2000_map, evaluate, features_of, fid, frechet_distance, inception, kid,
                              lpips, lpips_net, measure_photos, psnr, reference_colours, ssim)
from colorize.pictures.folders import sample_photos
from colorize.pictures.formats import PhotoError
from colorize.pictures.read import open_photo

ROOT = Path(__file__).resolve().parent.parent
SHARMA = """
50 2.6772 -79.7751 50 0 -82.7485 2.0425
50 3.1571 -77.2803 50 0 -82.7485 2.8615
50 2.8361 -74.0200 50 0 -82.7485 3.4412
50 -1.3802 -84.2814 50 0 -82.7485 1.0000
50 -1.1848 -84.8006 50 0 -82.7485 1.0000
50 -0.9009 -85.5211 50 0 -82.7485 1.0000
50 0 0 50 -1 2 2.3669
50 -1 2 50 0 0 2.3669
50 2.4900 -0.0010 50 -2.4900 0.0009 7.1792
50 2.4900 -0.0010 50 -2.4900 0.0010 7.1792
50 2.4900 -0.0010 50 -2.4900 0.0011 7.2195
50 2.4900 -0.0010 50 -2.4900 0.0012 7.2195
50 -0.0010 2.4900 50 0.0009 -2.4900 4.8045
50 -0.0010 2.4900 50 0.0010 -2.4900 4.8045
50 -0.0010 2.4900 50 0.0011 -2.4900 4.7461
50 2.5 0 50 0 -2.5 4.3065
50 2.5 0 73 25 -18 27.1492
50 2.5 0 61 -5 29 22.8977
50 2.5 0 56 -27 -3 31.9030
50 2.5 0 58 24 15 19.4535
50 2.5 0 50 3.1736 0.5854 1.0000
50 2.5 0 50 3.2972 0 1.0000
50 2.5 0 50 1.8634 0.5757 1.0000
50 2.5 0 50 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082"""


def numpy_of(x): return x.double().movedim(-3, -1).numpy()


@pytest.fixture(scope="module")
def true(): return Pictures.of([as_square(open_photo(f), 96) for f in sample_photos("valid")[::6]])


@pytest.fixture(scope="module")
def fake(true):
    torch.manual_seed(0)
    return Pictures.painted(true, .7*true.ab + 8*torch.randn_like(true.ab))


@pytest.fixture
def colourful(tmp_path):
    "A folder with colour photographs, a grey one, a broken one and one in a folder below"
    folder = tmp_path/"mixed"
    (folder/"below").mkdir(parents=True)
    for f in sample_photos("valid")[:5]: open_photo(f).resize((90, 70)).save(folder/f"{f.stem}.png")
    open_photo(sample_photos("valid")[6]).resize((60, 90)).save(folder/"below"/"one.png")
    Image.linear_gradient("L").save(folder/"grey.png")
    (folder/"torn.jpg").write_bytes(sample_photos("valid")[0].read_bytes()[:2000])
    return folder


# measures of one photograph

def test_delta_e2000_on_all_34_pairs_of_sharma():
    rows = torch.tensor([[float(x) for x in line.split()] for line in SHARMA.strip().splitlines()], dtype=torch.float64)
    assert rows.shape == (34, 7)
    one, other, published = rows[:, :3].T[..., None], rows[:, 3:6].T[..., None], rows[:, 6]
    for a, b in ((one, other), (other, one)): assert (delta_e2000_map(a, b)[0, :, 0] - published).abs().max() < 1e-4


def test_delta_e2000_of_any_two_colours_is_that_of_scikit_image():
    torch.manual_seed(1)
    a, b = (torch.rand(2, 3, 200, 100, dtype=torch.float64)*torch.tensor([100., 220, 220]).view(3, 1, 1) - torch.tensor([0., 110, 110]).view(3, 1, 1) for _ in range(2))
    theirs = torch.from_numpy(deltaE_ciede2000(numpy_of(a), numpy_of(b)))
    assert (delta_e2000_map(a, b)[:, 0] - theirs).abs().max() < 1e-9
    assert (delta_e2000_map(a.float(), b.float())[:, 0] - theirs).abs().mean() < 1e-4
    torch.testing.assert_close(delta_e2000(a, b), theirs.mean((1, 2)))
    grey = a*torch.tensor([1., 0, 0]).view(3, 1, 1)
    assert (delta_e2000_map(grey, a)[:, 0] - torch.from_numpy(deltaE_ciede2000(numpy_of(grey), numpy_of(a)))).abs().max() < 1e-9
    assert delta_e2000(a, a).max() == 0


def test_psnr_and_ssim_are_those_of_scikit_image_and_torchmetrics(true, fake):
    for f, t, p, s in zip(fake.rgb, true.rgb, psnr(fake.rgb, true.rgb), ssim(fake.rgb, true.rgb)):
        assert p.item() == pytest.approx(peak_signal_noise_ratio(numpy_of(t), numpy_of(f), data_range=1), abs=1e-3)
        assert s.item() == pytest.approx(StructuralSimilarityIndexMeasure(data_range=1.)(f[None], t[None]).item(), abs=1e-5)
        theirs = structural_similarity(numpy_of(t), numpy_of(f), data_range=1, channel_axis=-1, gaussian_weights=True, use_sample_covariance=False)
        assert s.item() == pytest.approx(theirs, abs=.05)  # they leave the margin out, see the next test


def test_ssim_without_margins_is_exactly_that_of_scikit_image(true, fake):
    frame = lambda rgb: torch.nn.functional.pad(rgb[:1, :, 20:60, 20:60], (20,)*4)  # nothing happens near the margin
    f, t = frame(fake.rgb), frame(true.rgb)
    theirs = structural_similarity(numpy_of(t[0]), numpy_of(f[0]), data_range=1, channel_axis=-1, gaussian_weights=True, use_sample_covariance=False, full=True)[1]
    assert ssim(f, t).item() == pytest.approx(theirs.mean(), abs=1e-5)


def test_ab_errors(true, fake):
    off = numpy_of(fake.ab) - numpy_of(true.ab)
    np.testing.assert_allclose(ab_mae(fake.ab, true.ab), np.abs(off).mean((1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(ab_mse(fake.ab, true.ab), (off**2).mean((1, 2, 3)), rtol=1e-4)
    for scale in (LabScale(), LabScale(ab_range=127.), LabScale(ab_center=-128., ab_range=255.)):
        a, b = scale.encode_ab(fake.ab), scale.encode_ab(true.ab)
        torch.testing.assert_close(ab_mae(fake.ab, true.ab, scale), (a - b).abs().mean((1, 2, 3)), rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(ab_mse(fake.ab, true.ab, scale), (a - b).square().mean((1, 2, 3)), rtol=1e-3, atol=1e-6)


def test_colourfulness_worked_out_by_hand():
    flag = torch.zeros(2, 3, 4, 6)
    flag[:, 0, :2], flag[:, 2, 2:] = 1, 1  # red above blue: rg is 255 and 0, yb 127.5 and -255
    by_hand = math.sqrt(127.5**2 + 191.25**2) + .3*math.sqrt(127.5**2 + 63.75**2)
    absolute = math.sqrt(127.5**2 + 63.75**2) + .3*math.sqrt(127.5**2 + 191.25**2)
    assert colourfulness(flag).tolist() == pytest.approx([by_hand]*2, abs=1e-3)
    assert colourfulness(flag, absolute=True).tolist() == pytest.approx([absolute]*2, abs=1e-3)
    red = torch.tensor([1., 0, 0]).view(1, 3, 1, 1).expand(1, 3, 5, 5)
    assert colourfulness(red).item() == pytest.approx(.3*math.hypot(255, 127.5), abs=1e-3)


def test_colourfulness_in_numpy(true):
    for rgb, signed, absolute in zip(true.rgb, colourfulness(true.rgb), colourfulness(true.rgb, absolute=True)):
        r, g, b = 255*rgb.double().numpy()
        for value, f in ((signed, lambda x: x), (absolute, np.abs)):
            rg, yb = f(r - g), f((r + g)/2 - b)
            assert value.item() == pytest.approx(np.hypot(rg.std(), yb.std()) + .3*np.hypot(rg.mean(), yb.mean()), abs=.01)


def test_chroma_ratio(true):
    for share in (0, .5, 1): assert chroma_ratio(share*true.ab, true.ab).tolist() == pytest.approx([share]*len(true), abs=1e-5)
    np.testing.assert_allclose(ab_chroma(true.ab), np.hypot(*numpy_of(true.ab).transpose(3, 0, 1, 2)).mean((1, 2)), rtol=1e-4)


def test_auc_is_the_area_under_the_curve(true, fake):
    distance = np.hypot(*(numpy_of(fake.ab) - numpy_of(true.ab)).transpose(3, 0, 1, 2))
    thresholds = np.linspace(0, 150, 1501)
    prior = torch.rand(484) + .01
    a, b = ((numpy_of(true.ab).transpose(3, 0, 1, 2) + 110)//10).astype(int)
    weights = 1/prior.numpy()[22*a + b]
    for d, w, plain, rebalanced in zip(distance, weights, auc(fake.ab, true.ab), auc(fake.ab, true.ab, prior)):
        counts = [[v[d <= t].sum()/v.sum() for t in thresholds] for v in (np.ones_like(d), w)]
        areas = [sum((c[i] + c[i+1])/2 for i in range(1500))/15 for c in counts]
        assert (plain.item(), rebalanced.item()) == pytest.approx(areas, abs=.02)


def test_colour_classes_cover_the_plane():
    ab = torch.tensor([[-110., -110], [-100, -110], [-110, -100], [0, 0], [109.9, 109.9], [300, -300]]).T[None, :, :, None]
    assert colour_classes(ab)[0, :, 0].tolist() == [0, 22, 1, 11*22 + 11, 483, 21*22]


def test_reference_colours(tmp_path):
    Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path/"red.png")
    (tmp_path/"torn.png").write_bytes(b"no picture")
    found = reference_colours([tmp_path/"red.png", tmp_path/"torn.png"])
    red = rgb_to_lab(torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1)).flatten()
    assert found.mean_ab == pytest.approx(red[1:].tolist(), abs=1e-3)
    assert found.prior.argmax() == colour_classes(red[None, 1:])[0] and found.prior.min() == pytest.approx(1e-4)
    with pytest.raises(PhotoError, match="none of the 1 photographs"): reference_colours([tmp_path/"torn.png"])
    assert reference_colours().prior.sum().item() == pytest.approx(1, abs=.05)


@pytest.mark.parametrize("name", MEASURES)
def test_truth_is_perfect_in_every_measure(name, true):
    value = measure_photos(true, true)[name]
    perfect = {"psnr": math.inf, "ssim": 1, "auc": 100, "auc_rebalanced": 100, "chroma_ratio": 1}.get(name, 0)
    if name.startswith("colourfulness"): perfect = colourfulness(true.rgb, absolute=name.endswith("absolute")).numpy()
    assert np.allclose(value, perfect, atol=1e-4)


def test_sizes_that_differ_get_a_sentence(true):
    for f in (ab_mae, ab_mse, chroma_ratio, auc):
        with pytest.raises(ValueError, match="the output has shape .* and the truth"): f(true.ab[..., 1:], true.ab)
    for f in (psnr, ssim, delta_e2000, lpips):
        with pytest.raises(ValueError, match="only pictures of the same size"): f(true.rgb[..., 1:], true.rgb)
    with pytest.raises(ValueError, match="only pictures of the same size"): psnr(true.rgb[:1], true.rgb)


def test_lpips_with_a_network_of_random_weights(true, fake):
    from torchmetrics.functional.image.lpips import _NoTrainLpips
    torch.manual_seed(0)
    net = _NoTrainLpips(net="squeeze", pnet_rand=True)
    far, none = lpips(fake.rgb, true.rgb, net), lpips(true.rgb, true.rgb, net)
    assert far.shape == (len(true),) and (far > 0).all() and none.abs().max() < 1e-6
    torch.testing.assert_close(far, net(2*fake.rgb - 1, 2*true.rgb - 1).flatten(), rtol=1e-4, atol=1e-6)


def test_weights_that_cannot_be_had_get_a_sentence(monkeypatch):
    def no_network(*args, **kwargs): raise OSError("no route")
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    lpips_net.cache_clear()
    with pytest.raises(RuntimeError, match="weights for LPIPS could not be downloaded"): lpips_net("squeeze")
    with pytest.raises(RuntimeError, match="need the package torch-fidelity"): inception()


# measures of sets

def test_frechet_distance_of_gaussians_with_a_closed_form():
    torch.manual_seed(0)
    assert frechet_distance(torch.tensor([1.]), torch.tensor([[4.]]), torch.tensor([4.]), torch.tensor([[49.]])) == pytest.approx(9 + 25)
    m, a = torch.randn(5), torch.randn(5, 5).double()
    cov = a@a.T
    assert frechet_distance(m, cov, m, cov) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(m, cov, m + 2, cov) == pytest.approx(20)
    assert frechet_distance(m, cov, m, 9*cov) == pytest.approx(4*cov.trace().item())  # (1 - 3)² tr Σ


def test_frechet_distance_in_scipy_and_torchmetrics():
    from scipy.linalg import sqrtm
    from torchmetrics.image.fid import _compute_fid
    torch.manual_seed(1)
    a, b = (torch.randn(200, 8, dtype=torch.float64)@torch.randn(8, 8, dtype=torch.float64) for _ in range(2))
    moments = a.mean(0), a.T.cov(), b.mean(0), b.T.cov()
    theirs = (moments[0] - moments[2]).square().sum() + np.trace(moments[1] + moments[3] - 2*torch.from_numpy(np.real(sqrtm((moments[1]@moments[3]).numpy()))))
    assert frechet_distance(*moments) == pytest.approx(theirs.item(), rel=1e-9) == pytest.approx(_compute_fid(*moments).item(), rel=1e-9) == fid(a, b)


def test_fid_of_samples_nears_that_of_their_gaussians():
    torch.manual_seed(0)
    a, b = torch.randn(20000, 4), 2*torch.randn(20000, 4) + 1
    assert fid(a, b) == pytest.approx(4*(1 + 1), rel=.05)
    assert fid(a[:10000], a[10000:]) < .01 < fid(a[:20], a[20:40])


def test_kid_is_unbiased_and_that_of_torchmetrics(true, fake):
    torch.manual_seed(0)
    kids = [kid(*torch.randn(2, 20, 6)) for _ in range(200)]
    assert abs(np.mean(kids)) < 4*np.std(kids)/200**.5
    assert kid(torch.randn(50, 6), torch.randn(50, 6) + 1) > 10*np.std(kids)
    net = ColourParts()
    metric = KernelInceptionDistance(feature=net, subsets=1, subset_size=len(true), normalize=True)
    metric.update(true.rgb, real=True), metric.update(fake.rgb, real=False)
    f, t = features_of(fake.rgb, net, bs=3), features_of(true.rgb, net)
    assert f.shape == (len(true), 48)
    assert kid(f, t) == pytest.approx(metric.compute()[0].item(), rel=1e-3)
    metric = FrechetInceptionDistance(feature=net, normalize=True)
    metric.update(true.rgb, real=True), metric.update(fake.rgb, real=False)
    assert fid(f, t) == pytest.approx(metric.compute().item(), rel=1e-3, abs=1e-5)


def test_kid_of_large_sets_leaves_chance_alone():
    torch.manual_seed(3)
    a, b = torch.randn(2, 60, 4)
    torch.manual_seed(4)
    first, drawn = kid(a, b, subset=20), torch.rand(1)
    torch.manual_seed(4)
    assert torch.rand(1) == drawn and kid(a, b, subset=20) == first


def test_sets_that_cannot_be_compared_get_a_sentence():
    with pytest.raises(ValueError, match="from two pictures on"): fid(torch.randn(1, 4), torch.randn(9, 4))
    with pytest.raises(ValueError, match="the same network"): kid(torch.randn(9, 5), torch.randn(9, 4))


# intervals

def test_bootstrap_against_the_normal_distribution():
    values = np.random.default_rng(1).normal(5, 2, size=(400, 3))
    mean, low, high = bootstrap(values)
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(high - low, 2*1.96*values.std(0)/400**.5, rtol=.1)


def test_bootstrap_of_weighted_means_infinities_and_one_photo():
    values, weights = np.array([[1., math.inf], [3, math.inf]]), np.array([[1., 1], [3, 1]])
    mean, low, high = bootstrap(values, weights)
    assert mean.tolist() == [2.5, math.inf] and (low[0], high[0]) == (1, 3) and low[1] == high[1] == math.inf
    mean, low, high = bootstrap(values[:1])
    assert mean[0] == 1 and np.isnan([low, high]).all()


# evaluation

def test_perfect_and_grey_colorizers(colourful):
    found = evaluate(colourful, Oracle(lambda ab: ab), against=lambda L: torch.zeros(len(L), 2, *L.shape[2:]), names=("perfect", "nothing"),
                     size=48, bs=4, features=ColourParts(), progress=False)
    assert len(found) == 6 and [f.name for f in found.grey] == ["grey.png"]
    assert [f.name for f in found.broken] == ["torn.jpg"] and "damaged" in next(iter(found.broken.values()))
    means = found.summary()["mean"].unstack()
    perfect = dict(ab_mae=0, ab_mse=0, delta_e2000=0, psnr=math.inf, ssim=1, auc=100, auc_rebalanced=100, chroma_ratio=1)
    assert means["perfect"][list(perfect)].to_dict() == pytest.approx(perfect, abs=1e-4)
    assert means["perfect"]["colourfulness"] == pytest.approx(means["true"]["colourfulness"])
    pd.testing.assert_frame_equal(found.scores["nothing"], found.scores["grey"])
    assert means["grey"]["chroma_ratio"] == 0 and means["grey"]["colourfulness"] < .01 and means["grey"]["ssim"] > .5
    assert found.sets.fid["perfect"] == pytest.approx(0, abs=1e-6) and found.sets.fid["grey"] > 0
    true = Pictures.of([as_square(open_photo(f), 48) for f in found.files])
    np.testing.assert_allclose(found.scores["grey"].psnr, [peak_signal_noise_ratio(numpy_of(t), numpy_of(g), data_range=1)
                               for t, g in zip(true.rgb, Pictures.painted(true, 0*true.ab).rgb)], rtol=1e-4)


def test_mean_ab_is_that_of_the_given_photographs(colourful, tmp_path):
    (tmp_path/"red").mkdir()
    Image.new("RGB", (40, 40), (200, 80, 70)).save(tmp_path/"red"/"a.png")
    found = evaluate(colourful, Oracle(lambda ab: torch.ones_like(ab)*torch.tensor(reference.mean_ab).view(2, 1, 1)), size=32,
                     reference=(reference := reference_colours([tmp_path/"red"/"a.png"])), progress=False)
    np.testing.assert_allclose(found.scores["model"], found.scores["mean ab"])
    other = evaluate(colourful, lambda L: 0*L.repeat(1, 2, 1, 1), size=32, reference=tmp_path/"red", progress=False)
    np.testing.assert_allclose(other.scores["mean ab"], found.scores["mean ab"])
    assert f"colour classes of {tmp_path/'red'}" in other.about


def test_the_reference_that_is_shipped_is_that_of_the_sample_photographs(tmp_path):
    from colorize.metrics import save_reference
    save_reference(tmp_path/"reference.json")
    again, shipped = (json.loads(file.read_text()) for file in (tmp_path/"reference.json", ROOT/"colorize"/"pretrained"/"reference.json"))
    assert again["name"] == shipped["name"] == reference_colours().name == f"{len(sample_photos('train'))} sample photographs"
    np.testing.assert_allclose(again["mean_ab"], shipped["mean_ab"], atol=1e-3)
    np.testing.assert_allclose(again["prior"], shipped["prior"], atol=1e-5)


def test_the_reference_outside_the_checkout_is_the_same(tmp_path):
    "The package alone, in a folder with somebody's photographs under the names that ours have"
    shutil.copytree(ROOT/"colorize", tmp_path/"site"/"colorize", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path/"work"/"data"/"photos"/"train").mkdir(parents=True)
    Image.new("RGB", (40, 40), (255, 0, 0)).save(tmp_path/"work"/"data"/"photos"/"train"/"decoy.png")
    code = """
import json, colorize
from colorize.metrics import reference_colours
from colorize.pictures.folders import sample_photos
found = reference_colours()
try: samples = [f.name for f in sample_photos("train")]
except ValueError as error: samples = str(error)
print(json.dumps([colorize.__file__, found.name, found.mean_ab, found.prior.tolist(), samples]))"""
    env = {k: v for k, v in os.environ.items() if not k.startswith("COLORIZE_")} | {"PYTHONPATH": str(tmp_path/"site")}
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path/"work", env=env, text=True, capture_output=True)
    place, name, mean_ab, prior, samples = json.loads(said.stdout or "[0]*5")
    here = reference_colours()
    assert place.startswith(str(tmp_path)), said.stderr
    assert (name, tuple(mean_ab), prior) == (here.name, here.mean_ab, here.prior.tolist())
    assert "sample photographs were not found" in samples


def test_batches_of_any_size_give_the_same_table(colourful):
    one, many = (evaluate(colourful, Oracle(lambda ab: ab/2), size=32, bs=bs, progress=False) for bs in (1, 5))
    pd.testing.assert_frame_equal(one.scores, many.scores, rtol=1e-4)
    assert one.files == many.files


def test_colorizer_generator_and_function_are_measured_alike(colourful, model):
    from colorize.colorizer import Colorizer
    colorizer = Colorizer.from_pretrained(model, device="cpu", precise=True)
    colorizer.size = 64
    colorizer.net.train()
    statistics = [b.clone() for b in colorizer.net.buffers()]
    found = evaluate(colourful, colorizer, against=colorizer.net, names=("colorizer", "net"), size=64, progress=False)
    np.testing.assert_allclose(found.scores["colorizer"], found.scores["net"], rtol=1e-3)
    assert colorizer.net.training and all(map(torch.equal, statistics, colorizer.net.buffers()))
    colorizer.eval()
    def paint(L):
        with torch.no_grad(): return 110*colorizer.net(L/50 - 1)
    again = evaluate(colourful, paint, size=64, progress=False)
    np.testing.assert_allclose(again.scores["model"], found.scores["net"], rtol=1e-3)
    unit = evaluate(colourful, colorizer.net, size=64, scale=LabScale(ab_range=55.), progress=False)
    assert (unit.scores["model"].chroma_ratio < found.scores["net"].chroma_ratio).all()


def test_a_colorizer_is_measured_at_its_working_size_as_it_colorizes(colourful, model):
    from colorize.colorizer import Colorizer
    colorizer = Colorizer.from_pretrained(model, device="cpu")
    colorizer.size = 48
    found = evaluate(colourful, colorizer, against=colorizer.net, names=("colorizer", "net"), size=96, progress=False)
    assert not np.allclose(found.scores["colorizer"].delta_e2000, found.scores["net"].delta_e2000, rtol=1e-3)
    for file, score in zip(found.files, found.scores["colorizer"].delta_e2000):
        square = as_square(open_photo(file), 96)
        made = torch.from_numpy(np.array(colorizer(Image.fromarray(square.permute(1, 2, 0).numpy())))).permute(2, 0, 1)
        assert delta_e2000(Pictures.of([made]).lab, Pictures.of([square]).lab).item() == pytest.approx(score, abs=0.25)


def test_generator_that_wraps_another_is_not_taken_for_a_colorizer(colourful):
    class Pale(nn.Module):
        def __init__(self): super().__init__(); self.net = nn.Conv2d(1, 2, 1)
        def forward(self, L): return 0*self.net(L)
    found = evaluate(colourful, Pale(), size=32, progress=False)
    np.testing.assert_allclose(found.scores["model"], found.scores["grey"])


def test_photographs_are_opened_at_most_one_batch_ahead(colourful, monkeypatch):
    import colorize.metrics
    opened, seen, really = [], [], colorize.metrics._opened
    monkeypatch.setattr(colorize.metrics, "_opened", lambda file, *args: opened.append(file) or really(file, *args))
    def watching(ab): seen.append(len(opened)); return ab
    evaluate([f for f in sorted(colourful.rglob("*.png")) if f.name != "grey.png"]*5, Oracle(watching), size=32, bs=3, progress=False)
    assert len(seen) == 10 and all(n <= 3*(batch + 2) for batch, n in enumerate(seen))


def test_ratios_of_a_set_are_ratios_of_sums(colourful):
    found = evaluate(colourful, Oracle(lambda ab: ab.sign()*ab.abs().sqrt()), size=32, progress=False)
    true = Pictures.of([as_square(open_photo(f), 32) for f in found.files])
    fake = Pictures.painted(true, true.ab.sign()*true.ab.abs().sqrt())
    means, prior = found.summary()["mean"], reference_colours().prior
    assert means["chroma_ratio", "model"] == pytest.approx((ab_chroma(fake.ab).sum()/ab_chroma(true.ab).sum()).item(), rel=1e-4)
    weight = 1/prior[colour_classes(true.ab)]
    near = 1 - (fake.ab - true.ab).norm(dim=1).clamp(max=150)/150
    assert means["auc_rebalanced", "model"] == pytest.approx((100*(near*weight).sum()/weight.sum()).item(), rel=1e-4)


def test_difference_is_paired(colourful):
    found = evaluate(colourful, Oracle(lambda ab: .8*ab), against=Oracle(lambda ab: .7*ab), names=("pale", "paler"), size=32, progress=False)
    d = found.difference()
    row = d.loc["delta_e2000"]
    assert row["mean"] == pytest.approx((found.scores["pale"].delta_e2000 - found.scores["paler"].delta_e2000).mean()) and row.low <= row["mean"] <= row.high < 0
    assert (d.better[["delta_e2000", "psnr", "auc"]] == "pale").all() and (d.better[["chroma_ratio", "colourfulness"]] == "").all()
    back = found.difference("paler", "pale")
    np.testing.assert_allclose(back["mean"], -d["mean"], atol=1e-12)
    assert (found.difference("pale", "pale")[["mean", "low", "high"]] == 0).all(axis=None)
    assert "Better, by a paired interval" in repr(found) and "<br>Better" in found._repr_html_()


def test_table_says_how_it_came_about(colourful):
    import colorize, torchmetrics
    text = repr(evaluate(colourful, Oracle(lambda ab: ab/2), size=40, progress=False))
    for part in ("N = 6", "1 grey left out", "1 unreadable left out", "40 px", colorize.__version__, torchmetrics.__version__, "ΔE2000", "grey", "mean ab"):
        assert part in text, part


def test_one_photograph_has_no_interval(colourful):
    found = evaluate(colourful/"below", Oracle(lambda ab: ab/2), size=32, progress=False)
    assert "N = 1" in found.about and "[" not in found.pretty().to_string() and found.difference().better.eq("").all()


def test_csv_has_a_row_a_photo_and_is_whole_or_not_there(colourful, tmp_path, monkeypatch):
    found = evaluate(colourful, Oracle(lambda ab: ab/2), size=32, progress=False)
    found.save_csv(tmp_path/"new folder"/"scores.csv")
    rows = pd.read_csv(tmp_path/"new folder"/"scores.csv")
    assert len(rows) == 6 and rows.file.tolist() == [str(f) for f in found.files]
    np.testing.assert_allclose(rows.model_psnr, found.scores["model"].psnr)
    assert {"grey_ssim", "mean_ab_auc", "true_colourfulness"} < set(rows)
    def fails(self, path, **kwargs): path.write_text("half"); raise OSError("disk full")
    monkeypatch.setattr(pd.DataFrame, "to_csv", fails)
    with pytest.raises(OSError): found.save_csv(tmp_path/"half"/"scores.csv")
    assert not list((tmp_path/"half").iterdir())


def test_grid_shows_best_median_and_worst(colourful, tmp_path):
    found = evaluate(colourful, Oracle(lambda ab: ab/2), size=48, progress=False)
    order = found.scores["model"].delta_e2000.argsort().to_numpy()
    picks = found.picks()
    assert (picks["best"][0], picks["worst"][0]) == (order[0], order[-1]) and picks["median"][0] in order[2:4]
    assert found.picks("psnr")["best"][0] == found.scores["model"].psnr.argmax()
    gap = (found.scores["true"].colourfulness - found.scores["model"].colourfulness).abs()
    assert found.picks("colourfulness")["worst"][0] == gap.argmax()
    found.grid(tmp_path/"page.png")
    with Image.open(tmp_path/"page.png") as page: assert page.format == "PNG" and page.width > 400 and page.height > 600
    assert [f.name for f in tmp_path.glob("*.png")] == ["page.png"]
    pictures = found.repaint(int(order[0]))
    assert set(pictures) == {"model", "grey", "mean ab", "true"} and pictures["grey"].std(0).max() < 1e-3


def test_photographs_of_the_same_name_stay_apart(tmp_path):
    for folder, f in zip(("a", "b"), sample_photos("valid")):
        (tmp_path/folder).mkdir()
        open_photo(f).resize((60, 40)).save(tmp_path/folder/"same.png")
    found = evaluate(tmp_path, Oracle(lambda ab: ab), size=32, progress=False)
    assert found.scores.index.is_unique and len(found) == 2


def test_what_cannot_be_measured_gets_a_sentence(colourful, tmp_path):
    nothing = Oracle(lambda ab: 0*ab)
    (tmp_path/"empty").mkdir(), (tmp_path/"grey").mkdir(), (tmp_path/"torn").mkdir()
    Image.linear_gradient("L").save(tmp_path/"grey"/"a.png")
    (tmp_path/"torn"/"a.jpg").write_bytes(b"nonsense")
    for photos, sentence in ((tmp_path/"empty", "no photographs in this folder"), ([], "no photographs to evaluate on"), (tmp_path/"nowhere.jpg", "no such file"),
                             (tmp_path/"grey", r"grey: all photographs are grey \(1\)"), (tmp_path/"torn", "no colour photograph .* can't be opened, the first because")):
        with pytest.raises(PhotoError, match=sentence): evaluate(photos, nothing, size=32, progress=False)
    third = sorted(colourful.rglob("*.png"))[2].name
    with pytest.raises(ValueError, match="for L of shape .* must be a tensor of shape .* not \\(.*, 1, 32, 32\\)"): evaluate(colourful, lambda L: L, size=32, progress=False)
    with pytest.raises(ValueError, match="not ndarray"): evaluate(colourful, lambda L: L.numpy(), size=32, progress=False)
    with pytest.raises(ValueError, match="names of their own"): evaluate(colourful, nothing, against=nothing, names=("grey", "other"), size=32, progress=False)
    def sometimes(ab):
        ab = ab.clone()
        if len(ab) > 2: ab[2, 0, 5, 5] = math.nan
        return ab
    with pytest.raises(ValueError, match=rf"{third}: model answered with something that is no number"): evaluate(sorted(colourful.rglob("*.png")), Oracle(sometimes), size=32, progress=False)


def test_squares_are_cropped_or_squeezed():
    photo = Image.fromarray(np.repeat(np.repeat(np.arange(4, dtype=np.uint8)[None, :]*60, 2, 0), 50, 0).repeat(50, 1)[..., None].repeat(3, 2))
    assert photo.size == (200, 100)
    assert as_square(photo, 40)[0, 20, [2, 37]].tolist() == [60, 120]
    assert as_square(photo, 40, crop=False)[0, 20, [2, 37]].tolist() == [0, 180]


# during training

@pytest.fixture
def learn():
    from colorize.batches import photo_dls
    from colorize.pretraining import l1_learner
    torch.manual_seed(0)
    files = sample_photos("train")
    dls = photo_dls((files[:8], files[8:19]), size=32, bs=4, progress=False, device="cpu")
    return l1_learner(dls, nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1)), precise=True)


def test_every_measure_can_be_watched(learn):
    def twice_the_error(fake, true): return 2*ab_mae(fake.ab, true.ab)
    learn.metrics = [as_metric(name) for name in MEASURES] + [as_metric(twice_the_error)]
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    watched = dict(zip(learn.recorder.metric_names[3:-1], learn.recorder.values[-1][2:]))
    L, ab = (torch.cat(x) for x in zip(*learn.dls.valid))
    scale, prior = learn.dls.valid.scale, reference_colours().prior
    true = Pictures(scale.decode(L, ab))
    with torch.no_grad(): fake = Pictures.painted(true, scale.decode_ab(learn.model.eval()(L)))
    values = measure_photos(fake, true)
    chroma, rarity = ab_chroma(true.ab).numpy(), (1/prior[colour_classes(true.ab)]).mean((1, 2)).numpy()
    for name, value in values.items():
        weights = {"chroma_ratio": chroma, "auc_rebalanced": rarity}.get(name)
        assert watched[name] == pytest.approx(np.average(value, weights=weights), rel=1e-3, abs=1e-3), name
    assert watched["twice_the_error"] == pytest.approx(2*watched["ab_mae"], rel=1e-5)


def test_unknown_measure_gets_a_sentence():
    with pytest.raises(ValueError, match="no measure 'beauty'; there are ab_mae"): as_metric("beauty")
