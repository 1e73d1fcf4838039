"""Photographs that try to break things: every format × mode × size × orientation × profile, whole and damaged.

    python tests/hostile.py FOLDER [--seed 0] [--broken 1200]      writes them, some thousands of small files
"""
import io
import random
import struct
import sys
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms, features

try: import pillow_heif
except ImportError: pillow_heif = None

SIZES = [(1, 1), (1, 61), (67, 1), (2, 3), (31, 17), (48, 40)]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GAMMAS = {"grey 1.8": 461/256, "grey 1.0": 1.}
XYZ_OF_ADOBE = np.array([[.57667, .18556, .18823], [.29734, .62736, .07529], [.02703, .07069, .99134]])
SRGB_OF_XYZ = np.array([[3.2404542, -1.5371385, -.4985314], [-.9692660, 1.8760108, .0415560], [.0556434, -.2040259, 1.0572252]])


@dataclass
class Hostile:
    "A file and what must come out of it"
    name: str
    data: bytes
    want: np.ndarray = None # float, (H, W, 3): levels 0..255 of sRGB, upright; None where the file is damaged
    deep: bool = False # more than 8 bits a channel
    exact: bool = True # stored without loss


# What must come out, computed without any colour management but the formulas

def encoded(light): return np.where(light <= .0031308, 12.92*light, 1.055*np.maximum(light, 1e-9)**(1/2.4) - .055)

def in_srgb(levels, profile):
    "Levels 0..255 of a profile's colours as levels of sRGB"
    if profile in (None, "sRGB", "torn"): return levels
    if profile in GAMMAS: return 255*encoded((levels/255)**GAMMAS[profile])
    light = (levels/255)**2.19921875@(SRGB_OF_XYZ@XYZ_OF_ADOBE).T
    return 255*encoded(light.clip(0, 1))

def upright(a, orientation):
    return {1: a, 2: np.fliplr(a), 3: np.rot90(a, 2), 4: np.flipud(a), 5: a.swapaxes(0, 1), 6: np.rot90(a, -1),
            7: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90(a)}[orientation]

def rgb_of(picture):
    "Levels 0..255 of what PIL holds, without colour management"
    if picture.mode == "CMYK":
        cmyk = np.asarray(picture).astype(float)
        return (255 - cmyk[..., :3])*(255 - cmyk[..., 3:])/255
    if picture.mode.startswith("I;16"): return np.repeat(np.asarray(picture)[..., None]/257, 3, -1)
    return np.asarray(picture.convert("RGBA").convert("RGB") if picture.has_transparency_data else picture.convert("RGB")).astype(float)


# Profiles, written here byte by byte

def profile_of(name, rng):
    "An ICC profile by name"
    if name == "sRGB": return SRGB
    if name == "torn": return bytes(rng.randbytes(rng.choice([1, 100, 131, 400])))
    xyz = lambda *v: b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(65536*x) for x in v))
    curve = lambda gamma: b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(256*gamma)) + b"\0\0"
    if name in GAMMAS: return packed(b"GRAY", b"XYZ ", {b"wtpt": xyz(.9642, 1, .8249), b"kTRC": curve(GAMMAS[name])})
    tags = {b"rXYZ": xyz(.60974, .31111, .01947), b"gXYZ": xyz(.20528, .62567, .06087), b"bXYZ": xyz(.14919, .06322, .74457)}
    return packed(b"RGB ", b"XYZ ", tags | {c + b"TRC": curve(563/256) for c in (b"r", b"g", b"b")} | {b"wtpt": xyz(.9642, 1, .8249)})

def packed(space, pcs, tags):
    "The parts of a profile as one"
    at, table, body = 132 + 12*len(tags), struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table, body = table + name + struct.pack(">II", at + len(body), len(tag)), body + tag
    kind = b"prtr" if space == b"CMYK" else b"mntr"
    head = struct.pack(">I4sI4s4s4s12x4s", at + len(body), bytes(4), 0x02400000, kind, space, pcs, b"acsp").ljust(68, b"\0")
    return (head + struct.pack(">3i", 63190, 65536, 54061)).ljust(128, b"\0") + table + body

def table_profile(space, lab_of):
    "A profile that is a table of the corners, for `space` b'CMYK' or b'RGB ': `lab_of` gives Lab for a corner of zeros and ones"
    n = {b"CMYK": 4, b"RGB ": 3}[space]
    lut = b"mft1\0\0\0\0" + bytes([n, 3, 2, 0]) + struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536) + bytes(range(256))*n
    for i in range(2**n):
        L, a, b = lab_of([i >> (n - 1 - j) & 1 for j in range(n)])
        lut += bytes([round(255*L/100), round(a + 128), round(b + 128)])
    return packed(space, b"Lab ", {b"A2B0": lut + bytes(range(256))*3, b"A2B1": lut + bytes(range(256))*3, b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">3i", 63190, 65536, 54061)})


