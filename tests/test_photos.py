"""Photographs as they come: every mode and format, broken files, folders with traps, splits, grey and sepia."""
import io, os, random, struct, subprocess, sys, warnings

import numpy as np
import pytest
from PIL import Image, ImageOps

from colorize.photos import ab_density, ab_outline, draw_split, drop_grey, hidden_colour, is_grey, mean_chroma, photo_table, small_lab, split_photos
from colorize.pictures.folders import check_photos, find_photos, photo_credits, sample_photos
from colorize.pictures.formats import PHOTO_SUFFIXES, PhotoError
from colorize.pictures.read import open_photo

RAMP16 = np.linspace(0, 65535, 64*256).round().astype(np.uint16).reshape(64, 256)
RAMP8 = (RAMP16/257).round().astype(np.uint8)


@pytest.fixture(scope="module")
def photo(): return open_photo(next(f for f in sample_photos("train") if f.stem == "animal-toucan")).resize((240, 160))


def pixels(source): return np.asarray(open_photo(source)).astype(int)

def as_file(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()

def is_ramp(rgb, off=0):
    assert rgb.shape == (64, 256, 3)
    assert np.abs(rgb - RAMP8[..., None].astype(int)).max() <= off


# Deep grey

@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_16_bit_grey_is_scaled(kind, tmp_path):
    file = tmp_path/f"ramp.{kind}"
    Image.fromarray(RAMP16).save(file)
    assert Image.open(file).mode == "I;16"
    is_ramp(pixels(file))

def test_16_bit_big_endian_tiff(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path/"ramp.tif", RAMP16, byteorder=">", photometric="minisblack")
    is_ramp(pixels(tmp_path/"ramp.tif"))

def test_16_bit_tiff_in_which_zero_is_white(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path/"negative.tif", 65535 - RAMP16, photometric="miniswhite")
    is_ramp(pixels(tmp_path/"negative.tif"))

def test_8_bit_tiff_in_which_zero_is_white(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path/"negative.tif", 255 - RAMP8, photometric="miniswhite")
    is_ramp(pixels(tmp_path/"negative.tif"))

def test_16_bit_values_in_a_32_bit_tiff(tmp_path):
    Image.fromarray(RAMP16.astype(np.int32)).save(tmp_path/"ramp.tif")
    assert Image.open(tmp_path/"ramp.tif").mode == "I"
    is_ramp(pixels(tmp_path/"ramp.tif"))

def test_full_range_unsigned_32_bit_tiff(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path/"ramp.tif", RAMP16.astype(np.uint32)*65537, photometric="minisblack")
    is_ramp(pixels(tmp_path/"ramp.tif"))

def test_16_bit_pgm():
    is_ramp(pixels(b"P5\n256 64\n65535\n" + RAMP16.astype(">u2").tobytes()))

@pytest.mark.parametrize("top", [1, 255, 1000])
def test_floats(top, tmp_path):
    Image.fromarray((RAMP16/65535*top).astype(np.float32)).save(tmp_path/"ramp.tif")
    is_ramp(pixels(tmp_path/"ramp.tif"))

def test_floats_that_are_not_numbers():
    values = (RAMP16/65535).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = pixels(Image.fromarray(values))
    assert np.abs(out[1:] - RAMP8[1:, :, None].astype(int)).max() == 0

def test_a_dark_16_bit_scan_stays_dark(): assert pixels(Image.fromarray(RAMP16//4)).max() == 64

def test_16_bit_grey_is_turned_upright(tmp_path):
    exif = Image.Exif(); exif[0x0112] = 6
    Image.fromarray(np.rot90(RAMP16).copy()).save(tmp_path/"turned.png", exif=exif)
    is_ramp(pixels(tmp_path/"turned.png"))

def test_16_bit_colour_png():
    def chunk(kind, data):
        import zlib
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    import zlib
    rows = np.stack([RAMP16]*3, -1).astype(">u2")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 256, 64, 16, 2, 0, 0, 0)) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    is_ramp(pixels(png), off=1)


# Colour modes, transparency, orientation, animation

LOSSLESS = [("RGB", "png"), ("RGB", "bmp"), ("RGB", "tiff"), ("RGB", "ppm"), ("RGB", "tga"), ("RGB", "webp"), ("RGBA", "png"), ("RGBA", "tiff"),
            ("RGBA", "webp"), ("RGB", "jpeg2000")]

@pytest.mark.parametrize("mode,kind", LOSSLESS)
def test_lossless_colour(mode, kind, photo):
    data = as_file(photo.convert(mode), kind, **({"lossless": True} if kind == "webp" else {}))
    assert np.array_equal(pixels(data), np.asarray(photo))

@pytest.mark.parametrize("mode,kind", [("L", "png"), ("L", "jpeg"), ("LA", "png"), ("LA", "tiff"), ("L", "pgm")])
def test_grey(mode, kind, photo):
    kind = {"pgm": "ppm"}.get(kind, kind)
    out = pixels(as_file(photo.convert(mode), kind))
    assert (out[..., 0] == out[..., 1]).all() and (out[..., 1] == out[..., 2]).all()
    assert np.abs(out[..., 0] - np.asarray(photo.convert("L")).astype(int)).mean() < 3

@pytest.mark.parametrize("mode", ["RGB", "CMYK", "YCbCr", "L"])
def test_jpeg(mode, photo):
    data = as_file(photo.convert(mode), "jpeg", quality=95, subsampling=0)
    want = np.asarray(photo.convert("L").convert("RGB") if mode == "L" else photo).astype(int)
    assert open_photo(data).mode == "RGB"
    assert np.abs(pixels(data) - want).mean() < 3

def test_one_bit(photo):
    out = pixels(as_file(photo.convert("1"), "png"))
    assert set(np.unique(out)) == {0, 255}
    assert abs(out.mean() - np.asarray(photo.convert("L")).mean()) < 3

def test_palette(photo):
    flat = photo.quantize(32)
    assert np.array_equal(pixels(as_file(flat, "png")), np.asarray(flat.convert("RGB")))
    assert np.array_equal(pixels(as_file(flat, "gif")), np.asarray(flat.convert("RGB")))

@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_kept_apart(mode, photo):
    mask = Image.linear_gradient("L").resize(photo.size)
    see_through = photo.convert(mode); see_through.putalpha(mask)
    rgb, alpha = open_photo(as_file(see_through, "png"), with_alpha=True)
    assert np.array_equal(np.asarray(rgb), np.asarray(photo.convert(mode[:-1]).convert("RGB")))
    assert alpha.mode == "L" and np.array_equal(np.asarray(alpha), np.asarray(mask))
    assert open_photo(as_file(see_through, "png")).mode == "RGB"

def test_transparency_of_a_palette(photo):
    flat = photo.quantize(16)
    data = as_file(flat, "png", transparency=bytes([0, 128] + [255]*14))
    rgb, alpha = open_photo(data, with_alpha=True)
    assert np.array_equal(np.asarray(rgb), np.asarray(flat.convert("RGB")))
    assert np.array_equal(np.asarray(alpha), np.take([0, 128] + [255]*14, np.asarray(flat)))

def test_transparency_by_one_colour(photo):
    colour = photo.getpixel((0, 0))
    rgb, alpha = open_photo(as_file(photo, "png", transparency=colour), with_alpha=True)
    assert np.array_equal(np.asarray(rgb), np.asarray(photo))
    assert np.asarray(alpha)[0, 0] == 0 and np.asarray(alpha).max() == 255

@pytest.mark.parametrize("mode,kind", [("RGB", "png"), ("L", "jpeg"), ("CMYK", "jpeg"), ("I;16", "png")])
def test_no_alpha_is_none(mode, kind, photo):
    picture = Image.fromarray(RAMP16) if mode == "I;16" else photo.convert(mode)
    assert open_photo(as_file(picture, kind), with_alpha=True)[1] is None

def test_what_comes_out_can_be_saved(photo):
    flat = photo.quantize(16)
    out = open_photo(as_file(flat, "png", transparency=3))
    assert np.array_equal(pixels(as_file(out, "png")), np.asarray(flat.convert("RGB")))

UNDO = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}

