"""The store of decoded photographs: rebuilt when it must be, bounded in memory, never trusted when it is torn."""
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

from colorize.batches import PhotoCrops, PhotoDL, PhotoStore, photo_dls, train_crops, valid_crops, written
from colorize.lab import SCALES
from colorize.photos import PhotoError, find_photos


@pytest.fixture
def colours(tmp_path):
    folder = tmp_path/"photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(12): Image.fromarray(rng.integers(0, 255, (80 + i, 100, 3), dtype=np.uint8)).save(folder/f"{i:02}.png")
    return folder


def test_stored_bytes_are_those_of_the_photographs(colours, tmp_path):
    files = find_photos(colours)
    store = PhotoStore(files, 256, tmp_path/"cache")
    for i, file in enumerate(files): np.testing.assert_array_equal(store[i], np.asarray(Image.open(file)))


@pytest.mark.parametrize("damage", ["truncate data", "remove data", "truncate index"])
def test_a_torn_store_is_built_again(colours, tmp_path, damage):
    files = find_photos(colours)
    store = PhotoStore(files, 64, tmp_path/"cache")
    data, index = store.folder/store.data, store.folder/"index.json"
    if damage == "truncate data": data.write_bytes(data.read_bytes()[:-1])
    if damage == "remove data": data.unlink()
    if damage == "truncate index": index.write_text(index.read_text()[:50])
    again = PhotoStore(files, 64, tmp_path/"cache")
    assert len(again) == 12 and (again[11] == np.array(store[11] if damage == "truncate index" else again[11])).all()


def test_only_changed_files_are_decoded_again(colours, tmp_path, monkeypatch):
    files = find_photos(colours)
    PhotoStore(files, 64, tmp_path/"cache")
    Image.new("RGB", (70, 70), "red").save(files[3])
    decoded = []
    plain = PhotoStore._decode
    monkeypatch.setattr(PhotoStore, "_decode", lambda self, stamp: decoded.append(stamp[0]) or plain(self, stamp))
    store = PhotoStore(files, 64, tmp_path/"cache")
    assert decoded == [str(files[3])] and (store[3] == [255, 0, 0]).all()
    assert len(list(store.folder.glob("*.bin"))) == 1


def test_broken_files_are_named_and_do_not_stop_the_rest(colours, tmp_path):
    (colours/"05.png").write_bytes(b"torn")
    store = PhotoStore(find_photos(colours), 64, tmp_path/"cache")
    assert len(store) == 11 and [f.name for f in store.skipped] == ["05.png"] and "05.png" in store.skipped[colours/"05.png"]
    with pytest.raises(PhotoError, match="none of 1 photographs"): PhotoStore([colours/"05.png"], 64, tmp_path/"cache")


def test_memory_stays_bounded_when_the_store_is_larger(tmp_path):
    code = textwrap.dedent(f"""
        import resource, numpy as np, torch
        from pathlib import Path
        from PIL import Image
        from colorize.batches import PhotoStore
        folder = Path({str(tmp_path)!r})
        noise = np.random.default_rng(0).integers(0, 255, (512, 640, 3), dtype=np.uint8)
        for i in range(600): Image.fromarray(np.roll(noise, i)).save(folder/f"{{i}}.bmp") if i < 2 else (folder/f"{{i}}.bmp").symlink_to(folder/"0.bmp")
        PhotoStore([folder/"1.bmp"], 512, folder/"cache", progress=False)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        store = PhotoStore([folder/f"{{i}}.bmp" for i in range(600)], 512, folder/"cache", progress=False)
        size = (store.folder/store.data).stat().st_size
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)*1024, size)
    """)
    grown, size = map(int, subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout.split())
    assert size > 500e6 and grown < size/2


@pytest.mark.parametrize("scale", ["110", "127", "unit"])
def test_batches_are_scikit_images_lab_in_the_networks_scale(colours, tmp_path, scale):
    from skimage.color import rgb2lab
    store = PhotoStore(find_photos(colours), 64, tmp_path/"cache")
    dl = PhotoDL(PhotoCrops(store, valid_crops(64)), SCALES[scale], bs=4)
    L, ab = dl.one_batch()
    rgb = dl.dataset.draw(2).permute(1, 2, 0).numpy()
    lab = SCALES[scale].decode(L, ab)[2].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(lab, rgb2lab(rgb), atol=2e-3)


def test_order_and_crops_depend_on_seed_and_epoch_alone(colours, tmp_path):
    def batches(seed, epoch, first=0):
        dl = photo_dls(colours, size=32, bs=3, seed=seed, cache=tmp_path/"cache", progress=False).train
        torch.rand(7)
        dl.start_at(epoch, first)
        return torch.stack([ab for _, ab in dl])
    torch.testing.assert_close(batches(1, 2), batches(1, 2))
    torch.testing.assert_close(batches(1, 2, first=1), batches(1, 2)[1:])
    assert not torch.equal(batches(1, 2), batches(1, 3)) and not torch.equal(batches(1, 2), batches(2, 2))


def test_drawing_a_crop_leaves_the_state_of_chance_alone(colours, tmp_path):
    crops = PhotoCrops(PhotoStore(find_photos(colours), 64, tmp_path/"cache"), train_crops(32, rotation=10, jitter=.2))
    torch.manual_seed(3); expected = torch.rand(2)
    torch.manual_seed(3); assert crops.draw(0).shape == (3, 32, 32)
    torch.testing.assert_close(torch.rand(2), expected)


def test_writing_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path/"f.txt").write_text("old")
    with pytest.raises(ZeroDivisionError):
        with written(tmp_path/"f.txt") as path: path.write_text("new"); 1/0
    assert (tmp_path/"f.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1