# Files

def base(size, rng):
    "uint16 colours of every kind, (H, W, 3)"
    width, height = size
    noise = np.random.default_rng(rng.randrange(2**32))
    ramp = np.linspace(0, 1, width*height).reshape(height, width, 1)*noise.uniform(.3, 1, 3) + noise.uniform(0, .2, (height, width, 3))
    return (65535*ramp.clip(0, 1)).round().astype(np.uint16)

def png(array, colour, exif=b"", profile=b""):
    "A PNG of 16 bits a channel"
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    out = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour, 0, 0, 0))
    if profile: out += chunk(b"iCCP", b"ICC\0\0" + zlib.compress(profile))
    if exif: out += chunk(b"eXIf", exif[6:])
    return out + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

MODES = {
    "jpg": "L RGB CMYK YCbCr", "png": "1 L LA P PT RGB RGBA I;16 RGB16 RGBA16 LA16", "webp": "RGB RGBA", "bmp": "1 L P RGB", "dib": "L RGB",
    "gif": "1 L P PT", "tif": "1 L LA P RGB RGBA CMYK I;16 F RGB16 RGBA16", "tif lzw": "1 L RGB RGBA CMYK I;16 RGB16 RGBA16", "tif zip": "L RGB RGBA I;16 RGB16",
    "tif jpeg": "L RGB", "tif planar": "RGB16 RGBA16 RGB", "tif planar lzw": "RGB16 RGBA16", "tif white": "L I;16", "tif float": "RGB16", "tif pages": "L RGB I;16",
    "ppm": "1 L RGB I;16", "tga": "L LA P RGB RGBA", "jp2": "L LA RGB RGBA I;16", "sgi": "L RGB RGBA", "pcx": "1 L P RGB", "qoi": "RGB RGBA",
    "avif": "RGB RGBA", "heic": "RGB RGBA", "mpo": "L RGB"}
