"""The adversarial losses against PyTorch's own formulas."""
import math

import pytest
import torch
import torch.nn.functional as F

from colorize.losses import GAN_LOSSES, LOSSES, GANLoss, alpha_weights, lambda_weights, pixel_loss, to_alpha, to_lambda

SCORES = torch.tensor([[-90., -2., 0.], [.3, 4., 90.]])
ones, zeros = torch.ones_like(SCORES), torch.zeros_like(SCORES)


@pytest.mark.parametrize("rules, part, expected", [
    (GANLoss(), "real", F.binary_cross_entropy_with_logits(SCORES, ones)),
    (GANLoss(), "fake", F.binary_cross_entropy_with_logits(SCORES, zeros)),
    (GANLoss(), "generator", F.binary_cross_entropy_with_logits(SCORES, ones)),
    (GANLoss(minimax=True), "generator", -F.binary_cross_entropy_with_logits(SCORES, zeros)),
    (GANLoss(smoothing=.2), "real", F.binary_cross_entropy_with_logits(SCORES, .8*ones)),
    (GANLoss(smoothing=.2), "fake", F.binary_cross_entropy_with_logits(SCORES, zeros)),
    (GANLoss(smoothing=.2), "generator", F.binary_cross_entropy_with_logits(SCORES, ones)),
    (GANLoss("lsq"), "real", F.mse_loss(SCORES, ones)), (GANLoss("lsq"), "fake", F.mse_loss(SCORES, zeros)),
    (GANLoss("lsq"), "generator", F.mse_loss(SCORES, ones)), (GANLoss("lsq", .1), "real", F.mse_loss(SCORES, .9*ones)),
    (GANLoss("hinge"), "real", torch.clamp(1 - SCORES, min=0).mean()), (GANLoss("hinge"), "fake", torch.clamp(1 + SCORES, min=0).mean()),
    (GANLoss("hinge"), "generator", -SCORES.mean())])
def test_losses_are_those_of_the_papers(rules, part, expected): torch.testing.assert_close(getattr(rules, part)(SCORES), expected)


@pytest.mark.parametrize("kind", GAN_LOSSES)
def test_the_discriminators_loss_is_the_mean_of_its_parts(kind):
    rules = GANLoss(kind)
    torch.testing.assert_close(rules.discriminator(SCORES, -SCORES), (rules.real(SCORES) + rules.fake(-SCORES))/2)


@pytest.mark.parametrize("kind", GAN_LOSSES)
def test_gradients_are_finite_and_pull_the_right_way(kind):
    s = SCORES.clone().requires_grad_()
    grad = torch.autograd.grad(GANLoss(kind).generator(s), s)[0]
    assert grad.isfinite().all() and (grad[0] < 0).all()


@pytest.mark.parametrize("rules", [GANLoss(), GANLoss(smoothing=.1), GANLoss(smoothing=.3), GANLoss("lsq"), GANLoss("lsq", .1), GANLoss("hinge")])
def test_undecided_is_the_best_constant(rules):
    s = torch.linspace(-3, 3, 6001)
    best = torch.stack([rules.discriminator(x, x) for x in s]).min().item()
    assert abs(rules.undecided - best) < 1e-5


def test_the_sure_discriminator_silences_only_the_minimax_cost():
    def slope(rules):
        s = torch.tensor([-10.], requires_grad=True)
        return torch.autograd.grad(rules.generator(s), s)[0].abs().item()
    assert slope(GANLoss(minimax=True)) < 5e-5 and slope(GANLoss()) > .9999


def test_one_slider_for_two_conventions():
    for alpha in (.01, .1, .5, .9): assert math.isclose(to_alpha(*lambda_weights(to_lambda(*alpha_weights(alpha)))), alpha)
    assert alpha_weights(.1) == (.9, .1) and lambda_weights(100) == (100., 1.)


@pytest.mark.parametrize("wrong, sentence", [
    (lambda: GANLoss("wgan"), "no adversarial loss 'wgan'; there are bce, lsq, hinge"), (lambda: GANLoss("hinge", .1), "no labels that could be smoothed"),
    (lambda: GANLoss("lsq", minimax=True), "minimax cost belongs to bce"), (lambda: GANLoss(smoothing=.7), "between 0 and 0.5"),
    (lambda: pixel_loss("l3"), "no loss 'l3'; there are mae, mse"), (lambda: alpha_weights(1.1), "between 0 and 1"), (lambda: lambda_weights(-1), "not negative")])
def test_mistakes_get_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence): wrong()


def test_pixel_losses_have_their_names():
    a, b = torch.rand(2, 2, 4, 4), torch.rand(2, 2, 4, 4)
    assert list(LOSSES) == ["mae", "mse"]
    torch.testing.assert_close(pixel_loss("mae")(a, b), (a - b).abs().mean())
    torch.testing.assert_close(pixel_loss("mse")(a, b), ((a - b)**2).mean())
