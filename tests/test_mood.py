"""Moods against formulas written another way, and what must not change: lightness, neutral settings, the order of batches."""
import json
import math
import subprocess
import sys
from pathlib import Path

import nursery
import numpy as np
import pytest
import torch
from fastcore.script import CliError
from PIL import Image
from torch import nn

from colorize import cli
from colorize.batches import PhotoCrops, PhotoDL, encode_bytes, photo_dls, train_crops, valid_crops
from colorize.colorizer import Colorizer, join_photo
from colorize.lab import SCALES, LabScale, chroma, hue, in_gamut, lab_to_rgb, rgb_to_lab
from colorize.mood import MOOD_RANGES, Mood, daylight, hue_shift, mean_hue, rotate_hue, saturate, soft_ceiling, vibrance, warm
from colorize.pictures.store import PhotoStore

MOODS = [Mood(hue=77), Mood(hue=-180), Mood(warmth=1), Mood(warmth=-.6), Mood(saturation=0), Mood(saturation=3), Mood(vibrance=-1), Mood(vibrance=2), Mood(max_chroma=25),
         Mood(hue=-40, warmth=.5, saturation=1.7, vibrance=.8, max_chroma=60)]


def bytes_of(*shape, seed=0): return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def colours(shape=(2, 3, 20, 30), seed=0): return rgb_to_lab(bytes_of(*shape, seed=seed))


def lab_of(picture): return rgb_to_lab(torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))


class Fixed(nn.Module):
    "A network with random weights that answers with strong colours"
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Conv2d(1, 2, 5, padding=2)

    def forward(self, L): return torch.tanh(4*self.layer(L))


@pytest.fixture
def colorizer(): return Colorizer(net=Fixed(), size=64)


@pytest.fixture
def photo():
    noise = bytes_of(6, 8).numpy()
    return Image.fromarray(noise).resize((120, 90), Image.Resampling.BICUBIC).convert("RGB")


@pytest.fixture
def folder(tmp_path):
    (tmp_path/"photos").mkdir()
    for i in range(10):
        small = Image.fromarray(np.random.default_rng(i).integers(0, 255, (4, 5, 3), dtype=np.uint8))
        small.resize((60, 48), Image.Resampling.BICUBIC).save(tmp_path/"photos"/f"{i}.png")
    return tmp_path/"photos"


# each function beside an independent computation

@pytest.mark.parametrize("degrees", [0, 60, -90, 133.7, 180, -400])
def test_rotation_is_multiplication_of_complex_numbers(degrees):
    ab = colours()[:, 1:].double()
    z = (ab[:, 0].numpy() + 1j*ab[:, 1].numpy())*np.exp(1j*np.deg2rad(degrees))
    np.testing.assert_allclose(rotate_hue(ab, degrees).numpy(), np.stack([z.real, z.imag], 1), atol=1e-9)
    torch.testing.assert_close(rotate_hue(ab, degrees).norm(dim=1), ab.norm(dim=1))


def test_saturation_and_vibrance_act_on_chroma_and_keep_hue():
    lab = colours().double()
    C, h = chroma(lab), hue(lab)
    for changed, expected in [(saturate(lab[:, 1:], 1.7), 1.7*C), (vibrance(lab[:, 1:], .8), C + .8*30*C/(30 + C)), (vibrance(lab[:, 1:], -1), C**2/(C + 30)),
                              (vibrance(lab[:, 1:], 1, half=10.), C*(C + 20)/(C + 10))]:
        out = torch.cat([lab[:, :1], changed], 1)
        torch.testing.assert_close(chroma(out), expected)
        assert ((hue(out) - h + 180).remainder(360) - 180)[C > .1].abs().max() < 1e-4


@pytest.mark.parametrize("amount", [-1, -.5, 0, .3, 2])
def test_vibrance_rises_with_the_slope_that_was_promised(amount):
    C = torch.linspace(0, 130, 500, dtype=torch.float64, requires_grad=True)
    ab = torch.stack([C*math.cos(1), C*math.sin(1)])[:, None]
    slope, = torch.autograd.grad(torch.linalg.vector_norm(vibrance(ab, amount)[..., 1:], dim=0).sum(), C)
    expected = 1 + amount*30**2/(C + 30)**2
    torch.testing.assert_close(slope[1:], expected[1:].detach())
    assert (slope >= 0).all()