@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind, orientation, photo):
    exif = Image.Exif(); exif[0x0112] = orientation
    stored = photo.transpose(Image.Transpose[UNDO[orientation]]) if orientation > 1 else photo
    out = open_photo(as_file(stored, kind, exif=exif))
    assert out.size == photo.size
    assert np.abs(np.asarray(out).astype(int) - np.asarray(photo)).mean() < 8

@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff"*40])
def test_a_broken_exif_does_no_harm(exif, photo):
    data = as_file(photo, "jpeg", quality=95)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert open_photo(data).size == photo.size

@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_the_first_frame_of_an_animation(kind, photo):
    frames = [photo, ImageOps.invert(photo), ImageOps.mirror(photo)]
    out = pixels(as_file(frames[0], kind, save_all=True, append_images=frames[1:], **({} if kind == "tiff" else {"duration": 100})))
    assert np.abs(out - np.asarray(photo)).mean() < 10


# Where a picture comes from

def test_every_kind_of_source(photo, tmp_path):
    photo.save(tmp_path/"a.png")
    data = (tmp_path/"a.png").read_bytes()
    with open(tmp_path/"a.png", "rb") as file:
        for source in (tmp_path/"a.png", str(tmp_path/"a.png"), data, bytearray(data), io.BytesIO(data), file, photo, np.asarray(photo)):
            assert np.array_equal(pixels(source), np.asarray(photo))

