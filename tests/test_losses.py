"""The adversarial losses against PyTorch's own formulas, and the two customs of weighing them."""
import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from colorize.losses import GAN_LOSSES, LOSSES, GANLoss, alpha_weights, lambda_weights, pixel_loss, to_alpha, to_lambda

SCORES = torch.tensor([[-90., -2., 0.], [.3, 4., 90.]])
bce, mse = F.binary_cross_entropy_with_logits, F.mse_loss
def target(value): return lambda loss: lambda s: loss(s, torch.full_like(s, value))

FORMULAS = [
    (GANLoss(), "real", target(1.)(bce)), (GANLoss(), "fake", target(0.)(bce)), (GANLoss(), "generator", target(1.)(bce)),
    (GANLoss(minimax=True), "generator", lambda s: -target(0.)(bce)(s)), (GANLoss(minimax=True), "fake", target(0.)(bce)),
    (GANLoss(smoothing=.2), "real", target(.8)(bce)), (GANLoss(smoothing=.2), "fake", target(0.)(bce)), (GANLoss(smoothing=.2), "generator", target(1.)(bce)),
    (GANLoss("lsq"), "real", target(1.)(mse)), (GANLoss("lsq"), "fake", target(0.)(mse)), (GANLoss("lsq"), "generator", target(1.)(mse)),
    (GANLoss("lsq", .1), "real", target(.9)(mse)), (GANLoss("lsq", .1), "fake", target(0.)(mse)), (GANLoss("lsq", .1), "generator", target(1.)(mse)),
    (GANLoss("hinge"), "real", lambda s: F.relu(1 - s).mean()), (GANLoss("hinge"), "fake", lambda s: F.relu(1 + s).mean()),
    (GANLoss("hinge"), "generator", lambda s: -s.mean())]


@pytest.mark.parametrize("rules, part, formula", FORMULAS, ids=lambda x: None if callable(x) else str(x))
def test_losses_and_their_gradients_are_those_of_the_papers(rules, part, formula):
    ours, theirs = SCORES.clone().requires_grad_(), SCORES.clone().requires_grad_()
    a, b = getattr(rules, part)(ours), formula(theirs)
    a.backward(), b.backward()
    assert a.shape == () and ours.grad.isfinite().all()
    torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("kind", GAN_LOSSES)
def test_the_discriminators_loss_is_the_mean_of_its_halves_for_any_number_of_scores(kind):
    rules, few, map_ = GANLoss(kind), torch.randn(5, 1), torch.randn(5, 1, 3, 4)
    torch.testing.assert_close(rules.discriminator(real_scores=few, fake_scores=map_), (rules.real(few) + rules.fake(map_))/2)
    torch.testing.assert_close(rules.generator(fake_scores=map_), rules.generator(map_.flatten()))


@pytest.mark.parametrize("kind", GAN_LOSSES)
def test_each_side_pulls_its_own_way(kind):
    def pull(part):
        s = torch.tensor([.1], requires_grad=True)
        return torch.autograd.grad(getattr(GANLoss(kind), part)(s), s)[0].item()
    assert pull("real") < 0 < pull("fake") and pull("generator") < 0


@pytest.mark.parametrize("rules", [GANLoss(), GANLoss(smoothing=.1), GANLoss(smoothing=.3), GANLoss("lsq"), GANLoss("lsq", .1), GANLoss("hinge")], ids=str)
def test_undecided_is_the_best_constant(rules):
    best = min(rules.discriminator(s, s).item() for s in torch.linspace(-3, 3, 6001, dtype=torch.float64))
    assert abs(rules.undecided - best) < 1e-6


def test_undecided_without_smoothing():
    assert [GANLoss(kind).undecided for kind in GAN_LOSSES] == pytest.approx([math.log(2), .25, 1.])


