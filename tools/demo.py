"""What `make demo` does: train a colorizer on the sample photographs, and colorize some that it has and has not seen.

    python tools/demo.py [--minutes 3.5] [--photos 32] [--size 64] [--out out]

So few photographs are learned by heart in a few minutes; those that were not seen show what that is worth. It ends
with out/demo.png (grey | colorized | true) and a small table: how far the colours are from the true ones, beside the
grey picture's. A model that comes with the package is shown first.
"""
import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from colorize.batches import photo_dls, train_crops
from colorize.box import contact_sheet
from colorize.colorizer import PRETRAINED, Colorizer, join_photo
from colorize.generators import create_generator
from colorize.lab import chroma, rgb_to_lab
from colorize.pictures.folders import sample_photos
from colorize.pictures.read import open_photo
from colorize.pretraining import pretrain


def lab(picture): return rgb_to_lab(torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))


def scores(pairs):
    "Mean L1 on ab and mean chroma (CIELAB units) of (picture, true) pairs"
    labs = [(lab(picture), lab(true)) for picture, true in pairs]
    return (np.mean([(a - b)[1:].abs().mean().item() for a, b in labs]), np.mean([chroma(a).mean().item() for a, _ in labs]))


def sheet(sections, width=240, height=180):
    "Rows of grey | colorized | true, two photographs a row, under the titles of `sections`"
    parts = [(f"{title}: grey | colorized | true", contact_sheet(triples, width, height, across=2)) for title, triples in sections]
    page = Image.new("RGB", (max(part.width for _, part in parts), sum(part.height + 32 for _, part in parts)), "white")
    top = 0
    for title, part in parts:
        ImageDraw.Draw(page).text((4, top + 5), title, fill="black")
        page.paste(part, (0, top + 24))
        top += part.height + 32
    return page


def show(colorizer, groups, path):
    "Colorize the photographs of `groups` (title → files), write the sheet to `path`, print the table"
    sections, rows = [], []
    for title, files in groups.items():
        true = [open_photo(f) for f in files]
        grey = [join_photo(t, torch.zeros(2, 1, 1)) for t in true]
        fake = colorizer(grey, progress=False)
        triples = list(zip(grey, fake, true))
        sections.append((title, triples[::max(1, len(triples)//6)][:6]))
        rows += [(f"{title}, {name}", *scores(list(zip(pictures, true)))) for name, pictures in (("grey", grey), ("colorized", fake), ("true", true))]
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet(sections).save(path)
    print(f"\n{'':36}{'L1 on ab':>10}{'mean chroma':>14}")
    for name, l1, c in rows: print(f"{name:36}{l1:10.2f}{c:14.2f}")
    print(f"\nThe pictures are in {path}.")


def epochs_for(minutes, dls, scratch):
    "As many epochs as fit into `minutes` on this machine, by the time that two of them take"
    net = create_generator()
    pretrain(dls, scratch/"warm-up", epochs=1, net=net, preview_every=0, save=False, progress=False)
    start = time.monotonic()
    pretrain(dls, scratch/"timed", epochs=2, net=net, preview_every=0, save=False, progress=False)
    return min(120, max(4, int(60*minutes/((time.monotonic() - start)/2))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=3.5, help="of training, about (default: 3.5)")
    parser.add_argument("--photos", type=int, default=32, help="sample photographs to train on (default: 32; there are 131)")
    parser.add_argument("--size", type=int, default=64, help="pixels of the crops (default: 64)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results (default: out)")
    args = parser.parse_args()
    begun = time.monotonic()

    train, valid = sample_photos("train"), sample_photos("valid")
    train = train[::max(1, len(train)//args.photos)][:args.photos]
    if (PRETRAINED/"config.json").exists():
        print("The model that comes with colorize, on photographs that it has not seen:")
        show(Colorizer.from_pretrained(), {"not seen": valid}, args.out/"pretrained.png")

    run = args.out/"demo-run"
    shutil.rmtree(run, ignore_errors=True)
    dls = photo_dls((train, valid), size=args.size, bs=8, tfm=train_crops(args.size, scale=(0.6, 1)))
    with tempfile.TemporaryDirectory() as scratch: epochs = epochs_for(args.minutes, dls, Path(scratch))
    print(f"Training a colorizer from chance on {len(train)} sample photographs of {args.size} pixels, {epochs} times through them, "
          f"in about {args.minutes:g} minutes:", flush=True)
    learn = pretrain(dls, run, epochs=epochs, max_minutes=1.2*args.minutes, preview_every=100)
    print(f"{learn.train_iter} steps; the model, its losses and previews are in {run}.")
    show(Colorizer.from_pretrained(run), {"trained on": train, "not seen": valid}, args.out/"demo.png")
    print(f"The demonstration took {(time.monotonic() - begun)/60:.1f} minutes.")
