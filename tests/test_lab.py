"""The Lab conversion against other libraries, over the whole RGB cube, and the corners that the chapter leaves out."""
import subprocess, sys
import numpy as np, pytest, torch
from skimage.color import lab2rgb, rgb2lab

from colorize.lab import (SCALES, LabScale, chroma, hue, in_gamut, join_lab, lab_channels, lab_to_rgb, rgb_to_lab, show_images,
                          split_lab, to_gamut)

DEVICES = ["cpu"] + ["cuda"]*torch.cuda.is_available()


def photo(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape or (2, 3, 40, 56), generator=g, dtype=torch.uint8)


def box(n=45, levels=101):
    side, L = torch.linspace(-110, 110, n), torch.linspace(0, 100, levels)
    return torch.stack(torch.meshgrid(L, side, side, indexing="ij"), 1)


def same(x, y): return torch.allclose(x, y, rtol=0, atol=2e-4) # the ends of rows go through other instructions than the rest


def last(x): return x.movedim(-3, -1).contiguous().cpu().numpy()


@pytest.mark.parametrize("device", DEVICES)
def test_whole_cube_against_scikit_image_and_back(device):
    g, b = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    for r in range(0, 256, 16):
        rgb = torch.stack([torch.stack([torch.full_like(g, r + i), g, b]) for i in range(16)]).byte().to(device)
        lab = rgb_to_lab(rgb)
        theirs = rgb2lab(last(rgb))
        assert np.abs(last(lab) - theirs).max() < 1e-3
        from_floats = rgb_to_lab(rgb/255)
        assert (from_floats - lab).abs().max() < 1e-3
        assert in_gamut(lab).all()
        back = lab_to_rgb(lab)
        assert np.abs(last(back) - lab2rgb(last(lab).astype(np.float64))).max() < 1e-4
        assert torch.equal((back*255).round().byte(), rgb)


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
@pytest.mark.parametrize("device", DEVICES)
def test_outside_the_gamut_as_scikit_image(device):
    lab = box(23, 51).to(device)
    assert np.abs(last(lab_to_rgb(lab)) - lab2rgb(last(lab).astype(np.float64))).max() < 1e-4
    assert torch.equal(lab_to_rgb(lab), lab_to_rgb(lab, clip=False).clamp(0, 1))


def test_against_kornia():
    color = pytest.importorskip("kornia.color")
    rgb = photo()/255
    lab = rgb_to_lab(rgb)
    assert (lab - color.rgb_to_lab(rgb)).abs().max() < 1e-2 # its white has fewer digits
    assert (lab_to_rgb(lab) - color.lab_to_rgb(lab)).abs().max() < 1e-3


def test_float64_is_exact_and_stays_float64():
    rgb = (photo()/255).double()
    lab = rgb_to_lab(rgb)
    assert lab.dtype == torch.float64
    assert np.abs(last(lab) - rgb2lab(last(rgb))).max() < 2e-4 # scikit-image rounds the knee of the cube root and its slope
    assert lab_to_rgb(lab).dtype == torch.float64 and (lab_to_rgb(lab) - rgb).abs().max() < 1e-7
    assert to_gamut(lab).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_calculated_and_returned_in_float32(dtype):
    rgb = (photo()/255).to(dtype)
    lab = rgb_to_lab(rgb)
    assert lab.dtype == torch.float32 and torch.equal(lab, rgb_to_lab(rgb.float()))
    for f in (lab_to_rgb, to_gamut, chroma, hue): assert f(lab.to(dtype)).dtype == torch.float32
    assert torch.equal(lab_to_rgb(lab.to(dtype)), lab_to_rgb(lab.to(dtype).float()))


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_takes_no_digits(device):
    rgb = (photo()/255).to(device)
    with torch.autocast(device, dtype=torch.bfloat16): lab, back = rgb_to_lab(rgb), lab_to_rgb(rgb_to_lab(rgb))
    assert torch.equal(lab, rgb_to_lab(rgb)) and torch.equal(back, lab_to_rgb(lab))


def test_gradients_are_finite_at_the_corners():
    rgb = torch.tensor([[r, g, b] for r in (0., 1) for g in (0., 1) for b in (0., 1)]).T[:, None].clone().requires_grad_()
    rgb_to_lab(rgb).abs().sum().backward()
    assert rgb.grad.isfinite().all()
    lab = torch.tensor([[0., 0, 0], [100, 0, 0], [50, 110, -110], [0, 110, 110]]).T[:, None].clone().requires_grad_()
    (lab_to_rgb(lab, clip=False).sum() + chroma(lab).sum() + to_gamut(lab).sum()).backward()
    assert lab.grad.isfinite().all()


