"""The discriminators of three reports: their layers, their size, and what they look at."""
import pytest
import torch
from torch import nn

from colorize.discriminators import (DISCRIMINATORS, ConvDiscriminator, PatchDiscriminator, UNetDiscriminator, create_discriminator, receptive_field)


def count(net): return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("net, parameters", [
    (PatchDiscriminator(), 2_765_633), (UNetDiscriminator(4, 256), 264_341), (UNetDiscriminator(16, 256), 1_081_937), (ConvDiscriminator(120), 1_907_905)])
def test_parameters_are_those_of_the_reports(net, parameters): assert count(net) == parameters


def test_the_patchgan_has_the_layers_that_were_printed():
    layers = [(type(l).__name__, getattr(l, "out_channels", None), getattr(l, "stride", None), getattr(l, "bias", None) is not None)
              for l in PatchDiscriminator().modules() if not list(l.children())]
    conv = lambda o, s, bias: ("Conv2d", o, (s, s), bias)
    assert [l for l in layers if l[0] == "Conv2d"] == [conv(64, 2, True), conv(128, 2, False), conv(256, 2, False), conv(512, 1, False), conv(1, 1, True)]
    assert [l[0] for l in layers] == ["Conv2d", "LeakyReLU"] + ["Conv2d", "BatchNorm2d", "LeakyReLU"]*3 + ["Conv2d"]
    assert all(l.negative_slope == .2 for l in PatchDiscriminator().modules() if isinstance(l, nn.LeakyReLU))


@pytest.mark.parametrize("arch, size, shape", [("patch", 256, (2, 1, 30, 30)), ("patch", 64, (2, 1, 6, 6)), ("unet", 64, (2, 1)), ("conv", 120, (2, 1))])
def test_shapes(arch, size, shape): assert create_discriminator(arch, size)(torch.rand(2, 3, size, size)).shape == shape


@pytest.mark.parametrize("arch", DISCRIMINATORS)
def test_scores_are_not_probabilities(arch):
    assert not any(isinstance(layer, (nn.Sigmoid, nn.Softmax)) for layer in create_discriminator(arch, 128).modules())


@pytest.mark.parametrize("net", [PatchDiscriminator(n_down=n, filters=4, norm=False) for n in (1, 2, 3)]
                         + [nn.Sequential(nn.Conv2d(3, 2, 5, padding=2), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3, 2), nn.Conv2d(2, 1, 3))])
def test_the_receptive_field_is_what_the_gradient_sees(net):
    x = torch.rand(1, 3, 200, 200, requires_grad=True)
    out = net(x)
    row, column = out.shape[2]//2, out.shape[3]//2 - 1
    out[0, 0, row, column].backward()
    seen = x.grad.abs().sum((0, 1))
    size, stride, start = receptive_field(net)
    for touched, index in ((seen.sum(1), row), (seen.sum(0), column)):
        touched = touched.nonzero().flatten()
        first, last = start + index*stride, start + index*stride + size - 1
        if any(isinstance(l, nn.MaxPool2d) for l in net): assert first <= touched[0] <= touched[-1] <= last
        else: assert (touched[0], touched[-1]) == (first, last)


def test_spectral_normalization_bounds_every_layer():
    torch.manual_seed(0)
    for net, size in ((PatchDiscriminator(filters=8, spectral=True), 64), (ConvDiscriminator(92, spectral=True), 92)):
        for _ in range(30): net.train()(torch.rand(2, 3, size, size))
        weights = [l.weight.detach().flatten(1) for l in net.modules() if isinstance(l, (nn.Conv2d, nn.Linear))]
        assert all(.8 < torch.linalg.matrix_norm(w, 2) < 1.2 for w in weights)


@pytest.mark.parametrize("wrong, sentence", [
    (lambda: create_discriminator("jury"), "no discriminator 'jury'; there are patch, unet, conv"), (lambda: ConvDiscriminator(91), "too small"),
    (lambda: UNetDiscriminator(size=100), "multiple of 8"), (lambda: UNetDiscriminator(4, 64)(torch.rand(1, 3, 64, 32)), "64×64 pixels, and got 64×32"),
    (lambda: ConvDiscriminator(120)(torch.rand(1, 3, 128, 128)), "120×120 pixels")])
def test_mistakes_get_a_sentence(wrong, sentence):
    with pytest.raises(ValueError, match=sentence): wrong()