WITH_EXIF, LOSSY = ("jpg", "png", "webp", "tif", "heic", "avif", "mpo"), ("jpg", "tif jpeg", "avif", "heic", "mpo")
PIL_NAMES = {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000", "heic": "HEIF"}

def possible(kind):
    if kind == "heic": return pillow_heif is not None
    if kind == "avif": return features.check("avif")
    return True

def made(kind, mode, size, orientation, profile, rng):
    "One whole file"
    deep, suffix = base(size, rng), kind.split()[0]
    icc, exif = profile_of(profile, rng) if profile else b"", Image.Exif()
    exif[274] = orientation
    bytes8 = Image.fromarray((deep//257).astype(np.uint8))
    grey16 = deep.mean(2).astype(np.uint16)
    out, options, wide = io.BytesIO(), {}, mode in ("I;16", "RGB16", "RGBA16", "LA16", "F")
    if orientation > 1: options["exif"] = exif
    if icc: options["icc_profile"] = icc
    if kind in ("tif planar", "tif planar lzw", "tif white", "tif float") or suffix == "tif" and mode in ("RGB16", "RGBA16"):
        array = {"RGB16": deep, "RGB": (deep//257).astype(np.uint8), "L": (grey16//257).astype(np.uint8), "I;16": grey16,
                 "RGBA16": np.dstack([deep, grey16])}[mode]
        levels = (array[..., :3] if array.ndim == 3 else np.repeat(array[..., None], 3, -1))/(257 if array.dtype == np.uint16 else 1)
        colour = {"photometric": "rgb" if "RGB" in mode else "miniswhite" if kind == "tif white" else "minisblack"}
        if kind == "tif white": array = np.iinfo(array.dtype).max - array
        if kind == "tif float": array = (array/65535).astype(np.float32)
        if "planar" in kind: array, colour["planarconfig"] = np.moveaxis(array, -1, 0), "separate"
        if mode == "RGBA16": colour["extrasamples"] = ["unassalpha"]
        if kind == "tif zip": colour["compression"] = "zlib"
        if kind.endswith("lzw"): colour["compression"] = "lzw"
        extra = [(274, 3, 1, orientation, True)] if orientation > 1 else []
        tifffile.imwrite(out, array, iccprofile=icc or None, extratags=extra, metadata=None, byteorder=rng.choice("<>"), **colour)
        data = out.getvalue()
    elif suffix == "png" and mode in ("RGB16", "RGBA16", "LA16"):
        array, colour = {"RGB16": (deep, 2), "RGBA16": (np.dstack([deep, grey16]), 6), "LA16": (np.dstack([grey16, grey16]), 4)}[mode]
        data = png(array, colour, exif.tobytes() if orientation > 1 else b"", icc)
        levels = (deep if mode != "LA16" else np.repeat(grey16[..., None], 3, -1))/257
    else:
        if mode == "I;16": picture = Image.fromarray(grey16)
        elif mode == "F": picture = Image.fromarray((grey16/65535).astype(np.float32))
        elif mode in ("P", "PT"): picture = bytes8.quantize(rng.choice([2, 16, 200]))
        elif mode == "LA": picture = bytes8.convert("L").convert("LA"); picture.putalpha(bytes8.getchannel(0))
        elif mode == "RGBA": picture = bytes8.copy(); picture.putalpha(bytes8.getchannel(0))
        else: picture = bytes8.convert(mode)
        if mode == "PT": options["transparency"] = 0
        levels = grey16[..., None].repeat(3, -1)/257 if mode in ("I;16", "F") else rgb_of(picture)
        options |= {"webp": {"lossless": True, "exact": True}, "jpg": {"quality": rng.choice([30, 95])}, "avif": {"quality": 90}, "tif lzw": {"compression": "tiff_lzw"},
                    "tif zip": {"compression": "tiff_adobe_deflate"}, "tif jpeg": {"compression": "jpeg", "quality": 90}, "heic": {"quality": 90},
                    "mpo": {"save_all": True, "append_images": [bytes8.rotate(180)]}, "tif pages": {"save_all": True, "append_images": [bytes8]*2}}.get(kind, {})
        if suffix == "heic": pillow_heif.register_heif_opener()
        if suffix == "heic" and "exif" in options: options["exif"] = exif.tobytes()
        picture.save(out, PIL_NAMES.get(suffix, suffix.upper()), **options)
        data = out.getvalue()
        if kind in LOSSY:
            with Image.open(io.BytesIO(data)) as stored:
                levels = rgb_of(stored)
                if suffix in ("tif", "heic"): levels = levels if orientation == 1 else upright(levels, {6: 8, 8: 6}.get(orientation, orientation))
    name = f"{kind}-{mode}-{size[0]}x{size[1]}-{orientation}-{profile}.{suffix}".replace(" ", "_").replace(";", "")
    return Hostile(name, data, upright(in_srgb(levels, profile), orientation), wide, kind not in LOSSY)

def profiles_of(kind, mode):
    "Those that a file of this kind can hold"
    if kind.split()[0] not in ("jpg", "png", "webp", "tif", "heic", "avif", "mpo") or mode in ("CMYK", "YCbCr", "1"): return [None]
    return [None, "sRGB", "torn", *(GAMMAS if mode in ("L", "I;16", "F", "LA") else ["Adobe RGB"])]

def whole_files(seed=0, each=24):
    "Whole files: for each format and mode about `each` combinations of size, orientation and profile"
    for kind, modes in MODES.items():
        if not possible(kind): continue
        for mode in modes.split():
            rng = random.Random(f"{seed} {kind} {mode}")
            turns = range(1, 9) if kind.split()[0] in WITH_EXIF else [1]
            combinations = [(s, o, p) for s in SIZES for o in turns for p in profiles_of(kind, mode)]
            rng.shuffle(combinations)
            if kind in ("heic", "avif"): combinations = [c for c in combinations if min(c[0]) > 16][:each//2] # slow to make
            for size, orientation, profile in combinations[:each]:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    yield made(kind, mode, size, orientation, profile, rng)

def damaged(file, rng):
    "The same file with something wrong"
    data, how = bytearray(file.data), rng.choice(["flip", "flip", "flips", "head", "cut", "zeros", "junk", "longer", "lies", "none"])
    at = rng.randrange(len(data))
    if how == "flip": data[at] ^= 1 << rng.randrange(8)
    if how == "flips":
        for _ in range(rng.randint(2, 30)): data[rng.randrange(len(data))] = rng.randrange(256)
    if how == "head":
        for _ in range(rng.randint(1, 4)): data[rng.randrange(min(len(data), 64))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    if how == "cut": del data[at:]
    if how == "zeros": data[at:at + 64] = bytes(len(data[at:at + 64]))
    if how == "junk": data[at:at] = rng.randbytes(rng.randint(1, 200))
    if how == "longer": data += rng.randbytes(rng.randint(1, 500))
    if how == "lies": data[at:at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice([0, 1, 65535, 2**31 - 1, 2**32 - 1]))
    if how == "none": data = bytearray(rng.randbytes(rng.randint(0, 300)))
    stem, suffix = file.name.rsplit(".", 1)
    return Hostile(f"{stem}-{how}-{at}.{suffix}", bytes(data))

def hostile_files(seed=0, each=24, broken=1200):
    "Whole files and damaged ones, as `Hostile`, always the same for the same seed"
    files, rng = list(whole_files(seed, each)), random.Random(seed)
    return files + [damaged(rng.choice(files), rng) for _ in range(broken)]


if __name__ == "__main__":
    import argparse
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--broken", type=int, default=1200)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    files = hostile_files(args.seed, broken=args.broken)
    for i, file in enumerate(files): (args.folder/f"{i:05}-{file.name}").write_bytes(file.data)
    sys.exit(f"{len(files)} files in {args.folder}" if not files else None)
