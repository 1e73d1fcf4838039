"""The networks of the reports: their parameters, sizes and bounds."""
import math

import pytest
import torch

from colorize.generators import ChromaRegressor, ColorizeNet, Pix2PixUNet, ScaledUNet, ValidUNet, count_parameters, create_generator, resnet_unet
from colorize.models.store import load_generator, save_generator

@pytest.mark.parametrize("net, parameters", [
    (ColorizeNet(), 57_338), (ValidUNet(3, "relu"), 1_406_403), (ChromaRegressor(), 3_842_210), (Pix2PixUNet(), 54_409_858),
    *[(ScaledUNet(n), parameters) for n, parameters in {16: 58_064, 24: 130_104, 30: 202_950, 38: 325_166, 46: 476_054, 52: 608_036, 72: 1_164_456}.items()]])
def test_networks_of_the_reports_have_their_parameters(net, parameters): assert count_parameters(net) == parameters


SMALL = {"colorize_net": dict(width=16, depth=2), "scaled_unet": dict(complexity=4), "valid_unet": {}, "pix2pix_unet": dict(filters=4, steps=4), "lite_unet": {}}


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("size", [(64, 64), (33, 70), (100, 40)])
def test_networks_of_the_reports_take_any_size(arch, size):
    with torch.no_grad(): out = create_generator(arch, **SMALL[arch]).eval()(torch.rand(2, 1, *size))
    assert out.shape == (2, 2, *size) and out.isfinite().all()


@pytest.mark.parametrize("arch", SMALL)
def test_sizes_that_fit_are_not_padded(arch, monkeypatch):
    net, x = create_generator(arch, **SMALL[arch]).eval(), torch.rand(1, 1, 64, 96)
    with torch.no_grad(): before = net(x)
    def refuse(*args, **kwargs): raise AssertionError("padded")
    monkeypatch.setattr(torch.nn.functional, "pad", refuse)
    with torch.no_grad(): assert torch.equal(net(x), before)


@pytest.mark.parametrize("arch", SMALL)
def test_networks_of_the_reports_are_saved_and_learn(arch, tmp_path):
    torch.manual_seed(0)
    net = create_generator(arch, **SMALL[arch])
    L, ab = torch.rand(4, 1, 32, 32), torch.full((4, 2, 32, 32), .4)
    opt, losses = torch.optim.Adam(net.parameters(), 5e-3), []
    for _ in range(40):
        losses.append(torch.nn.functional.l1_loss(net(L), ab))
        opt.zero_grad(); losses[-1].backward(); opt.step()
    assert losses[-1] < losses[0]/2
    save_generator(tmp_path/"m", net, dict(arch=arch, arch_args=SMALL[arch]))
    same, _ = load_generator(tmp_path/"m")
    with torch.no_grad(): assert torch.equal(same(L), net.eval()(L))


@pytest.mark.parametrize("activation, low, high", [("relu", 0, math.inf), ("sigmoid", 0, 1), ("tanh", -1, 1)])
def test_the_last_activation_bounds_the_answer(activation, low, high):
    for net in (ColorizeNet(16, 2, activation), ValidUNet(activation=activation)):
        for p in net.parameters(): torch.nn.init.normal_(p)
        with torch.no_grad(): out = net(torch.randn(1, 1, 32, 32))
        assert out.min() >= low and out.max() <= high


@pytest.mark.parametrize("width, depth, channels", [(128, 3, [8, 32, 128]), (512, 3, [8, 64, 512]), (64, 5, [8, 16, 24, 40, 64]), (128, 5, [8, 16, 32, 64, 128])])
def test_channels_grow_from_8_to_the_width(width, depth, channels):
    layers = ColorizeNet(width, depth).layers
    assert [layer[0].out_channels for layer in layers] == [*channels, *channels[-2::-1], 2]


def test_the_unpadded_unet_is_that_of_keras_layer_by_layer():
    net = ValidUNet(3, "relu")
    with torch.no_grad():
        x = torch.rand(1, 1, 120, 120)
        sides = [(x := down(x)).shape[-1] for down in net.down]
    assert sides == [112, 104, 96]
    kernels = [layer.kernel_size[0] for layer in net.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))]
    assert kernels == [5, 3, 3]*3 + [3] + [3, 3, 5]*3


@pytest.mark.parametrize("make, sentence", [
    (lambda: ColorizeNet(activation="softplus"), "no activation 'softplus'; there are none, relu"), (lambda: ColorizeNet(4), "width of at least 8"),
    (lambda: ColorizeNet(depth=1), "depth of at least 2"), (lambda: ChromaRegressor(100), "multiple of 64 pixels, not for 100"),
    (lambda: ChromaRegressor(64)(torch.zeros(1, 1, 128, 128)), "made for 64×64 pixels, and got 128×128"),
    (lambda: ValidUNet()(torch.zeros(1, 1, 24, 90)), "at least 25×25 pixels, not 24×90"), (lambda: Pix2PixUNet(steps=1), "at least 2 steps")])
def test_networks_that_cannot_be_get_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence): make()


@pytest.mark.parametrize("args", [dict(half=True), dict(half=True, y_range=(-1, 1), self_attention=True)])
def test_the_half_size_generator_is_saved_and_loaded(tmp_path, args):
    net = resnet_unet(size=64, **args).eval()
    save_generator(tmp_path, net, dict(arch="resnet_unet", arch_args=args))
    again, config = load_generator(tmp_path)
    assert config["arch_args"]["half"]
    with torch.no_grad():
        for height, width in [(64, 64), (33, 47), (128, 40)]:
            L = torch.rand(2, 1, height, width)*2 - 1
            out = net(L)
            assert out.shape == (2, 2, height, width) and torch.equal(again(L), out)


def test_blur_takes_a_checkerboard_away():
    from colorize.generators import _blurred
    board = ((torch.arange(32)[:, None] + torch.arange(32)) % 2).float()[None, None]
    assert (_blurred(board)[..., 1:, 1:] - .5).abs().max() == 0 and _blurred(board).shape == board.shape
    torch.manual_seed(0)
    sharp, blurred = create_generator("lite_unet"), create_generator("lite_unet", blur=True)
    blurred.load_state_dict(sharp.state_dict())
    L = torch.rand(1, 1, 64, 96)*2 - 1
    with torch.no_grad(): assert blurred.eval()(L).shape == (1, 2, 64, 96) and (blurred(L) - sharp.eval()(L)).abs().max() > 1e-4