def test_arrays():
    assert np.array_equal(pixels(RAMP8)[..., 0], RAMP8)
    is_ramp(pixels(RAMP16))
    assert pixels(RAMP8 > 100).max() == 255

@pytest.mark.parametrize("array", [np.zeros((0, 5), np.uint8), np.zeros((4, 4, 2), np.uint8), np.zeros((3, 40, 50), np.uint8), np.zeros((4, 4, 3)),
                                   np.zeros(5, np.uint8)])
def test_arrays_that_are_no_pictures(array):
    with pytest.raises(PhotoError, match="array of shape"): open_photo(array)

def test_a_picture_given_is_left_alone_and_open(photo, tmp_path):
    photo.convert("RGBA").save(tmp_path/"a.png")
    given = Image.open(tmp_path/"a.png")
    open_photo(given)
    assert given.mode == "RGBA" and given.getpixel((0, 0)) and np.array_equal(pixels(given), np.asarray(photo))

@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_files_are_closed_again(photo, tmp_path):
    photo.save(tmp_path/"a.gif", save_all=True, append_images=[photo]*2)
    (tmp_path/"b.jpg").write_bytes(as_file(photo, "jpeg")[:900])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20): check_photos([tmp_path/"a.gif", tmp_path/"b.jpg"], progress=False)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


# What is broken

@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif", "tiff", "bmp"])
@pytest.mark.parametrize("keep", [.02, .5, .9])
def test_a_file_cut_short(kind, keep, photo, tmp_path):
    data = as_file(photo, kind)
    file = tmp_path/f"torn.{kind}"
    file.write_bytes(data[:int(len(data)*keep)])
    with pytest.raises(PhotoError, match="torn") as error: open_photo(file)
    assert "\n" not in str(error.value)

@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "webp", "bmp", "heic"])
def test_random_bytes(suffix, tmp_path):
    file = tmp_path/f"noise.{suffix}"
    file.write_bytes(random.Random(0).randbytes(2000))
    with pytest.raises(PhotoError, match="noise"): open_photo(file)

