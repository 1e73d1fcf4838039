"""Hints: uncovered in training, given by people afterwards; a network that takes them says the same as before without them."""
import numpy as np
import pytest
import torch
from PIL import Image

from colorize import Colorizer
from colorize.batches import photo_dls
from colorize.generators import LiteUnet
from colorize.hints import Hint, HintSimulation, hint_planes
from colorize.models.store import load_generator, save_generator
from colorize.pretraining import pretrain


@pytest.fixture(scope="module")
def colorizer():
    torch.manual_seed(0)
    made = Colorizer(arch="lite_unet", arch_args=dict(hints=True), size=64, precise=True)
    with torch.no_grad():
        for name, p in made.net.named_parameters():
            if "told" in name: p.normal_(std=.05)
    return made


@pytest.fixture(scope="module")
def photo(): return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8))


def test_a_network_that_has_learned_without_hints_says_the_same_when_it_is_given_some():
    torch.manual_seed(0)
    deaf = LiteUnet().eval()
    hearing = LiteUnet(hints=True).eval()
    assert set(hearing.load_state_dict(deaf.state_dict(), strict=False).missing_keys) == {k for k in hearing.state_dict() if "told" in k}
    L, hints = torch.rand(2, 1, 40, 48), torch.rand(2, 3, 40, 48).round()
    with torch.no_grad(): assert hearing(torch.cat([L, hints], 1)).equal(deaf(L))


def test_no_hint_and_planes_without_a_hint_are_the_same(colorizer):
    L = torch.rand(1, 1, 64, 64)
    with torch.no_grad(): assert colorizer.net(L).equal(colorizer.net(torch.cat([L, torch.zeros(1, 3, 64, 64)], 1)))


def test_a_hint_is_heard_and_most_where_it_is(colorizer, photo):
    change = (colorizer.predict_ab(photo, hints=[Hint(15, 70, "red")]) - colorizer.predict_ab(photo)).abs().sum(0)
    y, x = (int(v) for v in np.unravel_index(int(change.argmax()), tuple(change.shape)))
    assert change.max() > 0 and abs(x - 15*change.shape[1]/120) < 16 and abs(y - 70*change.shape[0]/90) < 16


def test_the_mirror_image_is_told_the_same(colorizer, photo):
    hints, mirrored = [Hint(15, 40, "red", 4)], [Hint(119 - 15, 40, "red", 4)]
    both = Colorizer(arch="lite_unet", arch_args=dict(hints=True), size=64, precise=True, net=colorizer.net, mirrored=True)
    flipped = both.predict_ab(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), hints=mirrored).flip(2)
    assert (both.predict_ab(photo, hints=hints) - flipped).abs().max() < 2


def test_a_model_without_hints_says_that_it_takes_none(photo):
    with pytest.raises(ValueError, match="takes no hints"): Colorizer(arch="lite_unet", size=64).predict_ab(photo, hints=[Hint(1, 1, "red")])


@pytest.mark.parametrize("color", ["#ff000", "grue", (1, 2, 3, 4), (1, 2, 999), None, 7])
def test_what_is_no_colour_is_refused(color):
    with pytest.raises(ValueError, match="is not a colour"): Hint(1, 1, color)


def test_a_hint_outside_the_photograph_and_a_negative_radius_are_refused():
    with pytest.raises(ValueError, match="outside the photograph of 40 x 30"): hint_planes([Hint(5, 30, "red")], (40, 30), (20, 15))
    with pytest.raises(ValueError, match="radius"): Hint(1, 1, "red", -2)


def test_the_numbers_of_the_simulation_are_those_that_it_promises():
    torch.manual_seed(0)
    ab = torch.rand(600, 2, 24, 24)
    hints = HintSimulation(share=.4, everything=.1, largest=1)(ab)
    told = hints[:, 2].sum((1, 2))
    assert .33 < (told > 0).float().mean() < .47
    assert 12 <= (told == 24*24).sum() <= 40
    known = hints[:, 2:].expand(-1, 2, -1, -1) > 0
    assert torch.allclose(hints[:, :2][known], ab[known], atol=1e-6) and not hints[:, :2][~known].any()


def test_trained_with_hints_a_model_is_saved_loaded_and_hears_them(tmp_path):
    dls = photo_dls(size=32, bs=16, device="cpu", progress=False, hints=HintSimulation(share=1.))
    arch_args = dict(hints=True, classes=258)
    learn = pretrain(dls, tmp_path/"run", 1, 3e-3, arch="lite_unet", arch_args=arch_args, class_weight=.02, ema=.5, progress=False, preview_every=0)
    net, config = load_generator(tmp_path/"run")
    assert config["training"]["hints"]["share"] == 1 and config["training"]["ema"] == .5
    assert any(p.abs().max() > 0 for name, p in net.named_parameters() if "told" in name)
    assert not learn.model.classify._forward_hooks
    weights = learn.model.state_dict()
    average = dict(zip([k for k, v in weights.items() if v.is_floating_point()], learn.ema.average))
    assert all(net.state_dict()[k].equal(v) for k, v in average.items()) and not average["last.weight"].equal(weights["last.weight"])
    save_generator(tmp_path/"again", net, config)


def test_a_class_loss_for_a_network_without_classes_is_refused_before_the_training(tmp_path):
    dls = photo_dls(size=32, bs=16, device="cpu", progress=False)
    with pytest.raises(ValueError, match="no second answer"): pretrain(dls, tmp_path/"run", 1, arch="lite_unet", class_weight=.1, progress=False)
    assert not (tmp_path/"run"/"losses.csv").exists()
