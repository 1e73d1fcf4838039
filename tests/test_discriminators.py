"""The discriminators of three reports: their layers, their size, and what they look at."""
import copy

import matplotlib
import pytest
import torch
from torch import nn

from colorize.discriminators import (DISCRIMINATORS, ConvDiscriminator, PatchDiscriminator, UNetDiscriminator, create_discriminator, receptive_field,
                                     show_receptive_field, show_score_map)

matplotlib.use("Agg")
PRINTED = """PatchDiscriminator(
  (model): Sequential(
    (0): Sequential(
      (0): Conv2d(3, 64, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1))
      (1): LeakyReLU(negative_slope=0.2, inplace=True)
    )
    (1): Sequential(
      (0): Conv2d(64, 128, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1), bias=False)
      (1): BatchNorm2d(128, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (2): LeakyReLU(negative_slope=0.2, inplace=True)
    )
    (2): Sequential(
      (0): Conv2d(128, 256, kernel_size=(4, 4), stride=(2, 2), padding=(1, 1), bias=False)
      (1): BatchNorm2d(256, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (2): LeakyReLU(negative_slope=0.2, inplace=True)
    )
    (3): Sequential(
      (0): Conv2d(256, 512, kernel_size=(4, 4), stride=(1, 1), padding=(1, 1), bias=False)
      (1): BatchNorm2d(512, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
      (2): LeakyReLU(negative_slope=0.2, inplace=True)
    )
    (4): Sequential(
      (0): Conv2d(512, 1, kernel_size=(4, 4), stride=(1, 1), padding=(1, 1))
    )
  )
)"""


def count(net): return sum(p.numel() for p in net.parameters())
def kinds(net): return [type(layer).__name__ for layer in net.modules() if not list(layer.children())]


@pytest.mark.parametrize("net, parameters", [
    (PatchDiscriminator(), 2_765_633), (UNetDiscriminator(4, 256), 264_341), (UNetDiscriminator(16, 256), 1_081_937), (ConvDiscriminator(120), 1_907_905)])
def test_parameters_are_those_of_the_reports(net, parameters): assert count(net) == parameters


def test_the_patchgan_has_the_layers_that_were_printed():
    assert repr(PatchDiscriminator()).replace("affine=True, bias=True", "affine=True") == PRINTED  # newer versions of PyTorch print one word more


def test_the_unet_has_the_layers_of_its_report():
    net = UNetDiscriminator(4, 64)
    assert kinds(net.unet) == ["Conv2d", "LeakyReLU"] + ["Conv2d", "LeakyReLU", "BatchNorm2d"]*3 + ["ReLU", "ConvTranspose2d", "BatchNorm2d", "Dropout"]*2 \
        + ["ReLU", "ConvTranspose2d", "Tanh"]
    assert all(layer.bias is None for layer in net.unet.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)))
    assert [layer.p for layer in net.unet.modules() if isinstance(layer, nn.Dropout)] == [.5, .5]


def test_the_unets_score_is_divided_by_its_width():
    for complexity in (4, 8):
        net = UNetDiscriminator(complexity, 16).eval()
        nn.init.zeros_(net.score.weight), nn.init.ones_(net.score.bias)
        torch.testing.assert_close(net(torch.rand(2, 3, 16, 16)), torch.full((2, 1), 1/complexity))


def test_the_classifier_has_the_layers_of_its_report():
    net = ConvDiscriminator()
    assert [(c.out_channels, c.kernel_size[0]) for c in net.features if isinstance(c, nn.Conv2d)] == [(c, k) for c, k in ((32, 7), (64, 5), (128, 3), (256, 3)) for _ in "ab"]
    assert [layer.out_features for layer in net.dense if isinstance(layer, nn.Linear)] == [512, 128, 16, 1]


def test_weights_begin_as_in_pix2pix_and_keras():
    torch.manual_seed(0)
    for spectral in (False, True):
        net = PatchDiscriminator(spectral=spectral)
        conv, norm = net.model[3][0], net.model[3][1]
        weight = conv.parametrizations.weight.original if spectral else conv.weight
        assert abs(weight.std() - .02) < 1e-3 and abs(weight.mean()) < 1e-3
        assert abs(norm.weight.mean() - 1) < .01 and abs(norm.weight.std() - .02) < .005 and not norm.bias.any() and not net.model[4][0].bias.any()
    dense = ConvDiscriminator().dense[1]
    assert dense.weight.abs().max() <= (6/sum(dense.weight.shape))**.5 and not dense.bias.any()


