"""The losses against formulas by hand and PyTorch's own, the plane of answers, and the two customs of weighing."""
import copy
import math
from urllib.error import URLError

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from colorize.lab import SCALES, LabScale, lab_to_rgb, rgb_to_lab
from colorize.losses import (GAN_LOSSES, LOSSES, FeatureLoss, GANLoss, ab_plane, alpha_weights, best_answers, colourfulness_loss, expected_loss, huber_loss,
                             ideal_judge, l1_l2_loss, lambda_weights, pixel_loss, show_loss_plane, to_alpha, to_lambda)

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
    (lambda: GANLoss(smoothing=-.1), "between 0 and 0.5"), (lambda: pixel_loss("l3"), "^there is no loss 'l3'; there are mae, mse, huber, l1_l2$"),
    (lambda: alpha_weights(1.1), "between 0 and 1"), (lambda: alpha_weights(-.1), "between 0 and 1"), (lambda: alpha_weights(math.nan), "between 0 and 1"),
    (lambda: lambda_weights(-1), "not negative"), (lambda: lambda_weights(math.inf), "not inf"), (lambda: to_alpha(0, 0), "not both of them 0"),
    (lambda: l1_l2_loss(torch.zeros(2), torch.zeros(2), 1.5), "lies between 0 and 1, not at 1.5"),
    (lambda: expected_loss("mae", [[0., 0.]], [.5], ab_plane()), "1 probabilities that add up to 1"),
    (lambda: expected_loss("mae", [[0., 0.]], [.5, .5], ab_plane()), "1 probabilities that add up to 1"),
    (lambda: expected_loss("mae", [[0., 0.], [1., 1.]], [1.5, -.5], ab_plane()), "2 probabilities"),
    (lambda: FeatureLoss(eyes(), ("9",)), "no layer '9'; its first layers are 0, 1, 2, 3"), (lambda: FeatureLoss(eyes(), (4,)), "has 4 layers, counted from 0"),
    (lambda: to_lambda(0, 0), "not both of them 0"), (lambda: to_alpha(-1, 2), "weights are not negative")])
def test_mistakes_get_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence): wrong()


def eyes():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, 2, 1))


def test_pixel_losses_have_their_names():
    a, b = torch.rand(2, 2, 4, 4), torch.rand(2, 2, 4, 4)
    assert list(LOSSES) == ["mae", "mse", "huber", "l1_l2"]
    e = (a - b).abs()
    for name, expected in dict(mae=e, mse=e**2, huber=torch.where(e < .1, e**2/.2, e - .05), l1_l2=(e + e**2)/2).items():
        assert pixel_loss(name)(a, b).shape == ()
        torch.testing.assert_close(pixel_loss(name)(a, b), expected.mean())


def test_huber_and_the_mixture_end_in_l1_and_l2():
    a, b = torch.rand(2, 2, 4, 4), torch.rand(2, 2, 4, 4)
    torch.testing.assert_close(huber_loss(a, b, 1e-6), F.l1_loss(a, b))
    torch.testing.assert_close(2*huber_loss(a, b, 1.), F.mse_loss(a, b))
    assert l1_l2_loss(a, b, 0) == F.l1_loss(a, b) and l1_l2_loss(a, b, 1) == F.mse_loss(a, b)


HOUSE = [[56., 40.], [-28., -8.]]


@pytest.mark.parametrize("loss", [*LOSSES, lambda pred, ab: (pred - ab).abs().max()])
@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_the_expected_loss_is_the_loss_times_its_probability(loss, scale):
    grid, p = ab_plane(60, 20), [.2, .8]
    ours, f = expected_loss(loss, HOUSE, p, grid, scale), LOSSES.get(loss, loss)
    assert ours.shape == grid.shape[:-1] == (7, 7) and not ours.requires_grad
    for i, j in ((0, 0), (3, 3), (2, 6)):
        by_hand = sum(q*f(scale.encode_ab(grid[i, j]), scale.encode_ab(torch.tensor(c))) for q, c in zip(p, HOUSE))
        torch.testing.assert_close(ours[i, j], by_hand)