def test_the_ceiling_is_flat_below_the_knee_smooth_at_it_and_never_passed():
    C = torch.linspace(0, 500, 5001, dtype=torch.float64)
    ab = torch.stack([.6*C, -.8*C])[:, None]
    out = soft_ceiling(ab, 40, .5)
    assert torch.equal(out[..., C <= 20], ab[..., C <= 20])
    c = out.norm(dim=0)[0]
    np.testing.assert_allclose(c[C > 20], 20 + 20*np.tanh((C[C > 20].numpy() - 20)/20), atol=1e-9)
    assert c.max() <= 40 + 1e-9 and (c.diff() >= -1e-12).all() and (c.diff().diff().abs()/.1**2).max() < .05
    assert soft_ceiling(1e6*torch.ones(2, 3, 3), 40.).norm(dim=0).max() <= 40.0001


def test_daylight_is_the_table_of_the_cie():
    x_65, y_65 = .31272, .32903
    for kelvin, x, y in [(4000, .3823, .3838), (5003, .34567, .35850), (5503, .33242, .34743), (7504, .29902, .31485), (10000, .2787, .2919), (25000, .2499, .2548)]:
        expected = x/y/(x_65/y_65), (1 - x - y)/y/((1 - x_65 - y_65)/y_65)
        np.testing.assert_allclose(daylight(kelvin), expected, rtol=1.5e-3)
    assert daylight(6504) == (1, 1)
    for kelvin in (3999, 25001, math.nan):
        with pytest.raises(ValueError, match="4000 to 25000"): daylight(kelvin)


def test_warmth_is_von_kries_in_xyz_above_the_foot_of_the_curve():
    from skimage.color import rgb2xyz, xyz2lab
    rgb = bytes_of(3, 40, 50, seed=3)
    before = rgb2xyz(rgb.permute(1, 2, 0).numpy()/255)
    for warmth, kelvin in [(1, 4000), (-1, 1e6/57.503), (.5, 1e6/((250 + 1e6/6504)/2))]:
        kx, kz = daylight(kelvin)
        after = before*[kx, 1, kz]
        above = np.minimum(before, after).min(-1)/1.09 > .0089
        ours = warm(rgb_to_lab(rgb.double()/255), warmth).permute(1, 2, 0).numpy()
        assert above.mean() > .7
        np.testing.assert_allclose(ours[above], xyz2lab(after)[above], atol=2e-3)
        assert np.abs(ours - xyz2lab(after)).max() < 6


def test_white_paper_in_d50_and_in_the_light_of_the_extremes():
    white = torch.tensor([100., 0, 0]).view(3, 1, 1)
    d50 = (1e6/5003 - 1e6/6504)/(250 - 1e6/6504)
    torch.testing.assert_close(warm(white, d50).flatten(), torch.tensor([100, 2.40, 17.66]), atol=.02, rtol=0)
    assert warm(white, 1)[2] > 30 and warm(white, -1)[2] < -30
    b = torch.stack([warm(white, w)[2] for w in np.linspace(-1, 1, 41)]).flatten()
    assert (b.diff() > 0).all() and b.diff().max() < 1.5*b.diff().min(), "warmth is not even"


def test_mean_hue_and_shift_are_those_of_complex_numbers():
    ab = colours((4, 3, 9, 7))[:, 1:]
    z = ab[:, 0].double().numpy() + 1j*ab[:, 1].double().numpy()
    assert mean_hue(ab) == pytest.approx(np.rad2deg(np.angle(z.sum())) % 360, abs=1e-6)
    assert mean_hue([ab[:1], ab[1:, :, :4], ab[1:, :, 4:]]) == pytest.approx(mean_hue(ab), abs=1e-6)
    other = rotate_hue(ab, -100) + torch.randn(ab.shape, generator=torch.Generator().manual_seed(0))
    w = other[:, 0].double().numpy() + 1j*other[:, 1].double().numpy()
    assert hue_shift(ab, other) == pytest.approx(np.rad2deg(np.angle((z.conj()*w).sum())), abs=1e-6) == pytest.approx(-100, abs=1)
    assert math.isnan(mean_hue(0*ab)) and math.isnan(hue_shift(ab, 0*ab))