@pytest.mark.parametrize("arch, size, shape", [("patch", 256, (2, 1, 30, 30)), ("patch", 64, (2, 1, 6, 6)), ("unet", 64, (2, 1)), ("conv", 120, (2, 1))])
def test_shapes(arch, size, shape): assert create_discriminator(arch, size)(torch.rand(2, 3, size, size)).shape == shape


def test_the_patchgan_takes_any_height_and_width():
    net = PatchDiscriminator(filters=4)
    assert net(torch.rand(1, 3, 70, 134)).shape == (1, 1, 6, 14) and PatchDiscriminator(n_in=2, filters=4)(torch.rand(1, 2, 64, 64)).shape == (1, 1, 6, 6)


@pytest.mark.parametrize("arch", DISCRIMINATORS)
def test_scores_are_not_probabilities(arch):
    assert not {"Sigmoid", "Softmax"} & set(kinds(create_discriminator(arch, 96)))


@pytest.mark.parametrize("net", [PatchDiscriminator(n_down=n, filters=4, norm=False) for n in (1, 2, 3)] + [PatchDiscriminator(filters=4, norm=False, spectral=True)]
                         + [nn.Sequential(nn.Conv2d(3, 2, 3, dilation=3, padding=1), nn.AvgPool2d(3, 2), nn.Conv2d(2, 1, 3, 2, 2))]
                         + [nn.Sequential(nn.Conv2d(3, 2, 5, padding=2), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3, 2), nn.Conv2d(2, 1, 3))])
def test_the_receptive_field_is_what_the_gradient_sees(net):
    torch.manual_seed(0)
    x = torch.rand(1, 3, 200, 200, requires_grad=True)
    out = net.eval()(x)
    row, column = out.shape[2]//2, out.shape[3]//2 - 1
    out[0, 0, row, column].backward()
    seen = x.grad.abs().sum((0, 1))
    size, stride, start = receptive_field(net)
    for touched, index in ((seen.sum(1), row), (seen.sum(0), column)):
        touched = touched.nonzero().flatten()
        first, last = start + index*stride, start + index*stride + size - 1
        if "MaxPool2d" in kinds(net): assert first <= touched[0] <= touched[-1] <= last
        else: assert (touched[0], touched[-1]) == (first, last)


def test_patches_are_drawn_where_they_are():
    import matplotlib.pyplot as plt
    import numpy as np
    ax = plt.figure().gca()
    show_receptive_field(np.zeros((128, 256, 3), np.uint8), PatchDiscriminator(filters=4), [(0, 0), (13, 29)], ax)
    assert [(p.get_x(), p.get_y(), p.get_width(), p.get_height()) for p in ax.patches] == [(-23.5, -23.5, 70, 70), (29*8 - 23.5, 13*8 - 23.5, 70, 70)]
    with pytest.raises(ValueError, match=r"no score \(14, 0\): for 128×256 pixels there are 14×30"):
        show_receptive_field(np.zeros((128, 256, 3), np.uint8), PatchDiscriminator(filters=4), [(14, 0)])
    plt.close("all")


def test_the_score_map_lies_over_its_patches():
    import matplotlib.pyplot as plt
    net = nn.Sequential(nn.Conv2d(3, 1, 4, 4)).train()
    show_score_map(torch.zeros(2, 1, 16, 24), torch.zeros(2, 2, 16, 24), net)
    photo, believed = [ax.images for ax in plt.gcf().axes[:2]][0][0], plt.gcf().axes[1].images[1]
    assert tuple(believed.get_extent()) == tuple(photo.get_extent()) == (-.5, 23.5, 15.5, -.5)
    assert believed.get_array().shape == (4, 6) and len(plt.gcf().axes) == 4 and net.training
    plt.close("all")


@pytest.mark.parametrize("arch, args", [("patch", dict(filters=8)), ("unet", dict(complexity=4)), ("conv", {})])
def test_spectral_normalization_bounds_every_layer(arch, args):
    torch.manual_seed(0)
    net = create_discriminator(arch, 96, spectral=True, **args).train()
    assert count(net) == count(create_discriminator(arch, 96, **args))
    for _ in range(15): net(torch.rand(2, 3, 96, 96))
    for layer in net.modules():
        if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)): continue
        weight = layer.weight.detach().transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight.detach()
        assert .8 < torch.linalg.matrix_norm(weight.flatten(1), 2) < 1.2