@pytest.mark.parametrize("s", [.05, .1, .3])
def test_smoothing_moves_the_best_score_of_true_pictures_to_its_logit(s):
    score = torch.tensor(math.log((1 - s)/s), dtype=torch.float64, requires_grad=True)
    assert abs(torch.autograd.grad(GANLoss(smoothing=s).real(score), score)[0].item()) < 1e-9


def test_the_sure_discriminator_silences_only_the_minimax_cost():
    def slope(rules):
        s = torch.tensor([-10.], requires_grad=True)
        return torch.autograd.grad(rules.generator(s), s)[0].item()
    assert slope(GANLoss(minimax=True)) == pytest.approx(-4.54e-5, rel=1e-3) and slope(GANLoss()) == pytest.approx(-1, abs=1e-4)


def test_half_precision_stays_finite():
    for rules in (GANLoss(kind) for kind in GAN_LOSSES):
        assert all(loss.isfinite() for loss in (rules.discriminator(SCORES.bfloat16(), SCORES.bfloat16()), rules.generator(SCORES.bfloat16())))


def test_one_slider_for_two_customs():
    for alpha in (.01, .1, .5, .9): assert math.isclose(to_alpha(*lambda_weights(to_lambda(*alpha_weights(alpha)))), alpha)
    assert alpha_weights(.1) == (.9, .1) and lambda_weights(100) == (100., 1.)
    assert to_alpha(*lambda_weights(100)) == pytest.approx(1/101) and to_lambda(1, 0) == math.inf and to_alpha(0, 3) == 1


@pytest.mark.parametrize("optimizer, same", [(torch.optim.Adam, True), (torch.optim.SGD, False)])
def test_a_common_factor_is_none_for_adam(optimizer, same):
    torch.manual_seed(0)
    start, x, y = nn.Linear(4, 2), torch.randn(16, 4), torch.randn(16, 2)
    def trained(l1_weight, gan_weight):
        net = copy.deepcopy(start)
        opt = optimizer(net.parameters(), lr=.01)
        for _ in range(20):
            opt.zero_grad()
            (l1_weight*F.l1_loss(net(x), y) + gan_weight*GANLoss().generator(net(x))).backward()
            opt.step()
        return net.weight.detach()
    a, b = trained(*lambda_weights(100)), trained(*alpha_weights(1/101))
    assert ((a - b).abs().max() < 1e-4) == same


@pytest.mark.parametrize("wrong, sentence", [
    (lambda: GANLoss("wgan"), "no adversarial loss 'wgan'; there are bce, lsq, hinge"), (lambda: GANLoss("hinge", .1), "no labels that could be smoothed"),
    (lambda: GANLoss("lsq", minimax=True), "minimax cost belongs to bce"), (lambda: GANLoss(smoothing=.7), "between 0 and 0.5"),
    (lambda: GANLoss(smoothing=-.1), "between 0 and 0.5"), (lambda: pixel_loss("l3"), "^there is no loss 'l3'; there are mae, mse$"),
    (lambda: alpha_weights(1.1), "between 0 and 1"), (lambda: alpha_weights(-.1), "between 0 and 1"), (lambda: alpha_weights(math.nan), "between 0 and 1"),
    (lambda: lambda_weights(-1), "not negative"), (lambda: lambda_weights(math.inf), "not inf"), (lambda: to_alpha(0, 0), "not both of them 0"),
    (lambda: to_lambda(0, 0), "not both of them 0"), (lambda: to_alpha(-1, 2), "weights are not negative")])
def test_mistakes_get_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence): wrong()


def test_pixel_losses_have_their_names():
    a, b = torch.rand(2, 2, 4, 4), torch.rand(2, 2, 4, 4)
    assert list(LOSSES)[:2] == ["mae", "mse"]
    torch.testing.assert_close(pixel_loss("mae")(a, b), (a - b).abs().mean())
    torch.testing.assert_close(pixel_loss("mse")(a, b), ((a - b)**2).mean())
