"""Old prints as the network is shown them: the input alone changes, in ways that film, print and scan have."""
import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from colorize.ageing import FILMS, Ageing, film_lightness, fixed_print
from colorize.batches import photo_dls
from colorize.hints import HintSimulation
from colorize.recipe import read_recipe

NOTHING = dict(film=0., tone=0., uneven=0., blur=0., grain=0., compress=0., dust=0.)


@pytest.fixture
def rgb():
    torch.manual_seed(0)
    blocks = torch.rand(6, 3, 12, 10)
    return (255*torch.nn.functional.interpolate(blocks, (48, 40), mode="bilinear")).byte()


def of_eye(rgb): return torch.from_numpy(np.stack([rgb2lab(x)[..., :1] for x in rgb.permute(0, 2, 3, 1).numpy()])).permute(0, 3, 1, 2).float()


def test_with_the_weights_of_the_eye_a_film_gives_the_L_of_scikit_image(rgb):
    weights = torch.tensor([FILMS["eye"]]).expand(len(rgb), 3)
    assert (film_lightness(rgb, weights) - of_eye(rgb)).abs().max() < .1


def test_a_blue_sensitive_plate_sees_no_red_and_all_of_blue():
    red, blue = (torch.zeros(1, 3, 2, 2, dtype=torch.uint8) for _ in range(2))
    red[:, 0], blue[:, 2] = 255, 255
    plate = torch.tensor([FILMS["blue-sensitive"]])
    assert film_lightness(red, plate).max() < 1 < 90 < film_lightness(blue, plate).min()


@pytest.mark.parametrize("step", list(NOTHING))
def test_each_step_changes_photographs_and_none_leaves_them(rgb, step):
    torch.manual_seed(1)
    assert (Ageing(share=1., **NOTHING)(rgb) - of_eye(rgb)).abs().max() < .1
    aged = Ageing(share=1., **NOTHING | {step: 1.})(rgb)
    assert ((aged - of_eye(rgb)).abs().amax((1, 2, 3)) > .5).all()
    assert aged.min() >= 0 and aged.max() <= 100.1


def test_a_share_of_the_photographs_is_left_as_it_is(rgb):
    torch.manual_seed(2)
    many = rgb[:1].expand(400, -1, -1, -1)
    same = ((Ageing(share=.25)(many) - of_eye(rgb[:1])).abs().amax((1, 2, 3)) < .1).float().mean()
    assert .68 < same < .82


def test_a_probability_above_one_is_refused_by_name():
    with pytest.raises(ValueError, match="grain is a probability"): Ageing(grain=1.5)


def test_in_training_the_input_ages_and_the_truth_does_not_and_validation_stays_as_it_is():
    old, new = (photo_dls(size=32, bs=8, device="cpu", progress=False, ageing=how) for how in (Ageing(share=1.), None))
    (L, ab), (own, true) = (d.train.one_batch() for d in (old, new))
    assert ab.equal(true) and not L.equal(own)
    assert old.valid.one_batch()[0].equal(new.valid.one_batch()[0])


def test_the_same_seed_gives_the_same_prints_and_hints_also_from_the_middle_of_an_epoch():
    def batches(first=0):
        train = photo_dls(size=32, bs=16, device="cpu", progress=False, ageing=Ageing(), hints=HintSimulation(), balance=.5).train
        train.start_at(3, first)
        return [x for x, _ in train]
    whole, rest = batches(), batches(2)
    assert all(a.equal(b) for a, b in zip(whole[2:], rest, strict=True)) and not whole[0].equal(whole[2])


def test_a_recipe_may_ask_for_them_and_a_wrong_word_in_it_is_named(tmp_path):
    recipe = "arch: lite_unet\nstages:\n- {name: a, kind: pretrain, size: 32, ageing: {grain: 1}, hints: {}, balance: 0.3}\n"
    (tmp_path/"right.yaml").write_text(recipe)
    assert read_recipe(tmp_path/"right.yaml")["stages"][0]["ageing"] == dict(grain=1)
    for wrong, why in (("{grian: 1}", "grian"), ("{grain: 7}", "grain is a probability"), ("true", "ageing needs names and values")):
        (tmp_path/"wrong.yaml").write_text(recipe.replace("{grain: 1}", wrong))
        with pytest.raises(ValueError, match=why): read_recipe(tmp_path/"wrong.yaml")


def test_the_print_to_measure_by_is_the_same_each_time_and_has_its_numbers():
    grey = torch.full((3, 160, 200), 119, dtype=torch.uint8)
    L = fixed_print(grey, 5)
    assert L.shape == (1, 160, 200) and L.equal(fixed_print(grey, 5)) and not L.equal(fixed_print(grey, 6))
    left, right = L[..., :20].mean(), L[..., -20:].mean()
    assert abs(left - (12 + 76*.5**1.25)) < 1 and abs(right - (12 + 76*(.905*.5)**1.25)) < 1
    assert fixed_print(torch.zeros(3, 40, 40)).min() >= 12 and fixed_print(torch.ones(3, 40, 40)).max() <= 88.01