@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "tiff", "webp", "bmp", "jpeg2000", "ppm", "tga"])
def test_damage_anywhere_never_gives_another_error(kind, photo):
    data, rng = as_file(photo.resize((48, 32)), kind), random.Random(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(60):
            broken = bytearray(data)
            for _ in range(rng.randint(1, 8)): broken[rng.randrange(min(len(broken), 400))] = rng.randrange(256)
            try: assert open_photo(broken).mode == "RGB"
            except PhotoError: pass

def test_faults_name_the_file(tmp_path):
    (tmp_path/"nothing.jpg").touch()
    (tmp_path/"text.jpg").write_text("Dear Mary")
    for name, says in {"nothing.jpg": "empty", "text.jpg": "not a picture", "nowhere.jpg": "no such file", "": "folder"}.items():
        with pytest.raises(PhotoError, match=says) as error: open_photo(tmp_path/name)
        assert str(tmp_path/name) in str(error.value)

def test_sources_that_are_none():
    for source in (None, 5, b"", [], "", "a\0b"):
        with pytest.raises(PhotoError): open_photo(source)

def test_too_many_pixels(monkeypatch, photo):
    monkeypatch.setattr("colorize.pictures.formats.MAX_PIXELS", 1000)
    with pytest.raises(PhotoError, match="more than 1,000"): open_photo(as_file(photo, "png"))

@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path/"pipe.jpg")
    with pytest.raises(PhotoError, match="not an ordinary file"): open_photo(tmp_path/"pipe.jpg")
    with pytest.raises(PhotoError, match="no photographs"): find_photos(tmp_path)

def test_check_photos_never_raises(photo, tmp_path):
    photo.save(tmp_path/"good.png")
    (tmp_path/"torn.jpg").write_bytes(as_file(photo, "jpeg")[:700])
    files = [tmp_path/"good.png", tmp_path/"torn.jpg", tmp_path/"nowhere.png", tmp_path]
    good, bad = check_photos(files, progress=False)
    assert good == files[:1] and list(bad) == files[1:]
    assert all(str(file) in why for file, why in bad.items())
    assert check_photos([], progress=False) == ([], {})


# Folders

def touch(folder, *names):
    for name in names:
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).touch()

def names(folder, **options): return [f.relative_to(folder).as_posix() for f in find_photos(folder, **options)]

def test_odd_names_and_hidden_files(tmp_path):
    wanted = ["UPPER.JPG", "a b.jpeg", "dots.in.name.png", "sub/été 日本.webp", "sub/sub/x.TiF", "[x]*?.jpg", "-r.jpg"]
    touch(tmp_path, *wanted, ".hidden.jpg", "._apple.jpg", ".thumbnails/x.jpg", "sub/.git/x.png", "notes.txt", "jpg", "x.jpg.part")
    (tmp_path/"folder.jpg").mkdir()
    assert set(names(tmp_path)) == set(wanted)
    assert find_photos(tmp_path) == sorted(find_photos(tmp_path))
    assert set(names(tmp_path, recurse=False)) == {n for n in wanted if "/" not in n}

def test_links_in_circles(tmp_path):
    touch(tmp_path, "a/x.jpg", "a/b/y.jpg")
    (tmp_path/"a/b/up").symlink_to(tmp_path)
    (tmp_path/"a/self").symlink_to(tmp_path/"a/self")
    (tmp_path/"a/gone.jpg").symlink_to(tmp_path/"nowhere.jpg")
    assert names(tmp_path) == ["a/b/y.jpg", "a/gone.jpg", "a/x.jpg"]
    with pytest.raises(PhotoError, match="gone.jpg: there is no such file"): open_photo(tmp_path/"a/gone.jpg")

def test_linked_folders_are_entered(tmp_path):
    touch(tmp_path, "store/x.jpg", "set/y.jpg")
    (tmp_path/"set/more").symlink_to(tmp_path/"store")
    (tmp_path/"link").symlink_to(tmp_path/"set")
    assert names(tmp_path/"set") == ["more/x.jpg", "y.jpg"]
    assert names(tmp_path/"link") == ["more/x.jpg", "y.jpg"]

def test_a_hidden_folder_given_by_name_is_searched(tmp_path):
    touch(tmp_path, ".box/x.jpg")
    assert names(tmp_path/".box") == ["x.jpg"]

def test_folders_that_are_none(tmp_path):
    touch(tmp_path, "x.jpg"); (tmp_path/"empty").mkdir()
    for name, says in {"nowhere": "no such folder", "x.jpg": "this is a file", "empty": "no photographs"}.items():
        with pytest.raises(PhotoError, match=says) as error: find_photos(tmp_path/name)
        assert str(tmp_path/name) in str(error.value)