def test_the_order_is_hue_saturation_vibrance_warmth_ceiling_gamut():
    from skimage.color import lab2rgb
    lab = colours((3, 16, 16), 5).double()*torch.tensor([.4, .2, .2]).view(3, 1, 1) + torch.tensor([35., 0, 0]).view(3, 1, 1)
    mood = Mood(hue=50, warmth=.4, saturation=1.5, vibrance=.6, max_chroma=30)
    L, a, b = lab.numpy()
    z = (a + 1j*b)*np.exp(1j*np.deg2rad(50))*1.5
    z *= 1 + .6*30/(abs(z) + 30)
    kx, kz = np.cbrt(daylight(1e6/(1e6/6504 + .4*(250 - 1e6/6504))))
    fy = (L + 16)/116
    z = 500*(kx*(z.real/500 + fy) - fy) + 200j*(fy - kz*(fy - z.imag/200))
    C = abs(z)
    z *= np.where(C > 21, 21 + 9*np.tanh((C - 21)/9), C)/C
    out = mood(lab)
    inside = np.abs(lab2rgb(np.stack([L, z.real, z.imag], -1)) - .5).max(-1) < .499
    assert inside.mean() > .9
    np.testing.assert_allclose(out[1:].numpy()[:, inside], np.stack([z.real, z.imag])[:, inside], atol=1e-9)


# what must not change

@pytest.mark.parametrize("mood", MOODS, ids=lambda m: str(m.to_dict()))
@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 3, 8, 8), (2, 1, 3, 1, 1)])
def test_lightness_stays_bit_for_bit_and_colours_stay_inside_srgb(mood, shape):
    lab = colours(shape)
    before = lab.clone()
    out = mood(lab)
    assert out.shape == lab.shape and torch.equal(lab, before), "the argument was changed"
    assert torch.equal(out[..., :1, :, :], lab[..., :1, :, :]) and in_gamut(out).all()
    assert not torch.equal(out, lab) and torch.equal(warm(lab, .5)[..., :1, :, :], lab[..., :1, :, :])


def test_neutral_settings_return_the_argument_itself():
    lab = 3*colours()
    for mood in (Mood(), Mood(hue=-0.), Mood(saturation=1), Mood.from_dict({}), Mood.from_dict({"warmth": 0, "max_chroma": None})):
        assert mood.neutral and mood(lab) is lab and mood.to_dict() == {}
    assert torch.equal(warm(lab, 0), lab) and torch.equal(vibrance(lab[:, 1:], 0), lab[:, 1:])
    assert torch.equal(rotate_hue(lab[:, 1:], 0), lab[:, 1:]) and torch.equal(saturate(lab[:, 1:], 1), lab[:, 1:])


def test_gradients_flow_and_are_finite_at_grey():
    for change in (lambda x: rotate_hue(x, 30), lambda x: saturate(x, 2), lambda x: vibrance(x, 1), lambda x: soft_ceiling(x, 20)):
        ab = torch.zeros(2, 2, 3, dtype=torch.float64, requires_grad=True)
        grad, = torch.autograd.grad(change(ab).sum(), ab)
        assert grad.isfinite().all() and (grad != 0).all()
        assert torch.autograd.gradcheck(change, (10 + 30*torch.rand(2, 2, 3, dtype=torch.float64)).requires_grad_())
    lab = (torch.tensor([50., 5, 5]).view(3, 1, 1) + torch.rand(3, 2, 2)).double().requires_grad_()
    assert torch.autograd.gradcheck(Mood(hue=20, warmth=.3, vibrance=.4, max_chroma=40), lab)


# settings

