"""Other engines than PyTorch: the same colours, or a sentence."""
import sys

import nursery
import numpy as np
import pytest
import torch

from colorize.colorizer import Colorizer
from colorize.generators import create_generator
from colorize.lab import LabScale, rgb_to_lab
from colorize.metrics import delta_e2000
from colorize.models.store import save_generator
from colorize.pictures.folders import sample_photos
from colorize.pictures.read import open_photo

NETWORKS = [("resnet_unet", dict(half=True)), ("resnet_unet", {}), ("lite_unet", {}), ("lite_unet", dict(blur=True)), ("colorize_net", dict(width=16, depth=2))]


@pytest.fixture(scope="module")
def photo(): return open_photo(sample_photos("valid")[2]).resize((300, 200))


def lab(picture): return rgb_to_lab(torch.from_numpy(np.array(picture)).permute(2, 0, 1))[None]


@pytest.mark.parametrize("arch, args", NETWORKS)
@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_every_network_gives_the_same_colours(tmp_path, photo, arch, args, engine):
    pytest.importorskip("onnxruntime" if engine == "onnx" else engine)
    torch.manual_seed(1)
    save_generator(tmp_path, create_generator(arch, **args), dict(arch=arch, arch_args=args, scale=LabScale().to_dict(), size=128))
    ours, theirs = (Colorizer.from_pretrained(tmp_path, "cpu", precise=True, engine=e) for e in ("torch", engine))
    for size in (64, 100): assert (ours.predict_ab(photo, size) - theirs.predict_ab(photo, size)).abs().max() < .5
    quick = Colorizer.from_pretrained(tmp_path, "cpu", engine=engine)
    assert delta_e2000(lab(quick(photo)), lab(ours(photo))).item() < 1


def test_bfloat16_is_within_one_delta_e(tmp_path, photo):
    torch.manual_seed(1)
    save_generator(tmp_path, create_generator("resnet_unet", half=True), dict(arch="resnet_unet", arch_args=dict(half=True), scale=LabScale().to_dict(), size=128))
    quick, precise = (Colorizer.from_pretrained(tmp_path, "cpu", precise=p) for p in (False, True))
    assert delta_e2000(lab(quick(photo)), lab(precise(photo))).item() < 1
    with torch.no_grad(): quick.net.layers[-1][0].weight += .1
    assert not np.array_equal(np.array(quick(photo)), np.array(precise(photo))), "a network that was changed must answer differently"


def test_an_exported_file_says_what_it_is(tmp_path, model):
    pytest.importorskip("onnxruntime")
    from colorize.models.engines import OnnxNet
    Colorizer.from_pretrained(model, "cpu").export(tmp_path/"net.onnx")
    net = OnnxNet(tmp_path/"net.onnx")
    assert net.config["size"] == 64 and net.config["arch"] == "resnet_unet" and LabScale.from_dict(net.config["scale"]) == LabScale()
    (tmp_path/"torn.onnx").write_bytes((tmp_path/"net.onnx").read_bytes()[:5000])
    with pytest.raises(ValueError, match="torn.onnx: onnxruntime can't run this file"): OnnxNet(tmp_path/"torn.onnx")


@pytest.mark.parametrize("engine, package", [("openvino", "openvino"), ("onnx", "onnx")])
def test_a_package_that_is_missing_is_named(model, photos, engine, package):
    code = f"""
import sys
sys.modules[{package!r}] = None
from colorize.cli import colorize
try: colorize({str(photos/'a.jpg')!r}, model={str(model)!r}, engine={engine!r})
except Exception as error: print(type(error).__name__, error)"""
    run = nursery.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert run.returncode == 0 and "CliError" in run.stdout and f"needs the package {package}" in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_network_that_cannot_be_traced_is_refused(engine):
    from colorize.models.engines import engine_net
    pytest.importorskip("onnxruntime" if engine == "onnx" else engine)
    with pytest.raises(ValueError, match=f"a Pix2PixUNet can't be run by {engine}"): engine_net(engine, create_generator("pix2pix_unet", filters=4, steps=5))
