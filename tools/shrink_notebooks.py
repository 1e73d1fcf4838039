"""The pictures that notebooks store, made small: photographs as JPEG (quality 90, 4:4:4), charts as the smallest PNG.

    python tools/shrink_notebooks.py [--check] [NOTEBOOK or FOLDER …]        (or: make shrink)

Without names, all of nbs/. A picture counts as a photograph where two things hold:

- at least 11 % of its blocks of 8 × 8 pixels are textured: more than half of their pixels differ a little (4 to 160
  levels) from their four neighbours. Photographs have 20 % and more, even small ones in a wide margin; in lines, text
  and plain areas neighbours differ by nothing or by a lot, in the smooth colours of the ab plane by less;
- as JPEG it takes at most half of what it takes as PNG.

Each of the two catches what the other lets through: curves over a coloured plane look textured, but gain little as
JPEG; a smooth gradient gains, but has no texture. Everything else is a chart, and keeps every pixel: its PNG is written
anew where that is smaller, with a palette where 256 colours are enough. A picture with transparency stays PNG. Where a
cell has given both PNG and JPEG, as pictures of Pillow do, one of them goes. A second run changes nothing.

--check changes nothing at all, and says in a line for each what is too heavy (a notebook of more than 1.5 MB, all of
them over 16 MB), which photographs are stored as PNG, and which JPEG has lost half of its colours' resolution (4:2:0):
its cell must be run again. The exit status is 1 then, and 2 where a notebook can't be read; nothing is written in that
case.
"""
import argparse
import base64
import io
import json
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, JpegImagePlugin

ROOT = Path(__file__).resolve().parent.parent
PNG, JPEG = "image/png", "image/jpeg"
MAX_NOTEBOOK, MAX_TOGETHER = 1_500_000, 16_000_000  # bytes
TEXTURED, WORTH_IT = .11, 1/2
UNREADABLE = (ValueError, OSError, SyntaxError, TypeError, EOFError, struct.error, Image.DecompressionBombError)


class Broken(Exception):
    "A notebook that can't be read, as a sentence"