def test_gradcheck():
    rgb = torch.tensor([[.001, .5, .9, .03], [.02, .4, .1, .7], [.3, .6, .95, .005]], dtype=torch.float64)[:, None].requires_grad_()
    assert torch.autograd.gradcheck(rgb_to_lab, rgb)
    assert torch.autograd.gradcheck(lambda x: lab_to_rgb(x, clip=False), rgb_to_lab(rgb).detach().requires_grad_())


def test_the_same_with_and_without_gradients():
    rgb = photo()/255
    assert same(rgb_to_lab(rgb), rgb_to_lab(rgb.clone().requires_grad_()).detach())
    lab = rgb_to_lab(rgb)
    assert same(lab_to_rgb(lab), lab_to_rgb(lab.clone().requires_grad_()).detach())


@pytest.mark.parametrize("device", DEVICES)
def test_to_gamut_over_the_dense_box(device):
    lab = box().to(device)
    before = lab.clone()
    fixed, inside = to_gamut(lab), in_gamut(lab)
    assert torch.equal(lab, before)
    assert (rgb_to_lab(lab_to_rgb(fixed))[:, 0] - lab[:, 0]).abs().max() < .01
    assert in_gamut(fixed).all() and torch.equal(fixed[:, 0], lab[:, 0])
    assert torch.equal(torch.where(inside, fixed, 0), torch.where(inside, lab, 0))
    assert (chroma(fixed) <= chroma(lab) + 1e-3).all()
    coloured = (chroma(fixed) > .1).squeeze(1)
    turned = (hue(fixed) - hue(lab) + 180).remainder(360).squeeze(1) - 180
    assert turned[coloured].abs().max() < .01
    assert torch.equal(to_gamut(fixed), fixed)


def test_to_gamut_wastes_no_chroma():
    lab = torch.tensor([[60., 100, 100], [50, -100, 20], [30, 20, -110]]).T[:, None]
    fixed = to_gamut(lab)
    assert not in_gamut(fixed*torch.tensor([1, 1.001, 1.001])[:, None, None]).any()


def test_layouts():
    rgb, lab = photo(), rgb_to_lab(photo())
    last_u8 = rgb.contiguous(memory_format=torch.channels_last)
    assert same(rgb_to_lab(last_u8), lab)
    assert torch.allclose(rgb_to_lab(last_u8/255), lab, atol=1e-3)
    assert same(rgb_to_lab(rgb.transpose(-1, -2)), lab.transpose(-1, -2))
    assert same(rgb_to_lab(rgb[..., 3::2, ::3].flip(-1)), lab[..., 3::2, ::3].flip(-1))
    for f in (lab_to_rgb, to_gamut, in_gamut):
        many = lab*3
        assert torch.allclose(f(many.contiguous(memory_format=torch.channels_last)).float(), f(many).float(), atol=1e-3)


def test_batched_and_not():
    rgb = photo(2, 5, 3, 8, 9)
    lab = rgb_to_lab(rgb)
    assert lab.shape == rgb.shape
    assert same(lab[1, 2], rgb_to_lab(rgb[1, 2])) and torch.allclose(to_gamut(2*lab)[1, 2], to_gamut(2*lab[1, 2]), atol=.01)


def test_pieces_make_no_seams():
    rgb = photo(3, 3, 400, 500)
    lab = rgb_to_lab(rgb)
    assert same(lab[1, :, 200:300], rgb_to_lab(rgb[1, :, 200:300]))
    assert (rgb_to_lab(rgb/255) - lab).abs().max() < 1e-3


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 3, 0, 8), (3, 0, 0)])
def test_empty(shape):
    empty = torch.zeros(shape)
    for f in (rgb_to_lab, lab_to_rgb, to_gamut): assert f(empty).shape == shape
    assert rgb_to_lab(empty.byte()).dtype == torch.float32
    assert in_gamut(empty).shape == (*shape[:-3], 1, *shape[-2:])


