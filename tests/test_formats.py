"""Every format, mode, size, orientation and profile, whole and damaged: the right pixels or one sentence; metadata; bounded memory.

COLORIZE_LARGE=1 adds photographs of 100 and 600 megapixels (some minutes)."""
import io, os, random, signal, struct, subprocess, sys, textwrap, time, zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from colorize.colorizer import Colorizer, join_photo
from colorize.pictures.write import MADE_BY, save_picture
from colorize.pictures.adjust import inverted, stretched_contrast
from colorize.pictures.folders import check_photos, sample_photos
from colorize.pictures.formats import FORMATS, MAX_PIXELS, PHOTO_SUFFIXES, WRITTEN, PhotoError, _own_limits
from colorize.pictures.profiles import ADOBE_RGB, icc_profile
from colorize.pictures.read import Photo, open_photo, read_photo

sys.path.insert(0, str(Path(__file__).parent))
import hostile
from hostile import encoded, hostile_files, in_srgb, profile_of, table_profile


@pytest.fixture(scope="module")
def colorizer(model): return Colorizer.from_pretrained(model, device="cpu")

@pytest.fixture(scope="module")
def toucan(): return open_photo(next(f for f in sample_photos("train") if f.stem == "animal-toucan")).resize((240, 160))

def as_file(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()

def grey_level(rgb):
    "The sRGB grey, 0..255, that is as light as each colour"
    x = np.asarray(rgb, float)/255
    light = np.where(x <= .04045, x/12.92, ((x + .055)/1.055)**2.4)
    return 255*encoded(light@[.2126729, .7151522, .072175])


# The hostile files

class Hangs(BaseException): "It takes longer than ten seconds"

def give_up(*args): raise Hangs

def test_hostile_files(tmp_path):
    files, colours, start, refused, off = hostile_files(), torch.tensor([25., -30.]).view(2, 1, 1).expand(2, 4, 4), time.time(), 0, []
    assert len(files) >= 2000 and len({f.name.split("-")[0] for f in files}) >= (20 if hostile.pillow_heif else 19)
    if hasattr(signal, "SIGALRM"): signal.signal(signal.SIGALRM, give_up)
    for file in files:
        (path := tmp_path/file.name).write_bytes(file.data)
        if hasattr(signal, "SIGALRM"): signal.alarm(10)
        try:
            photo = read_photo(path)
            if file.want is None: continue
            out = join_photo(photo.rgb, colours)
            assert out.size == photo.rgb.size == file.want.shape[1::-1], file.name
            off += [np.abs(np.asarray(photo.rgb) - file.want).max(), np.abs(grey_level(out) - grey_level(file.want)).max()]
            assert max(off[-2:]) <= 1.01, (file.name, off[-2:])
            assert (photo.deep is not None) == file.deep, file.name
            if file.deep:
                assert photo.deep.dtype == np.uint16 and np.abs(photo.deep/257 - file.want).max() < .2, file.name
                deep = join_photo(photo.deep, colours)
                assert np.abs(grey_level(deep/257) - grey_level(file.want)).max() < .25, file.name
        except PhotoError as error:
            assert file.want is None, f"{error}"
            assert str(path) in str(error) and str(error).isprintable(), repr(str(error))
            refused += 1
        finally:
            if hasattr(signal, "SIGALRM"): signal.alarm(0)
            path.unlink()
    broken = sum(f.want is None for f in files)
    print(f"{len(files)} files in {time.time() - start:.0f} s; {len(files) - broken} whole ones at most {max(off):.2f} levels off; "
          f"{refused} of {broken} damaged ones refused")
    assert .3 < refused/broken < .9

def test_hostile_files_are_the_same_for_the_same_seed():
    first, second, other = (hostile_files(seed, each=2, broken=50) for seed in (3, 3, 4))
    assert [f.data for f in first] == [f.data for f in second] != [f.data for f in other]


# Colour profiles

@pytest.mark.parametrize("wide", [False, True])
def test_adobe_rgb(toucan, wide, tmp_path):
    levels = np.asarray(toucan)
    profile = profile_of("Adobe RGB", random.Random(0))
    if wide: tifffile.imwrite(tmp_path/"a.tif", levels.astype(np.uint16)*257, photometric="rgb", iccprofile=profile)
    else: toucan.save(tmp_path/"a.tif", icc_profile=profile)
    photo, want = read_photo(tmp_path/"a.tif"), in_srgb(levels.astype(float), "Adobe RGB")
    assert np.abs(want - levels).max() > 20, "the profile makes no difference here"
    assert np.abs(np.asarray(photo.rgb) - want).max() <= 1
    if wide: assert np.abs(photo.deep/257 - want).max() < .2

def test_our_own_adobe_profile_is_theirs(toucan):
    pictures = [np.asarray(open_photo(as_file(toucan, "png", icc_profile=p))) for p in (icc_profile(563/256, ADOBE_RGB), profile_of("Adobe RGB", None))]
    np.testing.assert_array_equal(*pictures)

def test_adobe_rgb_by_exif_alone(toucan):
    exif = Image.Exif()
    exif[305] = "camera"
    exif.get_ifd(0x8769).update({0xA001: 65535, 0xA005: {1: "R03"}})
    photo = read_photo(as_file(toucan, "png", exif=exif))
    assert np.abs(np.asarray(photo.rgb) - in_srgb(np.asarray(toucan).astype(float), "Adobe RGB")).max() <= 1
    assert any("Adobe RGB" in note for note in photo.notes)

@pytest.mark.parametrize("mode", ["L", "I;16", "LA"])
def test_grey_gamma(mode):
    ramp = np.linspace(0, 65535, 64*256).round().astype(np.uint16).reshape(64, 256)
    picture = Image.fromarray(ramp) if mode == "I;16" else Image.fromarray((ramp//257).astype(np.uint8)).convert(mode)
    stored = ramp/257 if mode == "I;16" else ramp//257
    photo = read_photo(as_file(picture, "png", icc_profile=icc_profile(1.)))
    assert np.abs(np.asarray(photo.rgb)[..., 0] - 255*encoded(stored/255)).max() <= .51
    if mode == "I;16": assert np.abs(photo.deep[..., 1]/257 - 255*encoded(stored/255)).max() < .01

@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_gamma_of_a_png(mode, toucan):
    def with_gamma(gamma, *more):
        data = as_file(toucan.convert(mode), "png")
        for kind, body in [(b"gAMA", struct.pack(">I", round(1e5*gamma))), *more]:
            data = data[:33] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) + data[33:]
        return np.asarray(open_photo(data)).astype(float)
    stored = np.asarray(toucan.convert(mode).convert("RGB")).astype(float)
    assert np.abs(with_gamma(1.) - 255*encoded(stored/255)).max() <= 2
    assert np.array_equal(with_gamma(.45455), stored), "what every program writes is no reason to change anything"
    assert np.array_equal(with_gamma(1., (b"sRGB", b"\0")), stored)

def test_profiles_of_srgb_change_nothing(toucan):
    assert np.array_equal(np.asarray(open_photo(as_file(toucan, "png", icc_profile=hostile.SRGB))), np.asarray(toucan))

def corner_lab(corner):
    from colorize.lab import rgb_to_lab
    rgb = corner if len(corner) == 3 else [(1 - c)*(1 - corner[3]) for c in corner[:3]]
    return rgb_to_lab(torch.tensor(rgb).float().view(3, 1, 1)).flatten().tolist()

def test_cmyk_with_a_profile_and_without(toucan):
    plain = read_photo(as_file(toucan.convert("CMYK"), "jpeg", quality=95))
    assert any("CMYK" in note for note in plain.notes)
    corners = [(0, 0, 0, 0), (255, 0, 0, 0), (0, 255, 0, 0), (0, 0, 255, 0), (0, 0, 0, 255), (0, 255, 255, 0)]
    inks = Image.merge("CMYK", [Image.fromarray(p.copy()) for p in np.array([corners], np.uint8).transpose(2, 0, 1)])
    photo = read_photo(as_file(inks, "tiff", icc_profile=table_profile(b"CMYK", corner_lab)))
    want = [[255 - min(255, c + k), 255 - min(255, m + k), 255 - min(255, y + k)] for c, m, y, k in corners]
    out = np.asarray(photo.rgb)[0]
    assert np.abs(grey_level(out) - grey_level(want)).max() <= 8, "colours outside sRGB are cut off, and Lab in 8 bits is coarse"
    assert np.abs(out[[0, 4]].astype(int) - np.array(want)[[0, 4]]).max() <= 1
    assert not photo.notes or not any("CMYK" in note for note in photo.notes)
    swapped = table_profile(b"CMYK", lambda corner: corner_lab([corner[1], corner[0], *corner[2:]]))
    out = np.asarray(open_photo(as_file(inks, "tiff", icc_profile=swapped)))[0].astype(int)
    assert np.abs(out[[2, 1]] - np.asarray(photo.rgb)[0, [1, 2]]).max() <= 1, "the profile is not heeded"

def test_a_table_for_16_bits_is_applied_in_16(tmp_path):
    deep = hostile.base((40, 30), random.Random(0))
    swapped = table_profile(b"RGB ", lambda corner: corner_lab(corner[::-1]))
    tifffile.imwrite(tmp_path/"a.tif", deep, photometric="rgb", iccprofile=swapped)
    photo, fine = read_photo(tmp_path/"a.tif"), read_photo(tmp_path/"a.tif").deep
    coarse = np.asarray(open_photo(as_file(Image.fromarray((deep//257).astype(np.uint8)), "png", icc_profile=swapped)))
    assert np.abs(fine/257 - coarse).mean() < 2 and len(np.unique(fine)) > 5*256, "16 bits all the way"
    assert not any("profile" in note for note in photo.notes)

def test_a_profile_of_another_kind_is_left_aside(toucan):
    for picture, profile in [(toucan, icc_profile(1.8)), (toucan.convert("CMYK"), hostile.SRGB), (toucan, hostile.SRGB[:200]), (toucan, b"x")]:
        data = as_file(picture, "tiff", icc_profile=profile)
        photo = read_photo(data)
        assert any("profile could not be used" in note for note in photo.notes)
        assert np.array_equal(np.asarray(photo.rgb), np.asarray(picture.convert("RGB")))

def test_lab_tiff(toucan):
    from PIL import ImageCms
    lab = ImageCms.applyTransform(toucan, ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"))
    out = np.asarray(open_photo(as_file(lab, "tiff"))).astype(int)
    assert np.abs(out - np.asarray(toucan)).mean() < 3

def test_a_picture_in_memory_is_left_as_it_was(toucan):
    given = toucan.copy()
    given.info["icc_profile"] = icc_profile(563/256, ADOBE_RGB)
    once, twice = open_photo(given), open_photo(open_photo(given))
    assert np.array_equal(np.asarray(given), np.asarray(toucan)) and given.info["icc_profile"]
    assert np.array_equal(np.asarray(once), np.asarray(twice)), "converted twice"


# More than 8 bits, pages, plug-ins

@pytest.mark.parametrize("compression", [None, "lzw", "zip"])
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_16_bit_colour_tiff(compression, orientation, tmp_path):
    deep = hostile.base((40, 30), random.Random(1))
    options = {"lzw": {"compression": "lzw"}, "zip": {"compression": "zlib", "predictor": True}}.get(compression, {})
    tifffile.imwrite(tmp_path/"a.tif", deep, photometric="rgb", extratags=[(274, 3, 1, orientation, True)], **options)
    photo = read_photo(tmp_path/"a.tif")
    np.testing.assert_array_equal(photo.deep, hostile.upright(deep, orientation))
    assert photo.rgb.size == photo.deep.shape[1::-1]
    assert read_photo(tmp_path/"a.tif", deep=False).deep is None

@pytest.mark.parametrize("planar", ["separate", "contig"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits"])
def test_16_bit_tiffs_of_any_layout(planar, tile, channels, compression, tmp_path):
    deep = hostile.base((40, 50), random.Random(8))
    array = {1: deep[..., 0], 3: deep, 4: np.dstack([deep, deep[..., 1]])}[channels]
    layout = dict(photometric="rgb", planarconfig=planar) if channels > 1 else dict(photometric="minisblack")
    if channels == 4: layout["extrasamples"] = ["unassalpha"]
    stored = np.moveaxis(array, -1, 0) if planar == "separate" and channels > 1 else array
    tifffile.imwrite(tmp_path/"a.tif", stored, tile=tile, rowsperstrip=None if tile else 7, compression=compression,
                     predictor=compression in ("lzw", "zlib") or None, metadata=None, **layout)
    photo = read_photo(tmp_path/"a.tif")
    np.testing.assert_array_equal(photo.deep, deep if channels > 1 else np.repeat(array[..., None], 3, -1))
    if channels == 4: np.testing.assert_array_equal(np.asarray(photo.alpha), array[..., 3] >> 8)
    else: assert photo.alpha is None
    np.testing.assert_array_equal(np.asarray(open_photo(tmp_path/"a.tif")), np.asarray(photo.rgb))

def test_what_the_fourth_channel_of_a_tiff_means(tmp_path):
    deep = hostile.base((40, 50), random.Random(9))//2 + 20_000
    alpha = np.linspace(30_000, 65_535, 40).astype(np.uint16)[None].repeat(50, 0)
    for kind, times in {"unspecified": 1, "unassalpha": 1, "assocalpha": alpha[..., None]/65535}.items():
        tifffile.imwrite(tmp_path/"a.tif", np.dstack([(deep*times).round().astype(np.uint16), alpha]), photometric="rgb", extrasamples=[kind])
        photo = read_photo(tmp_path/"a.tif")
        assert np.abs(photo.deep.astype(int) - deep).max() <= (2 if kind == "assocalpha" else 0), kind
        assert (photo.alpha is None) == (kind == "unspecified")

def test_strips_that_are_missing_are_not_black(tmp_path):
    tifffile.imwrite(tmp_path/"a.tif", hostile.base((40, 50), random.Random(8)), photometric="rgb", rowsperstrip=10, compression="zlib")
    with tifffile.TiffFile(tmp_path/"a.tif", mode="r+") as tiff:
        counts = tiff.pages[0].tags[279]
        counts.overwrite([*counts.value[:2], 0, *counts.value[3:]])
    with pytest.raises(PhotoError, match="a.tif: this TIFF is damaged"): read_photo(tmp_path/"a.tif")

def test_16_bit_pngs_with_one_transparent_colour():
    deep = hostile.base((8, 8), random.Random(8))
    data = hostile.png(deep, 2)
    chunk = b"tRNS" + deep[2, 3].astype(">u2").tobytes()
    photo = read_photo(data[:33] + struct.pack(">I", 6) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:])
    np.testing.assert_array_equal(photo.deep, deep)
    np.testing.assert_array_equal(np.asarray(photo.alpha), np.where((deep == deep[2, 3]).all(-1), 0, 255))

@pytest.mark.parametrize("dtype", [np.uint32, np.float32, np.float16, np.float64])
def test_tiffs_that_only_tifffile_knows(dtype, tmp_path):
    deep = hostile.base((40, 30), random.Random(2))
    array = deep.astype(np.uint32)*65537 if dtype == np.uint32 else (deep/65535).astype(dtype)
    tifffile.imwrite(tmp_path/"a.tif", array, photometric="rgb")
    assert np.abs(read_photo(tmp_path/"a.tif").deep.astype(int) - deep).max() <= (32 if dtype == np.float16 else 0)

def test_12_bits_in_a_tiff():
    values = np.arange(0, 4096, 8).reshape(16, 32)
    bits = "".join(f"{v:012b}" for v in values.flatten())
    data = int(bits, 2).to_bytes(len(bits)//8, "big")
    tags = [(256, 3, 1, 32), (257, 3, 1, 16), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200), (277, 3, 1, 1), (278, 3, 1, 16), (279, 4, 1, len(data))]
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in tags) + bytes(4)
    photo = read_photo(head.ljust(200, b"\0") + data)
    assert np.abs(photo.deep[..., 0]/65535 - values/4095).max() < 1e-4

def test_arrays_of_16_bit_colour():
    deep = hostile.base((20, 10), random.Random(3))
    np.testing.assert_array_equal(read_photo(deep).deep, deep)

def test_pages_and_animations_are_said(toucan, tmp_path):
    toucan.save(tmp_path/"a.tif", save_all=True, append_images=[toucan.rotate(180)]*2)
    photo = read_photo(tmp_path/"a.tif")
    assert "the file has 3 pages: the first is taken" in photo.notes
    assert np.array_equal(np.asarray(photo.rgb), np.asarray(toucan))
    toucan.save(tmp_path/"a.gif", save_all=True, append_images=[toucan.rotate(180)])
    assert any("animation" in note for note in read_photo(tmp_path/"a.gif").notes)
    assert not any("page" in note or "animation" in note for note in read_photo(as_file(toucan, "tiff")).notes)

def test_a_thumbnail_before_the_photograph_is_passed_over(toucan, tmp_path):
    with tifffile.TiffWriter(tmp_path/"a.tif") as file:
        file.write(np.asarray(toucan.resize((24, 16))), photometric="rgb", subfiletype=1)
        file.write(np.asarray(toucan), photometric="rgb")
    assert read_photo(tmp_path/"a.tif").size == toucan.size

def without(module, code):
    "What a Python prints in which a package cannot be imported"
    code = f"import sys; sys.modules[{module!r}] = None\nfrom colorize.pictures.folders import *\nfrom colorize.pictures.formats import *\nfrom colorize.pictures.read import *\n" + textwrap.dedent(code)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert not run.returncode, run.stderr
    return run.stdout

def test_a_package_that_is_not_installed_is_named(tmp_path):
    (tmp_path/"phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    says = without("pillow_heif", f"try: read_photo({str(tmp_path/'phone.heic')!r})\nexcept PhotoError as error: print(error)")
    assert "phone.heic" in says and "pip install pillow-heif" in says

def test_neither_is_imported_unless_needed():
    code = "import sys; from colorize.pictures.folders import sample_photos; from colorize.pictures.read import read_photo; read_photo(sample_photos()[0]); print([m for m in ('imagecodecs', 'tifffile', 'pillow_heif') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout.strip() == "[]"

def test_heic(toucan, tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(toucan).save(tmp_path/"phone.heic", quality=95, chroma=444)
    photo = read_photo(tmp_path/"phone.heic")
    assert photo.size == toucan.size and np.abs(np.asarray(photo.rgb).astype(int) - np.asarray(toucan)).mean() < 4
    (tmp_path/"torn.heic").write_bytes((tmp_path/"phone.heic").read_bytes()[:700])
    with pytest.raises(PhotoError, match="torn.heic"): read_photo(tmp_path/"torn.heic")


# Sizes, and what is no photograph

@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
def test_tiny_and_narrow(colorizer, size, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, size[::-1], dtype=np.uint8)).save(tmp_path/"a.png")
    photo = read_photo(tmp_path/"a.png")
    assert colorizer.colorize_photo(photo).size == size
    assert colorizer.colorize_photo(photo, deep=True, auto_contrast=True).shape == (*size[::-1], 3)

def png_of(width, height, data=b""):
    chunk = lambda kind, body: struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + chunk(b"IDAT", data) + chunk(b"IEND", b"")

def test_bombs_and_giants_are_refused_before_they_are_unpacked(tmp_path):
    (tmp_path/"giant.png").write_bytes(png_of(30_001, 20_000, bytes(2_000_000)))
    (tmp_path/"bomb.png").write_bytes(png_of(20_000, 20_000, zlib.compress(bytes(100_000))))
    (tmp_path/"sky.png").write_bytes(png_of(2**31 - 1, 2**31 - 1, bytes(10)))
    for name, says in {"giant.png": "more than 600,000,000", "bomb.png": "decompression bomb", "sky.png": "more than 600,000,000"}.items():
        start = time.time()
        with pytest.raises(PhotoError, match=says) as error: read_photo(tmp_path/name)
        assert str(tmp_path/name) in str(error.value) and time.time() - start < 2

def test_a_tiff_of_more_strips_than_bytes_takes_no_time(tmp_path):
    tifffile.imwrite(tmp_path/"a.tif", np.zeros((4, 1, 3), np.float32), photometric="rgb", rowsperstrip=1)
    data = bytearray((tmp_path/"a.tif").read_bytes())
    at = next(at for kind in (3, 4) if (at := data.find(struct.pack("<HHI", 257, kind, 1))) > 0)
    data[at:at + 12] = struct.pack("<HHII", 257, 4, 1, 40_000_000)
    start = time.time()
    with pytest.raises(PhotoError, match="TIFF is damaged"): read_photo(bytes(data))
    assert time.time() - start < 5

def test_pillows_own_limit_is_left_alone(toucan, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12345)
    with ThreadPoolExecutor(4) as pool: assert len(list(pool.map(open_photo, [as_file(toucan, "png")]*20))) == 20
    with pytest.raises(PhotoError): open_photo(b"nothing")
    assert Image.MAX_IMAGE_PIXELS == 12345

def test_nothing_is_handed_to_another_program(tmp_path):
    (tmp_path/"letter.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n")
    with pytest.raises(PhotoError, match="not a picture"): open_photo(tmp_path/"letter.jpg")

def test_messages_stay_on_one_line(tmp_path):
    for name in ("two\nlines.jpg", "bell\a.jpg", os.fsdecode(b"latin-\xe9.jpg")):
        (tmp_path/name).write_bytes(b"no picture")
        with pytest.raises(PhotoError) as error: read_photo(tmp_path/name)
        assert str(error.value).isprintable() and ".jpg" in str(error.value)
        str(error.value).encode()

def test_rows_longer_than_a_strip_leave_no_seams():
    photo, ab = Image.fromarray((hostile.base((400, 7), random.Random(0))//257).astype(np.uint8)), torch.randn(2, 8, 8)*20
    whole, parts = np.asarray(join_photo(photo, ab)).astype(int), np.asarray(join_photo(photo, ab, strip=90)).astype(int)
    assert np.abs(whole - parts).max() <= 1

def large(tmp_path, width, height, kind, deep):
    "Peak memory in MB, seconds and result of colorizing a large photograph"
    file, out = tmp_path/f"large.{kind}", tmp_path/f"out.{kind}"
    small = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8))
    if kind == "tif":
        strips = (np.asarray(small.resize((width, 100), Image.Resampling.BICUBIC, box=(0, t*60/height, 80, (t + 100)*60/height))) for t in range(0, height, 100))
        tifffile.imwrite(file, (np.repeat(s[..., None].astype(np.uint16)*257, 3, -1) for s in strips), shape=(height, width, 3), dtype=np.uint16, photometric="rgb", rowsperstrip=100)
    else: small.resize((width, height), Image.Resampling.BICUBIC).convert("RGB" if kind == "jpg" else "L").save(file, quality=90, icc_profile=icc_profile(563/256, ADOBE_RGB) if kind == "jpg" else None)
    code = f"""
        import resource, torch
        from colorize.colorizer import Colorizer
        from colorize.pictures.write import save_picture
        from colorize.pictures.read import read_photo
        photo = read_photo({str(file)!r}, deep={deep})
        colorizer = Colorizer(size=64)
        save_picture(colorizer.colorize_photo(photo, deep={deep}, overwrite=True), {str(out)!r}, photo.info)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024)"""
    start = time.time()
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], text=True, capture_output=True)
    assert not run.returncode, run.stderr[-2000:]
    return int(run.stdout), time.time() - start, out

@pytest.mark.skipif(not os.environ.get("COLORIZE_LARGE"), reason="takes minutes: set COLORIZE_LARGE=1")
@pytest.mark.parametrize("kind, deep", [("jpg", False), ("png", False), ("tif", True)])
def test_100_megapixels_in_2_5_gb(tmp_path, kind, deep):
    peak, seconds, out = large(tmp_path, 12_000, 8_400, kind, deep)
    print(f"100 megapixels, {kind}: {peak} MB, {seconds:.0f} s")
    assert peak < 2500
    with _own_limits(), Image.open(out) as picture: assert picture.size == (12_000, 8_400)

@pytest.mark.skipif(not os.environ.get("COLORIZE_LARGE"), reason="takes minutes: set COLORIZE_LARGE=1")
def test_600_megapixels_are_done(tmp_path):
    peak, seconds, out = large(tmp_path, 30_000, 20_000, "jpg", False)
    print(f"600 megapixels: {peak} MB, {seconds:.0f} s")
    assert peak < 9000
    with _own_limits(), Image.open(out) as picture: assert picture.size == (30_000, 20_000)


# What is said, and what is done on request

def test_remarks(toucan):
    from PIL import ImageOps
    sepia = ImageOps.colorize(toucan.convert("L"), black="#281a0d", white="#fff4de", mid="#96785a")
    film = ImageOps.colorize(toucan.convert("L"), black="#f0904a", white="#301008")
    faded = toucan.convert("L").point(lambda v: 90 + v//5)
    for picture, says in [(toucan, "colour photograph"), (sepia, "tinted"), (film, "negative"), (faded, "contrast is very low")]:
        assert any(says in note for note in read_photo(picture).notes), says
    assert read_photo(toucan.convert("L")).notes == []

def test_contrast_and_negatives(toucan, colorizer):
    grey = np.asarray(toucan.convert("L")).astype(float)
    faded = Photo(Image.fromarray((90 + grey/5).round().astype(np.uint8)).convert("RGB"))
    low, high = np.percentile(np.asarray(faded.rgb), (.5, 99.5))
    out = np.asarray(stretched_contrast(faded).rgb)[..., 0]
    assert np.abs(out - ((90 + grey/5).round() - low).clip(0, high - low)*255/(high - low)).max() <= 1
    deep = Photo(faded.rgb, deep=np.repeat((257*(90 + grey/5))[..., None].round().astype(np.uint16), 3, -1))
    assert len(np.unique(np.asarray(stretched_contrast(deep).rgb))) > 2*len(np.unique(out)), "16 bits should give more levels than 8"
    assert np.array_equal(np.asarray(inverted(inverted(deep)).rgb), np.asarray(deep.rgb)) and np.array_equal(inverted(inverted(deep)).deep, deep.deep)
    assert np.array_equal(np.asarray(inverted(faded).rgb), 255 - np.asarray(faded.rgb))
    flat = Photo(Image.new("RGB", (9, 9), (7, 7, 7)))
    assert stretched_contrast(flat) is flat
    plain, stretched = (np.asarray(colorizer.colorize_photo(faded, auto_contrast=a).convert("L")) for a in (False, True))
    assert np.ptp(stretched.astype(int)) > 2*np.ptp(plain.astype(int))


# Files out

def with_metadata(toucan):
    exif = Image.Exif()
    exif[274], exif[270], exif[306], exif[305] = 6, "Großmutter".encode(), "1968:07:01 12:00:00", "ScanWizard"
    exif.get_ifd(0x8769).update({36867: "1968:07:01 12:00:00", 0xA002: 240, 0xA003: 160})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 30.0), 3: "E", 4: (11.0, 30.0, 0.0)})
    return exif

@pytest.mark.parametrize("suffix", WRITTEN)
@pytest.mark.parametrize("deep", [False, True])
def test_metadata_are_carried_over(suffix, deep, toucan, colorizer, tmp_path):
    if deep and not WRITTEN[suffix].deep: pytest.skip("8 bits")
    toucan.save(tmp_path/"in.jpg", exif=with_metadata(toucan), dpi=(300, 600), quality=95)
    photo = read_photo(tmp_path/"in.jpg")
    save_picture(colorizer.colorize_photo(photo, deep=deep), tmp_path/f"out{suffix}", photo.info)
    with Image.open(tmp_path/f"out{suffix}") as out:
        assert out.size == (160, 240), "upright"
        if suffix == ".bmp": return
        exif = out.getexif()
        assert exif.get(274, 1) == 1
        assert exif[306] == "1968:07:01 12:00:00" and exif.get_ifd(0x8769)[36867] == "1968:07:01 12:00:00"
        assert [float(v) for v in exif.get_ifd(0x8825)[2]] == [48, 12, 30.] and exif.get_ifd(0x8825)[1] == "N"
        assert exif[270].encode("latin-1").decode() == "Großmutter"
        assert exif[305] == MADE_BY
    again = read_photo(tmp_path/f"out{suffix}")
    assert again.info["description"] == "Großmutter"
    assert again.info["dpi"] == pytest.approx((600, 300), rel=1e-3), "turned with the photograph"
    assert b"compositeWithTrainedAlgorithmicMedia" in again.info["xmp"]
    assert (again.deep is not None) == deep

def test_the_mark_can_be_left_out(toucan, tmp_path):
    for suffix in WRITTEN:
        save_picture(toucan, tmp_path/f"a{suffix}", mark=False)
        save_picture(toucan, tmp_path/f"b{suffix}")
        marked = [b"made by a model" in (tmp_path/f"{name}{suffix}").read_bytes() for name in "ab"]
        assert marked == [False, suffix != ".bmp"], suffix

def test_xmp_of_others_is_kept(toucan, tmp_path):
    xmp = (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
           b'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" dc:title="Attic" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>')
    toucan.save(tmp_path/"in.jpg", xmp=xmp)
    photo = read_photo(tmp_path/"in.jpg")
    assert photo.size == (160, 240)
    for suffix in (".jpg", ".png", ".webp", ".tif"):
        save_picture(photo.rgb, tmp_path/f"out{suffix}", photo.info)
        again = read_photo(tmp_path/f"out{suffix}")
        assert again.size == (160, 240) and b'dc:title="Attic"' in again.info["xmp"] and b"Orientation" not in again.info["xmp"]
        import xml.etree.ElementTree as ET
        ET.fromstring(again.info["xmp"])

def test_thumbnails_and_damaged_exif_are_not_carried_over(toucan, tmp_path):
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHII", 1, 0x8769, 4, 1, 0xffffff00) + struct.pack(">I", 0)
    data = as_file(toucan, "jpeg", quality=95)
    photo = read_photo(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    save_picture(photo.rgb, tmp_path/"out.jpg", photo.info)
    assert read_photo(tmp_path/"out.jpg").size == toucan.size

def test_16_bits_out(toucan, tmp_path):
    deep = hostile.base((61, 47), random.Random(5))
    for channels in (3, 4):
        array = deep if channels == 3 else np.dstack([deep, deep[..., 0]])
        for suffix in (".png", ".tif"):
            save_picture(array, tmp_path/f"a{suffix}")
            photo = read_photo(tmp_path/f"a{suffix}")
            np.testing.assert_array_equal(photo.deep, deep)
            if channels == 4: np.testing.assert_array_equal(np.asarray(photo.alpha), deep[..., 0] >> 8)
        np.testing.assert_array_equal(tifffile.imread(tmp_path/"a.tif"), array)

def test_16_bits_in_16_bits_out(colorizer, tmp_path):
    deep = hostile.base((61, 47), random.Random(6))
    tifffile.imwrite(tmp_path/"a.tif", deep, photometric="rgb")
    photo = read_photo(tmp_path/"a.tif")
    out = colorizer.colorize_photo(photo, deep=True)
    assert out.dtype == np.uint16 and np.abs(grey_level(out/257) - grey_level(deep/257)).max() < .02
    np.testing.assert_array_equal(photo.deep, deep)
    written_over = colorizer.colorize_photo(photo, deep=True, overwrite=True)
    np.testing.assert_array_equal(written_over, out)
    assert written_over is photo.deep

def test_what_a_format_cannot_hold_is_said(toucan, tmp_path):
    deep = np.zeros((4, 4, 3), np.uint16)
    for picture, name, says in [(toucan, "a.gif", "can be written as"), (deep, "a.jpg", "16 bits"), (Image.new("RGB", (17_000, 1)), "a.webp", "16,383"),
                                (Image.new("RGB", (1, 66_000)), "a.jpg", "65,500")]:
        with pytest.raises(PhotoError, match=says): save_picture(picture, tmp_path/name)
    assert list(tmp_path.iterdir()) == []

def test_what_the_table_of_formats_says_is_so(toucan, tmp_path):
    for suffix, row in WRITTEN.items():
        save_picture(toucan, tmp_path/f"a{suffix}")
        with Image.open(tmp_path/f"a{suffix}") as out: assert out.format == row.name
        assert suffix in row.suffixes.split() and suffix in PHOTO_SUFFIXES
    Image.init()
    assert {row.name for row in FORMATS} - {*Image.OPEN} <= {"HEIF", "AVIF", "MPO"}
    assert len(PHOTO_SUFFIXES) == sum(len(row.suffixes.split()) for row in FORMATS), "a suffix has one row"

def test_a_row_is_all_that_a_format_needs(toucan, tmp_path, monkeypatch):
    from colorize.jobs.folder import target_for
    from colorize.pictures import formats
    monkeypatch.setitem(WRITTEN, ".qoi", formats.Format("QOI", ".qoi", written=".qoi", longest=300))
    assert target_for(Path("a.qoi")).name == "a-color.qoi"
    save_picture(toucan, tmp_path/"a.qoi")
    np.testing.assert_array_equal(np.asarray(open_photo(tmp_path/"a.qoi")), np.asarray(toucan))
    with pytest.raises(PhotoError, match="QOI holds at most 300 pixels"): save_picture(toucan.resize((400, 9)), tmp_path/"b.qoi")
    with pytest.raises(PhotoError, match="16 bits a channel can be written as .png, .tif and .tiff"): save_picture(np.zeros((4, 4, 3), np.uint16), tmp_path/"b.qoi")
    with pytest.raises(PhotoError, match=r"can be written as .*\.qoi"): save_picture(toucan, tmp_path/"b.gif")

def test_strange_metadata_do_not_keep_a_picture_from_being_written(toucan, tmp_path):
    big = Image.Exif()
    big.get_ifd(0x8769)[37500] = bytes(200_000)
    for info in ({"exif": big.tobytes()}, {"xmp": b"x"*100_000}, {"dpi": (1.5, 50_000.)}, {"description": "é"*60_000}, {"text": {"k"*200: "v", "": "x", "naïve": "ü"}}):
        for suffix in WRITTEN:
            save_picture(toucan, tmp_path/f"a{suffix}", info)
            assert read_photo(tmp_path/f"a{suffix}").size == toucan.size
        save_picture(np.asarray(toucan)*np.uint16(257), tmp_path/"b.png", info); save_picture(np.asarray(toucan)*np.uint16(257), tmp_path/"b.tif", info)
        assert read_photo(tmp_path/"b.png").size == read_photo(tmp_path/"b.tif").size == toucan.size

def test_a_write_that_fails_leaves_nothing(toucan, tmp_path, monkeypatch):
    (tmp_path/"a.png").write_bytes(b"before")
    monkeypatch.setattr(Image.Image, "save", lambda self, path, *args, **options: (Path(path).write_bytes(b"half"), (_ for _ in ()).throw(OSError(28, "No space left on device"))))
    with pytest.raises(OSError, match="full|No space"): save_picture(toucan, tmp_path/"a.png")
    assert (tmp_path/"a.png").read_bytes() == b"before" and [f.name for f in tmp_path.iterdir()] == ["a.png"]

def test_a_model_of_trust_takes_16_bit_files_by_name(colorizer, tmp_path):
    deep = hostile.base((61, 47), random.Random(7))
    tifffile.imwrite(tmp_path/"a.tif", deep, photometric="rgb")
    assert np.abs(grey_level(colorizer(tmp_path/"a.tif")) - grey_level(deep/257)).max() <= 1.5

def test_checking_a_folder_knows_all_formats(toucan, tmp_path):
    files = [f for f in hostile_files(1, each=1, broken=0)]
    for f in files: (tmp_path/f.name).write_bytes(f.data)
    good, bad = check_photos(sorted(tmp_path.iterdir()), progress=False)
    assert len(good) == len(files) and not bad