def textured(picture):
    "The share of blocks of 8 × 8 pixels that look like a photograph"
    rgb = np.asarray(picture.convert("RGB")).astype(np.int16)
    if min(rgb.shape[:2]) < 10:
        return 0.
    middle = rgb[1:-1, 1:-1]
    off = np.abs(4*middle - rgb[:-2, 1:-1] - rgb[2:, 1:-1] - rgb[1:-1, :-2] - rgb[1:-1, 2:]).max(-1)
    little = (off >= 4) & (off <= 160)
    rows, columns = (n//8 for n in little.shape)
    blocks = little[:8*rows, :8*columns].reshape(rows, 8, columns, 8)
    return float((blocks.mean((1, 3)) > .5).mean())


def encoded(picture, kind, **options):
    "The bytes of a file"
    with io.BytesIO() as file:
        picture.save(file, kind, optimize=True, **options)
        return file.getvalue()


def as_jpeg(picture, profile):
    "Quality 90, with the colours as fine as the lightness"
    rgb = picture.convert("RGB")
    return encoded(rgb, "JPEG", quality=90, subsampling="4:4:4", progressive=True, icc_profile=profile)


def with_palette(picture):
    "The same picture with a palette, or None where it has more than 256 colours"
    pixels = np.ascontiguousarray(np.asarray(picture.convert("RGB")))
    numbers = pixels.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colours, places = np.unique(numbers, return_inverse=True)
    if len(colours) > 256:
        return None
    small = Image.fromarray(places.reshape(numbers.shape).astype(np.uint8)).convert("P")
    small.putpalette(b"".join(int(c).to_bytes(3, "big") for c in colours))
    return small


def unfiltered(picture):
    "A PNG whose rows are stored as they are: smaller than Pillow's where much is repeated, as in charts"

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = np.asarray(picture).reshape(picture.height, 3*picture.width)
    head = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    rows = np.insert(pixels, 0, 0, axis=1).tobytes()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def opaque(picture):
    "Has it no transparency?"
    return not picture.has_transparency_data or picture.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def as_png(picture, profile):
    "The smallest file with the same pixels"
    if not opaque(picture):
        return encoded(picture, "PNG", icc_profile=profile)
    rgb = picture.convert("RGB")
    files = [encoded(p, "PNG", icc_profile=profile) for p in (with_palette(rgb), rgb) if p]
    return min(files if profile else [*files, unfiltered(rgb)], key=len)


def smaller(data):
    "(kind, bytes) in which the picture of a PNG is to be stored"
    picture = Image.open(io.BytesIO(data))
    picture.load()
    if picture.mode not in ("1", "L", "LA", "P", "RGB", "RGBA") or getattr(picture, "n_frames", 1) > 1:
        return PNG, data
    profile = picture.info.get("icc_profile")
    plain = as_png(picture, profile)
    if opaque(picture) and textured(picture) >= TEXTURED:
        photo = as_jpeg(picture, profile)
        if len(photo) <= WORTH_IT*len(plain):
            return JPEG, photo
    return PNG, min(plain, data, key=len)


def picture_of(data):
    "The bytes of a picture, from the one string or the list of lines that a notebook has"
    return base64.b64decode("".join("".join(data).split()), validate=True)


def renamed(entries, old, new):
    "A dict with another name for one of its keys"
    return {new if key == old else key: value for key, value in entries.items()}


def shrink(output):
    "Store an output's picture as it should be; what else is known of it (width, height, alt) stays with it"
    data, about = output["data"], output.get("metadata", {})
    if PNG not in data:
        return
    before = picture_of(data[PNG])
    kind, after = smaller(before)
    if kind == JPEG:
        told = about.pop(JPEG, None)
        data.pop(JPEG, None)
        output["data"] = renamed(data, PNG, JPEG)
        if "metadata" in output:
            output["metadata"] = renamed(about, PNG, JPEG)
        if told and JPEG not in output["metadata"]:
            output["metadata"][JPEG] = told
    else:
        data.pop(JPEG, None)
        about.pop(JPEG, None)
    if after != before:
        output["data"][kind] = base64.b64encode(after).decode()


def complaint(output):
    "What is wrong with an output's picture, if anything"
    data = output["data"]
    if PNG in data:
        before = picture_of(data[PNG])
        photograph = textured(Image.open(io.BytesIO(before))) >= TEXTURED and smaller(before)[0] == JPEG
        return "a photograph is stored as PNG" if photograph else None
    if JPEG not in data:
        return None
    picture = Image.open(io.BytesIO(picture_of(data[JPEG])))
    halved = JpegImagePlugin.get_sampling(picture) not in (-1, 0)
    return "a JPEG with half of its colours' resolution; run the cell again" if halved else None


def pictures(notebook):
    "(place of the cell, output) of each picture"
    for place, cell in enumerate(notebook["cells"]):
        for output in cell.get("outputs", []):
            if {PNG, JPEG} & set(output.get("data", {})):
                yield place, output


def each(path, notebook, act):
    "[(place of the cell, what `act` gives for the picture)]"
    done = []
    for place, output in pictures(notebook):
        try:
            done.append((place, act(output)))
        except UNREADABLE as error:
            raise Broken(f"{path}, cell {place}: the picture can't be read ({error})") from error
    return done


def read(path):
    "A notebook"
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        cells = notebook["cells"]
        if all(isinstance(output, dict) for cell in cells for output in cell.get("outputs", [])):
            return notebook
    except OSError as error:
        raise Broken(f"{path}: could not be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise Broken(f"{path}: not readable as JSON ({error})") from error
    except (KeyError, TypeError, AttributeError):
        pass
    raise Broken(f"{path}: this is JSON, but not a notebook")


def atomic_write(notebook):
    "The text of a notebook, as nbdev-clean leaves it"
    return json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def replace(path, text):
    "All of the file or nothing"
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def found(places):
    "Notebooks under some folders, but not those of JupyterLab's own"
    files = []
    for place in places:
        if place.is_dir():
            files += sorted(place.rglob("*.ipynb"))
        else:
            files.append(place)
    return [file for file in files if ".ipynb_checkpoints" not in file.parts]


def megabytes(size):
    return f"{size/1e6:.2f} MB"


def check(paths):
    "A line for everything that is wrong"
    lines, together = [], 0
    for path in paths:
        size = path.stat().st_size if path.exists() else 0
        together += size
        said = {}
        for place, wrong in each(path, read(path), complaint):
            if wrong:
                said.setdefault(wrong, []).append(str(place))
        parts = [f"{wrong} (cell {', '.join(cells)})" for wrong, cells in said.items()]
        if size > MAX_NOTEBOOK:
            parts.insert(0, f"{megabytes(size)}, and {megabytes(MAX_NOTEBOOK)} are allowed")
        if parts:
            lines.append(f"{path}: " + "; ".join(parts))
    if together > MAX_TOGETHER:
        lines.append(f"the notebooks together: {megabytes(together)}, and {megabytes(MAX_TOGETHER)} are allowed")
    return lines


def shrunk(paths):
    "(path, new text) of the notebooks that get smaller"
    new = []
    for path in paths:
        notebook = read(path)
        before = atomic_write(notebook)
        each(path, notebook, shrink)
        after = atomic_write(notebook)
        if after != before:
            new.append((path, after))
    return new


def main(args=None):
    "The exit status"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say what is wrong")
    parser.add_argument("places", nargs="*", type=Path, metavar="NOTEBOOK or FOLDER", help="all of nbs/ unless told")
    told = parser.parse_args(args)
    paths = found(told.places or [ROOT/"nbs"])
    try:
        if told.check:
            lines = check(paths)
            for line in lines:
                print(line)
            return int(bool(lines))
        for path, text in shrunk(paths):
            size = path.stat().st_size
            replace(path, text)
            print(f"{path}: {megabytes(size)} → {megabytes(path.stat().st_size)}")
    except Broken as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename}: could not be written ({error.strerror})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