@pytest.mark.parametrize("name, value", [("hue", 181), ("hue", -180.1), ("hue", math.nan), ("hue", "60"), ("warmth", 1.01), ("warmth", None), ("saturation", -.1), ("saturation", 3.5),
                                         ("saturation", math.inf), ("vibrance", -1.1), ("vibrance", True), ("max_chroma", 0), ("max_chroma", -5), ("max_chroma", math.inf), ("max_chroma", "none")])
def test_impossible_settings_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be a number"): Mood(**{name: value})


def test_settings_travel_as_json():
    for mood in MOODS: assert Mood.from_dict(json.loads(json.dumps(mood.to_dict()))) == mood and not mood.neutral
    assert Mood(np.float32(30), np.int64(1)).to_dict() == {"hue": 30., "warmth": 1.}
    assert Mood(max_chroma=40).to_dict() == {"max_chroma": 40.} and hash(Mood(hue=3)) == hash(Mood(hue=3.))
    for name, (low, high) in MOOD_RANGES.items(): Mood(**{name: low}), Mood(**{name: high})
    with pytest.raises(ValueError, match="a mood has no 'colour'; it has hue, warmth, saturation, vibrance, max_chroma"): Mood.from_dict({"colour": 1})


@pytest.mark.parametrize("call", [lambda x: rotate_hue(x, 3), lambda x: saturate(x, 1), lambda x: vibrance(x, 1), lambda x: soft_ceiling(x, 10)])
def test_other_shapes_are_refused(call):
    for x in (torch.zeros(3, 4, 4), torch.zeros(2, 4)):
        with pytest.raises(ValueError, match="ab must have shape"): call(x)


@pytest.mark.parametrize("call", [lambda x: saturate(x, -1), lambda x: vibrance(x, -1.5), lambda x: soft_ceiling(x, 0), lambda x: soft_ceiling(x, 10, 1.), lambda x: soft_ceiling(x, math.nan)])
def test_impossible_arguments_are_refused(call):
    with pytest.raises(ValueError): call(torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match="warmth goes from -1 to 1"): warm(torch.zeros(3, 4, 4), 1.5)


# batches

@pytest.mark.parametrize("scale", ["110", "127", "unit"])
def test_a_batch_in_a_mood_has_the_same_L_and_the_moods_colours(scale):
    rgb, mood = bytes_of(4, 3, 24, 24), MOODS[-1]
    (L, ab), (L_mood, ab_mood) = encode_bytes(rgb, SCALES[scale]), encode_bytes(rgb, SCALES[scale], mood)
    assert torch.equal(L, L_mood)
    torch.testing.assert_close(SCALES[scale].decode_ab(ab_mood), mood(rgb_to_lab(rgb))[:, 1:], atol=1e-4, rtol=1e-4)
    for same in (None, Mood()): assert torch.equal(encode_bytes(rgb, SCALES[scale], same)[1], ab)


def test_only_a_and_b_of_what_a_mood_returns_are_used():
    rgb = bytes_of(2, 3, 8, 8)
    L, ab = encode_bytes(rgb, LabScale(), lambda lab: 0*lab)
    assert torch.equal(L, encode_bytes(rgb)[0]) and not ab.any()


def test_loaders_keep_the_mood_for_training_and_validation(folder, tmp_path):
    def dls(mood=None): return photo_dls(folder, size=32, bs=4, device="cpu", cache=tmp_path/"cache", progress=False, mood=mood)
    plain, moody = dls(), dls(Mood(hue=180))
    for a, b in ((plain.train, moody.train), (plain.valid, moody.valid)):
        for (L, ab), (L_mood, ab_mood) in zip(a, b):
            assert torch.equal(L, L_mood)
            clear = 110*ab.norm(dim=1) > 1
            assert ((ab*ab_mood).sum(1)[clear] < 0).all(), "not the complementary colours"
    for (L, ab), (same_L, same_ab) in zip(dls().valid, dls(Mood()).valid): assert torch.equal(L, same_L) and torch.equal(ab, same_ab)
    assert plain.train.mood is None


def test_the_mood_survives_new(folder, tmp_path):
    store = PhotoStore(sorted(folder.iterdir()), 32, tmp_path/"cache")
    dl = PhotoDL(PhotoCrops(store, valid_crops(32)), bs=4, mood=Mood(saturation=0), device="cpu")
    again = dl.new(PhotoCrops(store, train_crops(32)))
    assert dl.new().mood == again.mood == Mood(saturation=0) and not again.one_batch()[1].any()