@pytest.mark.parametrize("bad, words", [(torch.zeros(2, 4, 5, 5), r"\(2, 4, 5, 5\)"), (torch.zeros(3, 5), r"\(3, 5\)"),
                                        (torch.zeros(3, 4, 4).long(), "int64"), (np.zeros((3, 4, 4)), "ndarray")])
def test_bad_input_is_named(bad, words):
    for f in (rgb_to_lab, lab_to_rgb, to_gamut, in_gamut, chroma, hue, lab_channels):
        with pytest.raises(ValueError, match=words): f(bad)


def test_split_and_join():
    lab = rgb_to_lab(photo())
    L, ab = split_lab(lab)
    assert L.shape == (2, 1, 40, 56) and ab.shape == (2, 2, 40, 56) and torch.equal(join_lab(L, ab), lab)
    for wrong in ((L[:1], ab), (L, ab[..., :-1]), (ab, L), (L[0, 0], ab)):
        with pytest.raises(ValueError, match="expected, not"): join_lab(*wrong)


@pytest.mark.parametrize("name", SCALES)
def test_scale_round_trip(name):
    scale, lab = SCALES[name], rgb_to_lab(photo())
    L, ab = scale.encode(lab)
    assert (scale.decode(L, ab) - lab).abs().max() < 1e-4
    low = 0 if name == "unit" else -1
    assert all(low - 1e-5 <= x.min() and x.max() <= 1 + 1e-5 for x in (L, ab))
    assert LabScale.from_dict(scale.to_dict()) == scale and hash(scale) == hash(LabScale.from_dict(scale.to_dict()))
    assert scale.decode(L.bfloat16(), ab.bfloat16()).dtype == torch.float32
    assert torch.equal(scale.encode(lab)[0], scale.encode_L(lab[:, :1])) and torch.equal(scale.decode_ab(ab), scale.decode(L, ab)[:, 1:])


@pytest.mark.parametrize("change", [{"ab_range": "110"}, {"ab_range": 0}, {"L_range": -50.}, {"L_center": float("nan")},
                                    {"ab_center": True}, {"colour": 1}, {"ab_range": None}])
def test_a_hand_edited_scale_is_refused(change):
    with pytest.raises(ValueError, match="LabScale"): LabScale.from_dict({**LabScale().to_dict(), **change})
    for d in ({}, {"ab_range": 110.}, None, [1]):
        with pytest.raises(ValueError, match="LabScale"): LabScale.from_dict(d)


def test_fastai_tensors():
    TensorImage = pytest.importorskip("fastai.vision.all").TensorImage
    rgb = photo()
    assert torch.equal(torch.Tensor(rgb_to_lab(TensorImage(rgb)).as_subclass(torch.Tensor)), rgb_to_lab(rgb))


def test_inference_mode_does_not_spoil_the_table():
    code = ("import torch; from colorize.lab import rgb_to_lab\n"
            "x = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)\n"
            "with torch.inference_mode(): rgb_to_lab(x)\n"
            "w = torch.ones(1, requires_grad=True); (rgb_to_lab(x)*w).sum().backward()")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_lab_is_light():
    code = "import sys, colorize.lab; print([m for m in ('matplotlib', 'fastai', 'skimage', 'pandas', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_show_images_takes_all_kinds():
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from PIL import Image
    colour, grey = photo(3, 6, 8), photo(1, 6, 8)
    deep = Image.fromarray(np.full((6, 8), 30000, dtype=np.uint16))
    images = [Image.fromarray(last(colour)), Image.fromarray(last(colour)).convert("P"), deep, last(colour), last(colour)/255,
              last(grey)[..., 0], colour, grey, grey[0]/255, (colour/255).bfloat16(), colour[None], torch.zeros(2, 1, 6, 8).requires_grad_()]
    show_images(images, ["first", "second"], ncols=5, height=.5)
    axes = [ax for ax in plt.gcf().axes if ax.images]
    assert len(axes) == 13 and axes[0].get_title() == "first"
    assert axes[2].images[0].get_array().max() == pytest.approx(30000/65535)
    plt.close("all")
    show_images(photo(4, 3, 5, 5))
    assert len(plt.gcf().axes) == 4
    plt.close("all")
    for bad, words in ((torch.zeros(7, 4, 4), r"\(4, 4, 7\)"), (np.zeros(4), r"\(4,\)"), ([], "no pictures"), ("x.jpg", "str")):
        with pytest.raises(ValueError, match=words): show_images(bad)