def test_suffixes_are_what_pillow_opens():
    Image.init()
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    assert PHOTO_SUFFIXES - known <= {".heic", ".heif", ".mpo", ".avif", ".avifs"}


# Splits

FILES = [f"/photos/{i:03}.jpg" for i in range(101)]

def test_a_split_does_not_depend_on_the_order():
    shuffled = random.Random(1).sample(FILES, len(FILES))
    assert split_photos(FILES) == split_photos(shuffled) == split_photos(iter(shuffled))
    assert split_photos(FILES, seed=1) != split_photos(FILES)

def test_a_split_moves_with_its_folder():
    moved = [f.replace("/photos/", "/mnt/other/") for f in FILES]
    assert [[f.name for f in part] for part in split_photos(FILES)] == [[f.name for f in part] for part in split_photos(moved)]

@pytest.mark.parametrize("valid,n", [(.2, 20), (.001, 1), (.999, 100), (30, 30), (1, 1), (100, 100), (np.int64(7), 7)])
def test_sizes_of_a_split(valid, n):
    train, valid = split_photos(FILES, valid)
    assert len(valid) == n and len(train) == 101 - n
    assert not set(train) & set(valid) and len({*train, *valid}) == 101

@pytest.mark.parametrize("valid", [0, 0., -.1, -3, 1., 101, 500, 1.5])
def test_a_split_with_an_empty_part_is_an_error(valid):
    with pytest.raises(PhotoError, match="nothing to"): split_photos(FILES, valid)

def test_too_few_to_split():
    for files in ([], FILES[:1], FILES[:1]*5):
        with pytest.raises(PhotoError, match="two at least"): split_photos(files)
    assert [len(part) for part in split_photos(FILES[:2])] == [1, 1]

def test_a_file_given_twice_is_on_one_side():
    train, valid = split_photos(FILES*3, .5)
    assert len(train) + len(valid) == 101

def test_the_draw_is_the_one_of_the_literal_calls():
    paths = [f"{i:012}.jpg" for i in range(13000)]
    np.random.seed(98)
    drawn = np.random.choice(paths, 12000, replace=False)
    indexes = np.random.permutation(12000)
    train, valid = draw_split(reversed(paths))
    assert [str(p) for p in train] == drawn[indexes[:9000]].tolist()
    assert [str(p) for p in valid] == drawn[indexes[9000:]].tolist()

def test_the_draw_leaves_the_global_random_state_alone():
    np.random.seed(0); before = np.random.get_state()[1].copy()
    draw_split(FILES, 50, 10)
    assert (np.random.get_state()[1] == before).all()

def test_draws_that_cannot_be():
    with pytest.raises(PhotoError, match="only 101"): draw_split(FILES)
    for n_valid in (0, 50):
        with pytest.raises(PhotoError, match="empty"): draw_split(FILES, 50, n_valid)


# Colour

def sepia_filter(photo): return photo.convert("RGB", (.393, .769, .189, 0, .349, .686, .168, 0, .272, .534, .131, 0))
def cyanotype(photo): return ImageOps.colorize(photo.convert("L"), black="#001a40", white="#f0f8ff", mid="#2f74ad")
def toned(photo): return ImageOps.colorize(photo.convert("L"), black="#281a0d", white="#fff4de", mid="#96785a")

def test_no_sample_photograph_is_grey():
    colour, grey = drop_grey(sample_photos(), progress=False)
    assert not grey and colour == sample_photos()

@pytest.mark.parametrize("treat", [lambda p: p.convert("L"), toned, cyanotype])
def test_grey_and_toned_pictures_are_grey(treat):
    for file in sample_photos("valid"): assert is_grey(open_photo(as_file(treat(open_photo(file)), "jpeg", quality=80))), file.name

def test_most_pictures_through_a_sepia_filter_are_grey():
    caught = [is_grey(sepia_filter(open_photo(f))) for f in sample_photos("valid")]
    assert np.mean(caught) > .9

