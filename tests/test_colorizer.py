"""From file to file: size and lightness kept, memory bounded, models that are broken or missing."""
import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

from colorize.colorizer import Colorizer, enlarge, join_photo, working_size
from colorize.generators import PlainUnet, resnet_unet
from colorize.lab import LabScale, rgb_to_lab
from colorize.models.store import load_generator, save_generator
from colorize.pictures.folders import sample_photos


def lab(picture): return rgb_to_lab(torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))


@pytest.fixture(scope="module")
def colorizer(model): return Colorizer.from_pretrained(model, device="cpu")


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (301, 2), (33, 47), (640, 200)])
def test_any_size_comes_back_as_it_was(colorizer, size):
    assert colorizer(Image.new("L", size, 128)).size == size


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_lightness_is_kept_for_every_mode(colorizer, mode, tmp_path):
    ramp = np.linspace(0, 255, 96*64).reshape(64, 96)
    source = Image.fromarray((ramp*257).astype(np.uint16)) if mode == "I;16" else Image.fromarray(ramp.astype(np.uint8)).convert(mode)
    source.save(tmp_path/"photo.tif")
    grey = Image.fromarray(ramp.round().astype(np.uint8)) if mode not in ("1", "P", "CMYK") else source.convert("RGB")
    out = colorizer(tmp_path/"photo.tif")
    assert (lab(out)[0] - lab(grey)[0]).abs().max() < 1
    if mode != "1": assert lab(out)[1:].abs().mean() > 1, "no colours were made"  # black and white have no room for chroma


def test_enlarging_in_strips_is_the_same_as_at_once():
    planes = [Image.fromarray(np.random.default_rng(0).normal(size=(24, 32)).astype(np.float32)) for _ in range(2)]
    whole = enlarge(planes, 321, 243, 0, 243)
    strips = torch.cat([enlarge(planes, 321, 243, top, min(50, 243 - top)) for top in range(0, 243, 50)], dim=1)
    torch.testing.assert_close(strips, whole, atol=1e-4, rtol=0)
    usual = np.asarray(planes[0].resize((321, 243), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(whole[0].numpy(), usual, atol=1e-5)


def test_colours_outside_srgb_lose_chroma_and_keep_hue_and_lightness():
    grey = Image.new("L", (16, 16), 119)
    out = lab(join_photo(grey.convert("RGB"), torch.tensor([100., -80.]).view(2, 1, 1).expand(2, 4, 4)))
    wanted = torch.tensor([100., -80.])
    assert (out[0] - lab(grey)[0]).abs().max() < 1
    assert torch.rad2deg((torch.atan2(out[2], out[1]) - torch.atan2(wanted[1], wanted[0])).abs()).max() < 2
    assert out[1:].norm(dim=0).max() < wanted.norm()


def test_working_size_has_bounds():
    for w, h in [(1, 1), (1, 100_000), (30_000, 20_000), (500, 500)]:
        a, b = working_size(w, h, 256)
        assert a % 8 == b % 8 == 0 and min(a, b) >= 32 and a*b <= 1.2*256**2
    for w, h in [(16, 9), (3, 2), (4, 3), (1, 1), (2, 3)]:
        a, b = working_size(100*w, 100*h, 64)
        assert abs(a*h/(b*w) - 1) < .1, "the shape of the photograph is not kept"


def test_twelve_megapixels_keep_size_and_lightness_in_bounded_memory(model, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (30, 40), dtype=np.uint8)).resize((4000, 3000), Image.Resampling.BICUBIC).save(tmp_path/"large.jpg", quality=95)
    code = textwrap.dedent(f"""
        import re
        from colorize.colorizer import Colorizer
        def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # ru_maxrss remembers the process that started this one
        colorizer = Colorizer.from_pretrained({str(model)!r}, device="cpu")
        colorizer({str(tmp_path/'large.jpg')!r}[:0] or __import__("PIL.Image").Image.new("L", (64, 64)))
        before = peak()
        colorizer({str(tmp_path/'large.jpg')!r}).save({str(tmp_path/'out.png')!r}, compress_level=1)
        print(before//1024, peak()//1024)
    """)
    before, peak = map(int, subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout.split())
    print(f"peak memory {peak} MB, of which {before} MB before the photograph")
    assert peak - before < 500 and peak < 2000
    out = Image.open(tmp_path/"out.png")
    assert out.size == (4000, 3000)
    for top in range(0, 3000, 500):
        box = (0, top, 4000, top + 500)
        assert (lab(out.crop(box))[0] - lab(Image.open(tmp_path/"large.jpg").crop(box))[0]).abs().max() < 1


@pytest.mark.parametrize("damage, sentence", [
    ("no folder", "no such folder"), ("no config", "config.json is missing"), ("no weights", "weights of this model are missing"),
    ("torn config", "not readable as JSON"), ("torn weights", "not a readable safetensors file"),
    ("another network", "no generator 'pix2pix'"), ("other weights", "another network"), ("no arch", "does not say which network")])
def test_models_that_are_broken_or_missing_say_so(model, tmp_path, damage, sentence, monkeypatch):
    from safetensors.torch import save_file
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path/"model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"): (folder/name).write_bytes((model/name).read_bytes())
    config = json.loads((folder/"config.json").read_text())
    if damage == "no folder": folder = tmp_path/"runs"/"frist"
    if damage == "no config": (folder/"config.json").unlink()
    if damage == "no weights": (folder/"model.safetensors").unlink()
    if damage == "torn config": (folder/"config.json").write_text('{"arch": "resn')
    if damage == "torn weights": (folder/"model.safetensors").write_bytes((folder/"model.safetensors").read_bytes()[:5000])
    if damage == "another network": (folder/"config.json").write_text(json.dumps(config | {"arch": "pix2pix"}))
    if damage == "other weights": save_file({"weight": torch.zeros(3)}, folder/"model.safetensors")
    if damage == "no arch": (folder/"config.json").write_text(json.dumps({"size": 64}))
    with pytest.raises((FileNotFoundError, ValueError), match=sentence): Colorizer.from_pretrained(folder)