def answers(loss, p, **kwargs):
    plane = ab_plane()
    return best_answers(expected_loss(loss, HOUSE, p, plane, **kwargs), plane)


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_l2_wants_the_mean_and_l1_any_median(scale):
    assert answers("mse", [.5, .5], scale=scale).tolist() == [[14, 16]]
    medians = answers("mae", [.5, .5], scale=scale)
    assert len(medians) == 43*25 and medians.amin(0).tolist() == [-28, -8] and medians.amax(0).tolist() == [56, 40]
    assert answers("mae", [.6, .4], scale=scale).tolist() == [[56, 40]] and answers("mae", [.4, .6], scale=scale).tolist() == [[-28, -8]]
    assert (answers("mse", [.6, .4], scale=scale) - torch.tensor([[22.4, 20.8]])).abs().max() <= 1


@pytest.mark.parametrize("p", [[.5, .5], [.6, .4], [.9, .1]])
def test_before_the_judge_both_colours_are_best(p):
    judge = ideal_judge(HOUSE, p)
    assert sorted(answers(lambda pred, ab: GANLoss().generator(judge(pred)), p).tolist()) == sorted(HOUSE)


def test_the_ideal_judges_score_is_the_logarithm_of_two_densities():
    D = torch.distributions
    ab, p, blur = ab_plane(100, 10).float(), torch.tensor([.3, .7]), 8.
    true = D.MixtureSameFamily(D.Categorical(p), D.Independent(D.Normal(torch.tensor(HOUSE), torch.full((2, 2), blur)), 1))
    made_up = D.Independent(D.Uniform(torch.full((2,), -110.), torch.full((2,), 110.)), 1)
    for scale in SCALES.values():
        ours = ideal_judge(HOUSE, p, blur, scale=scale)(scale.encode_ab(ab))
        torch.testing.assert_close(ours, true.log_prob(ab) - made_up.log_prob(ab), atol=1e-3, rtol=1e-4)


def test_the_planes_are_drawn():
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    show_loss_plane({"L1": "mae", "mine": lambda pred, ab: (pred - ab).square().sum()}, HOUSE, [.5, .5], L=40.)
    left, right = plt.gcf().axes
    assert [ax.get_title() for ax in (left, right)] == ["L1", "mine"]
    assert len(left.lines[-1].get_xdata()) == 43*25 and right.lines[-1].get_xydata().tolist() == [[14, 16]]
    show_loss_plane(["mse"], HOUSE, [1., 0.])
    assert plt.gcf().axes[0].lines[-1].get_xydata().tolist() == [HOUSE[0]]
    plt.close("all")


def photo(scale=LabScale()):
    torch.manual_seed(2)
    return scale.encode(rgb_to_lab(torch.rand(2, 3, 8, 8)))


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("normalize", [True, False])
def test_the_feature_loss_is_what_one_computes_by_hand(scale, normalize):
    net, (L, ab) = eyes().eval(), photo(scale)
    pred = scale.encode_ab(.5*scale.decode_ab(ab))
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ((.485, .456, .406), (.229, .224, .225)))
    def maps(ab):
        x = lab_to_rgb(scale.decode(L, ab))
        conv = F.conv2d((x - mean)/std if normalize else x, net[0].weight, net[0].bias, padding=1)
        return conv, net[3](net[2](conv.relu()))
    by_hand = [F.mse_loss(a, b) for a, b in zip(maps(pred), maps(ab))]
    for layers, expected in (((0, 3), sum(by_hand)/2), (("0", "3"), sum(by_hand)/2), ((0,), by_hand[0]), ((-1,), by_hand[1]), (None, by_hand[1])):
        torch.testing.assert_close(FeatureLoss(net, layers, scale, normalize)(L, pred, ab), expected)
    assert FeatureLoss(net, (0, 3), scale, normalize)(L, ab, ab) == 0