def test_the_same_mood_gives_the_same_batches_and_the_same_training(folder, tmp_path):
    from colorize.pretraining import pretrain
    def weights(name, mood):
        dls = photo_dls(folder, size=32, bs=4, device="cpu", cache=tmp_path/"cache", progress=False, mood=mood)
        batches = torch.cat([torch.cat(b, 1) for b in dls.train])
        dls.train.start_at(0)
        learn = pretrain(dls, tmp_path/name, arch="colorize_net", arch_args={"activation": "tanh"}, epochs=2, preview_every=0, progress=False, save=False)
        return batches, torch.cat([p.detach().flatten() for p in learn.model.parameters()])
    first, second, plain = weights("first", Mood(hue=60)), weights("second", Mood(hue=60)), weights("plain", None)
    for a, b, c in zip(first, second, plain): assert torch.equal(a, b) and not torch.equal(a, c)


# the colorizer

def test_neutral_settings_do_not_change_a_picture(colorizer, photo):
    neutral = dict(hue=0, warmth=0, saturation=1, vibrance=0, max_chroma=None)
    assert colorizer(photo).tobytes() == colorizer(photo, **neutral).tobytes()
    ab = colorizer.predict_ab(photo)
    assert join_photo(photo, ab).tobytes() == join_photo(photo, ab, mood=Mood()).tobytes() == colorizer(photo).tobytes()


def test_lightness_stays_within_a_level_in_a_strong_mood(colorizer, photo):
    changed, plain = colorizer(photo, hue=90, warmth=1, saturation=2), colorizer(photo)
    assert np.abs(np.array(changed).astype(int) - np.array(plain)).mean() > 10, "no mood was made"
    L, L_changed = lab_of(photo)[0], lab_of(changed)[0]
    step = (lab_of(Image.fromarray(np.array(photo).clip(0, 254) + 1))[0] - lab_of(Image.fromarray(np.array(photo).clip(0, 254)))[0]).clamp(min=.3)
    assert ((L_changed - L).abs() <= step).all()


def test_a_mood_of_the_colorizer_is_the_mood_of_its_colours(colorizer, photo):
    mood = dict(hue=-70, warmth=.4, vibrance=.5, max_chroma=50)
    ab = colorizer.predict_ab(photo)
    lab = lab_of(photo)
    from colorize.colorizer import enlarge
    lab[1:] = enlarge([Image.fromarray(p) for p in ab.numpy()], *photo.size, 0, photo.height)
    expected = (255*lab_to_rgb(Mood(**mood)(lab))).round()
    off = (torch.from_numpy(np.array(colorizer(photo, **mood))).permute(2, 0, 1) - expected).abs()
    assert off.max() <= 1 and torch.equal(colorizer.predict_ab(photo), ab)


def test_lists_folders_and_transparency_in_a_mood(colorizer, photo, tmp_path):
    photo.save(tmp_path/"a.png")
    clear = photo.copy()
    clear.putalpha(Image.linear_gradient("L").resize(photo.size))
    expected = colorizer(photo, saturation=0)
    for pictures in (colorizer([photo, tmp_path/"a.png"], progress=False, saturation=0), colorizer(tmp_path, saturation=0, progress=False)):
        assert all(p.tobytes() == expected.tobytes() for p in pictures)
    out = colorizer(clear, saturation=0)
    assert out.convert("RGB").tobytes() == expected.tobytes() and out.getchannel("A").tobytes() == clear.getchannel("A").tobytes()
    assert np.ptp(np.array(expected).astype(int), axis=2).max() <= 1


def test_wrong_settings_of_the_colorizer_get_a_sentence(colorizer, photo):
    with pytest.raises(ValueError, match="a mood has no 'hu'; did you mean hue"): colorizer(photo, hu=3)
    with pytest.raises(ValueError, match="saturation must be a number from 0 to 3, not -1"): colorizer([photo], saturation=-1)


# the commands