def test_drop_grey_keeps_what_it_cannot_open(photo, tmp_path):
    photo.save(tmp_path/"a.png"); toned(photo).save(tmp_path/"b.png"); (tmp_path/"c.png").touch()
    assert [[f.name for f in part] for part in drop_grey(find_photos(tmp_path), progress=False)] == [["a.png", "c.png"], ["b.png"]]

@pytest.mark.parametrize("rgb", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0)])
def test_flat_pictures(rgb):
    flat = Image.new("RGB", (7, 300), rgb)
    assert hidden_colour(flat) < 1e-3
    assert is_grey(flat) == (rgb != (255, 0, 0))
    assert (mean_chroma(flat) < .1) == (rgb != (255, 0, 0))

@pytest.mark.parametrize("size", [(1, 1), (1, 500), (3, 2)])
def test_tiny_pictures(size):
    picture = Image.effect_noise(size, 50)
    assert small_lab(picture).shape == (3, 64, 64)
    assert is_grey(picture)

def test_density():
    density, edges = ab_density(sample_photos("valid")[:5], bins=55)
    assert density.shape == (55, 55) and len(edges) == 56 and np.isclose(density.sum(), 1)
    grey, _ = ab_density([RAMP8], bins=55)
    assert np.isclose(grey[27, 27], 1)

def test_the_axes_of_the_density():
    density, edges = ab_density([Image.new("RGB", (8, 8), (255, 0, 0))])
    a, b = np.argwhere(density)[0]
    assert edges[a] <= 80.1 <= edges[a + 1] and edges[b] <= 67.2 <= edges[b + 1]

def test_the_outline_is_closed():
    outline = ab_outline(10)
    assert outline.shape == (2, 61) and np.allclose(outline[:, 0], outline[:, -1])


# Tables and the sample photographs

def test_table(photo, tmp_path):
    exif = Image.Exif(); exif[0x0112] = 6
    photo.convert("L").save(tmp_path/"side.jpg", exif=exif)
    row = photo_table([tmp_path/"side.jpg"]).iloc[0]
    assert (row["name"], row["width"], row["height"], row["mode"]) == ("side.jpg", 160, 240, "L")
    assert row.mean_chroma < .1 and row.hidden_colour < .1 and row.megapixels == pytest.approx(.0384)

def test_every_sample_photograph_has_a_credit():
    credits = photo_credits()
    assert set(credits.file) == {f"{f.parent.name}/{f.name}" for f in sample_photos()}
    assert credits[["author", "licence"]].notna().all().all()

def test_data_elsewhere(monkeypatch, photo, tmp_path):
    (tmp_path/"photos"/"train").mkdir(parents=True)
    photo.save(tmp_path/"photos"/"train"/"x.png")
    monkeypatch.setenv("COLORIZE_DATA", str(tmp_path))
    assert [f.name for f in sample_photos()] == [f.name for f in sample_photos("train")] == ["x.png"]
    with pytest.raises(PhotoError, match="no such folder"): sample_photos("valid")
    monkeypatch.setenv("COLORIZE_DATA", str(tmp_path/"nowhere"))
    with pytest.raises(PhotoError, match="COLORIZE_DATA"): sample_photos()

def test_photographs_of_the_current_folder_are_no_samples(monkeypatch, photo, tmp_path):
    import colorize
    (tmp_path/"data"/"photos"/"train").mkdir(parents=True); (tmp_path/"a"/"b").mkdir(parents=True)
    photo.save(tmp_path/"data"/"photos"/"train"/"x.png")
    monkeypatch.delenv("COLORIZE_DATA", raising=False)
    monkeypatch.setattr(colorize, "__file__", str(tmp_path/"site-packages"/"colorize"/"__init__.py"))
    for folder in (tmp_path, tmp_path/"a"/"b"):
        monkeypatch.chdir(folder)
        with pytest.raises(PhotoError, match="COLORIZE_DATA"): sample_photos("train")

def test_import_is_quick():
    code = "import sys, colorize.photos; print([m for m in ('fastai', 'matplotlib', 'pandas', 'skimage') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert out.stdout.strip() == "[]", out.stdout + out.stderr