def test_only_the_prediction_gets_a_gradient_and_the_network_stays_as_it_was():
    net = eyes().train()
    loss, (L, ab) = FeatureLoss(net, (0, 2)).train(), photo()
    before = copy.deepcopy(loss.state_dict())
    L, ab, pred = L.requires_grad_(), ab.requires_grad_(), (.5*ab.detach()).requires_grad_()
    loss(L, pred, ab).backward()
    assert pred.grad.abs().sum() > 0 and L.grad is None and ab.grad is None
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters()) and not loss.features.training
    assert all(torch.equal(v, before[k]) for k, v in loss.state_dict().items())
    assert net.training and all(p.requires_grad and p.grad is None for p in net.parameters()) and net[1].inplace


def test_a_step_downhill_makes_the_features_more_alike():
    loss, (L, ab) = FeatureLoss(eyes(), (0, 3)), photo()
    pred = (.3*ab).requires_grad_()
    before = loss(L, pred, ab)
    grad, = torch.autograd.grad(before, pred)
    assert loss(L, pred - .01*grad/grad.norm(), ab) < before


@pytest.mark.parametrize("factor", [0., 1., 30., 1e20, -1e20])
def test_gradients_are_finite_in_black_in_white_and_beyond_the_gamut(factor):
    primaries = torch.tensor([[r, g, b] for r in (0., 1.) for g in (0., 1.) for b in (0., 1.)]).T.view(1, 3, 2, 4)
    L, ab = LabScale().encode(rgb_to_lab(primaries))
    L = torch.cat([L, torch.full_like(L, -1.), torch.full_like(L, 1.), torch.full_like(L, 1.3)])
    ab = ab.expand(4, -1, -1, -1)
    pred = (factor*ab).requires_grad_()
    value = FeatureLoss(eyes(), (0, 3))(L, pred, .5*ab)
    value.backward()
    assert value.isfinite() and pred.grad.isfinite().all()


def test_vgg19_is_taken_to_the_layers_that_the_papers_name(monkeypatch):
    from torchvision.models import _api, vgg19
    with torch.device("meta"): state = {k: torch.zeros(v.shape, device="cpu") for k, v in vgg19().state_dict().items()}
    monkeypatch.setattr(_api, "load_state_dict_from_url", lambda *args, **kwargs: state)
    loss, x = FeatureLoss(layers=(8, 35)), torch.rand(1, 3, 32, 32)
    early, late = loss.maps(x)
    assert early.shape == (1, 128, 16, 16) and late.shape == (1, 512, 2, 2) and all(isinstance(loss.features[i], nn.ReLU) for i in (8, 35))
    monkeypatch.setattr("colorize.losses._vgg19", lambda: loss.features)
    small = FeatureLoss()
    assert small.layers == ["8"] and len(small.features) == 9 and torch.equal(small.maps(x)[0], early)


def test_without_a_network_the_missing_weights_get_a_sentence(monkeypatch):
    from torchvision.models import _api
    def offline(*args, **kwargs): raise URLError("no route")
    monkeypatch.setattr(_api, "load_state_dict_from_url", offline)
    with pytest.raises(RuntimeError, match="VGG19 could not be downloaded .*no route.* give FeatureLoss another network"): FeatureLoss()


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_colourfulness_is_a_mean_of_missing_chroma(scale):
    ab = torch.zeros(3, 2, 4, 4)
    ab[0, 0], ab[1] = 22., torch.tensor([33., -44.]).view(2, 1, 1)
    loss = colourfulness_loss(scale.encode_ab(ab), scale)
    torch.testing.assert_close(loss, torch.tensor(1 - (22 + 55)/3/110))
    torch.testing.assert_close(colourfulness_loss(scale.encode_ab(ab.repeat(2, 1, 5, 3)), scale), loss)
    torch.testing.assert_close(colourfulness_loss(scale.encode_ab(ab), scale, limit=22.), torch.tensor(1/3))
    assert colourfulness_loss(scale.encode_ab(2*ab), scale) < loss


def test_colourfulness_pulls_outwards_up_to_its_limit_and_grey_nowhere():
    ab = torch.tensor([[0., 0.], [.1, 0.], [0., -.5], [3., 4.]]).T.reshape(1, 2, 1, 4).requires_grad_()
    grad, = torch.autograd.grad(4*colourfulness_loss(ab), ab)
    torch.testing.assert_close(grad.reshape(2, 4).T, torch.tensor([[0., 0.], [-1., 0.], [0., 1.], [0., 0.]]))