def test_saved_and_loaded_gives_the_same_picture_and_config(colorizer, tmp_path):
    photo = Image.fromarray(np.random.default_rng(2).integers(0, 255, (50, 70), dtype=np.uint8))
    colorizer.save_pretrained(tmp_path/"again")
    again = Colorizer.from_pretrained(tmp_path/"again", device="cpu")
    assert again.config == colorizer.config
    np.testing.assert_array_equal(np.array(again(photo)), np.array(colorizer(photo)))


def test_what_it_predicts_is_a_batch_of_the_training_seen_by_the_network(model, tmp_path):
    colorizer = Colorizer.from_pretrained(model, device="cpu", precise=True)
    from colorize.batches import PhotoCrops, PhotoDL, valid_crops
    from colorize.pictures.store import PhotoStore
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path/"square.png")
    L, _ = PhotoDL(PhotoCrops(PhotoStore([tmp_path/"square.png"], 64, tmp_path/"cache"), valid_crops(64)), bs=1).one_batch()
    with torch.no_grad(): expected = 110*colorizer.net(L)[0]
    torch.testing.assert_close(colorizer.predict_ab(Image.open(tmp_path/"square.png")), expected, atol=1e-3, rtol=1e-3)


def test_colours_are_made_without_the_training_library(tmp_path):
    save_generator(tmp_path/"net", resnet_unet(half=True), dict(arch="resnet_unet", arch_args=dict(half=True), scale=LabScale().to_dict(), size=64))
    code = f"""
import sys
from colorize import Colorizer
from colorize.pictures.folders import sample_photos
Colorizer.from_pretrained({str(tmp_path/'net')!r}, device="cpu")(sample_photos("valid")[0]).save({str(tmp_path/'made.png')!r})
print(sorted(name for name in ("fastai", "torchvision", "matplotlib", "pandas", "IPython", "skimage") if name in sys.modules))"""
    run = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr
    assert Image.open(tmp_path/"made.png").size == Image.open(sample_photos("valid")[0]).size


@pytest.mark.parametrize("args", [dict(), dict(half=True), dict(y_range=(-1., 1.)), dict(self_attention=True), dict(blur=True)])
def test_a_loaded_network_answers_as_the_saved_one(tmp_path, args):
    net = resnet_unet(**args).eval()
    save_generator(tmp_path, net, dict(arch="resnet_unet", arch_args=args))
    plain, _ = load_generator(tmp_path, plain=True)
    assert isinstance(plain, PlainUnet) == (not {"self_attention", "blur"} & set(args))
    L = torch.rand(2, 1, 72, 90)*2 - 1
    with torch.no_grad(): assert (plain(L) - net(L)).abs().max() < 1e-4