@pytest.mark.parametrize("arch", DISCRIMINATORS)
@pytest.mark.parametrize("spectral", [False, True])
def test_discriminators_can_be_copied_and_restored(arch, spectral):
    net, other = (create_discriminator(arch, 96, spectral=spectral).eval() for _ in range(2))
    x = torch.rand(1, 3, 96, 96)
    other.load_state_dict(net.state_dict())
    with torch.no_grad(): assert torch.equal(net(x), copy.deepcopy(net)(x)) and torch.equal(net(x), other.eval()(x))


@pytest.mark.parametrize("wrong, sentence", [
    (lambda: create_discriminator("jury"), "no discriminator 'jury'; there are patch, unet, conv"), (lambda: ConvDiscriminator(91), "too small"),
    (lambda: UNetDiscriminator(size=100), "multiple of 8"), (lambda: UNetDiscriminator(size=0), "multiple of 8"),
    (lambda: UNetDiscriminator(4, 64)(torch.rand(1, 3, 64, 32)), "64×64 pixels, and got 64×32"),
    (lambda: ConvDiscriminator(120)(torch.rand(1, 3, 128, 128)), "120×120 pixels"), (lambda: create_discriminator("conv", 64), "too small"),
    (lambda: receptive_field(UNetDiscriminator(4, 64)), "has a ConvTranspose2d"), (lambda: receptive_field(ConvDiscriminator()), "has a Linear"),
    (lambda: receptive_field(nn.Conv2d(1, 1, (3, 5))), "square windows"), (lambda: receptive_field(nn.Conv2d(1, 1, 3, padding="same")), "padding in numbers")])
def test_mistakes_get_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence): wrong()


@pytest.mark.parametrize("args", [dict(slope=0.), dict(pool=True), dict(slope=.1, pool=True), dict(pool=True, norm=False), dict(pool=True, spectral=True)])
def test_broken_rules_change_neither_weights_nor_the_number_of_scores(args):
    torch.manual_seed(0); plain = PatchDiscriminator(filters=8, **{k: v for k, v in args.items() if k in ("norm", "spectral")})
    torch.manual_seed(0); net = PatchDiscriminator(filters=8, **args)
    for (name, a), (other, b) in zip(plain.state_dict().items(), net.state_dict().items(), strict=True): assert name == other and torch.equal(a, b)
    x = torch.rand(2, 3, 64, 96)
    assert net(x).shape == plain(x).shape == (2, 1, 6, 10) and not torch.allclose(net(x), plain(x))


@pytest.mark.parametrize("pool", [False, True])
def test_a_slope_of_zero_is_a_plain_relu(pool):
    net = PatchDiscriminator(filters=4, slope=0., pool=pool).eval()
    other, x = copy.deepcopy(net), torch.randn(1, 3, 64, 64)
    for block in other.model[:-1]:
        for i, layer in enumerate(block):
            if isinstance(layer, nn.LeakyReLU): block[i] = nn.ReLU()
    assert kinds(other).count("ReLU") == 4 and torch.equal(net(x), other(x))


def test_poolings_take_the_place_of_the_strides():
    net = PatchDiscriminator(pool=True)
    assert [kinds(block) for block in net.model] == [["Conv2d", "LeakyReLU", "MaxPool2d"], *[["Conv2d", "BatchNorm2d", "LeakyReLU", "MaxPool2d"]]*2,
                                                     ["Conv2d", "BatchNorm2d", "LeakyReLU"], ["Conv2d"]]
    assert [block[0].stride[0] for block in net.model] == [1]*5 and count(net) == 2_765_633


@pytest.mark.parametrize("n_down", [1, 2, 3])
def test_the_receptive_field_with_poolings(n_down):
    torch.manual_seed(0)
    net = PatchDiscriminator(filters=4, n_down=n_down, norm=False, pool=True).eval()
    (size, stride, start), x = receptive_field(net), torch.rand(1, 3, 200, 200, requires_grad=True)
    assert size == {1: 17, 2: 37, 3: 77}[n_down] and stride == 2**n_down
    for block in net.model:  # the mean sees what the maximum can see
        for i, layer in enumerate(block):
            if isinstance(layer, nn.MaxPool2d): block[i] = nn.AvgPool2d(2)
    assert receptive_field(net) == (size, stride, start)
    out = net(x)
    row, column = out.shape[2]//2, out.shape[3]//2 - 1
    out[0, 0, row, column].backward()
    seen = x.grad.abs().sum((0, 1))
    for touched, index in ((seen.sum(1), row), (seen.sum(0), column)):
        touched = touched.nonzero().flatten()
        assert (touched[0], touched[-1]) == (start + index*stride, start + index*stride + size - 1)
