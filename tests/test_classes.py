"""Classes of colours: to classes and back without loss, and a loss that hears rare colours."""
import math

import numpy as np
import torch
from skimage.color import rgb2lab

from colorize.classes import annealed_mean, class_centres, class_loss, class_shares, class_weights, soft_classes


def test_every_colour_of_sRGB_is_between_classes_and_comes_back():
    rgb = np.stack(np.meshgrid(*[np.linspace(0, 1, 18)]*3, indexing="ij"), -1).reshape(-1, 1, 3)
    ab = torch.from_numpy(rgb2lab(rgb)[..., 1:]).float().permute(2, 0, 1)[None]
    numbers, weights = soft_classes(ab)
    back = (class_centres()[numbers]*weights[..., None]).sum(1).permute(0, 3, 1, 2)
    away = (back - ab).square().sum(1).sqrt()
    assert away.median() < 1e-3 and away.max() < 8  # at the border a corner of the cell lies outside sRGB: the nearest class stands for it
    assert torch.allclose(weights.sum(1), torch.ones(1), atol=1e-5)


def test_at_a_high_temperature_the_mean_and_at_a_low_one_the_likeliest():
    logits = torch.zeros(1, len(class_centres()), 1, 1)
    logits[0, 7] = 2.
    likely = annealed_mean(logits, .05).flatten()
    assert torch.allclose(likely, class_centres()[7], atol=1e-2)
    assert torch.allclose(annealed_mean(logits, 1e3).flatten(), class_centres().mean(0), atol=.2)


def test_the_loss_is_that_of_torch_where_colours_are_classes():
    torch.manual_seed(0)
    logits, truth = torch.randn(2, len(class_centres()), 3, 4), torch.randint(len(class_centres()), (2, 3, 4))
    ab = class_centres()[truth].permute(0, 3, 1, 2)
    assert math.isclose(class_loss(logits, ab), torch.nn.functional.cross_entropy(logits, truth), rel_tol=1e-3)


def test_rare_colours_count_for_more_and_the_mean_weight_is_one():
    grey, red = torch.zeros(1, 2, 8, 8), torch.tensor([60., 40.]).view(1, 2, 1, 1).expand(1, 2, 8, 8)
    shares = class_shares([grey]*9 + [red])
    weights = class_weights(shares)
    assert math.isclose((weights*shares).sum(), 1, rel_tol=1e-4)
    flat = torch.zeros(1, len(shares), 8, 8)
    assert class_loss(flat, red, weights) > 1.5*class_loss(flat, grey, weights)