def command(name, *args, cwd=None, real=None):
    return nursery.run([str(Path(sys.executable).with_name(name)), *map(str, args)], cwd=cwd, real=real, text=True, capture_output=True)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("small")
    Colorizer("colorize_net", {"activation": "tanh"}, size=64).save_pretrained(folder)
    return folder


def test_colorize_in_a_mood(small_model, photo, tmp_path):
    photo.save(tmp_path/"a.png")
    done = command("colorize", tmp_path/"a.png", "--model", small_model, "--device", "cpu", "--out", tmp_path/"mood.png",
                   "--hue", -90, "--warmth", .5, "--saturation", 2, "--vibrance", 1, "--max-chroma", 40)
    assert done.returncode == 0, done.stderr
    expected = Colorizer.from_pretrained(small_model, device="cpu")(photo, hue=-90, warmth=.5, saturation=2, vibrance=1, max_chroma=40)
    off = np.abs(np.array(Image.open(tmp_path/"mood.png")).astype(int) - np.array(expected))
    assert off.max() <= 2 and off.mean() < .01
    assert chroma(lab_of(Image.open(tmp_path/"mood.png"))).max() < 41


def test_neutral_options_of_colorize_change_nothing(small_model, photo, tmp_path):
    photo.save(tmp_path/"a.png")
    for out, options in {"plain.png": {}, "neutral.png": dict(hue=0., warmth=0., saturation=1., vibrance=0., max_chroma=None)}.items():
        assert cli.colorize(str(tmp_path/"a.png"), model=str(small_model), device="cpu", out=tmp_path/out, **options) == 0
    assert (tmp_path/"plain.png").read_bytes() == (tmp_path/"neutral.png").read_bytes()


def test_an_impossible_mood_is_one_line_and_nothing_is_written(small_model, photo, tmp_path):
    photo.save(tmp_path/"a.png")
    done = command("colorize", "a.png", "--model", small_model, "--warmth", "-1.5", cwd=tmp_path)
    assert done.returncode == 1 and "warmth must be a number from -1 to 1, not -1.5" in done.stderr and len(done.stderr.strip().splitlines()) == 1 and not done.stdout
    assert [f.name for f in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("wrong", [dict(hue=200.), dict(hue=math.nan), dict(warmth=2.), dict(saturation=-1.), dict(vibrance=9.), dict(max_chroma=0.)])
def test_impossible_moods_are_refused_before_any_work(small_model, photo, folder, tmp_path, wrong):
    photo.save(tmp_path/"a.png")
    name, = wrong
    with pytest.raises(CliError, match=f"^{name} must be a number"): cli.colorize(str(tmp_path/"a.png"), model=str(small_model), **wrong)
    if name != "max_chroma":
        with pytest.raises(CliError, match=f"^{name} must be a number"): cli.colorize_train(str(folder), runs=tmp_path/"runs", **wrong)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.png", "photos"]


def test_colorize_train_in_a_mood(folder, tmp_path):
    short = dict(keep_grey=True, size=32, epochs=1, batch_size=4, save_images=False, device="cpu", save_model=False, runs=tmp_path/"runs")
    def losses(run, **options):
        cli.colorize_train(str(folder), run=run, **short, **options)
        return (tmp_path/"runs"/run/"losses.csv").read_bytes()
    mood = dict(hue=90., warmth=.5, saturation=.5, vibrance=.1)
    plain = losses("plain")
    assert plain == losses("neutral", hue=0., warmth=0., saturation=1., vibrance=0.)
    assert losses("mood", **mood) == losses("again", **mood) != plain


def test_every_option_says_its_unit_or_meaning_without_loading_torch():
    for name, options in {"colorize": ("hue", "warmth", "saturation", "vibrance", "max-chroma"), "colorize-train": ("hue", "warmth", "saturation", "vibrance")}.items():
        text = " ".join(command(name, "--help", real=True).stdout.split())
        for option in options: assert f"--{option} " in text
        assert "degrees" in text and "4000 K" in text and "factor" in text
    assert subprocess.run([sys.executable, "-c", "import colorize.cli, sys; sys.exit('torch' in sys.modules)"]).returncode == 0
