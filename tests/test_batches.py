"""The store of decoded photographs: rebuilt when it must be, bounded in memory, never trusted when it is torn."""
import os
import signal
import subprocess
import sys
import textwrap
import time

import nursery
import numpy as np
import pytest
import torch
from PIL import Image

from colorize.files import atomic_write
from colorize.batches import PhotoCrops, PhotoDL, augment_folder, photo_dls, train_crops, valid_crops
from colorize.lab import SCALES
from colorize.pictures.folders import find_photos
from colorize.pictures.formats import PhotoError
from colorize.pictures.store import PhotoStore


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
        import re, numpy as np, torch
        from pathlib import Path
        from PIL import Image
        from colorize.pictures.store import PhotoStore
        folder = Path({str(tmp_path)!r})
        noise = np.random.default_rng(0).integers(0, 255, (512, 640, 3), dtype=np.uint8)
        for i in range(600): Image.fromarray(np.roll(noise, i)).save(folder/f"{{i}}.bmp") if i < 2 else (folder/f"{{i}}.bmp").symlink_to(folder/"0.bmp")
        PhotoStore([folder/"1.bmp"], 512, folder/"cache", progress=False)
        def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])  # ru_maxrss remembers the process that started this one
        before = peak()
        store = PhotoStore([folder/f"{{i}}.bmp" for i in range(600)], 512, folder/"cache", progress=False)
        size = (store.folder/store.data).stat().st_size
        print((peak() - before)*1024, size)
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
        with atomic_write(tmp_path/"f.txt") as path: path.write_text("new"); 1/0
    assert (tmp_path/"f.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


LIMITED = textwrap.dedent("""
    import os, re, resource, sys, threading, numpy as np, torch
    from pathlib import Path
    from colorize.batches import PhotoCrops, PhotoDL, train_crops
    from colorize.pictures.store import PhotoStore
    def refused(work):
        try: work()
        except (MemoryError, OSError) as error: return type(error).__name__
    torch.set_num_threads(1)
    os.cpu_count = lambda: 2
    threading.stack_size(2**20)
    owned = int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1])*1024
    resource.setrlimit(resource.RLIMIT_DATA, (owned + int(sys.argv[2])*10**6,)*2)
    folder = Path(sys.argv[1])
    dl = PhotoDL(PhotoCrops(PhotoStore(sorted(folder.glob("*.bmp")), 512, folder/"cache", progress=False), train_crops(64)), bs=16)
    photos, data = sum(len(L) for L, ab in dl), dl.dataset.store.folder/dl.dataset.store.data
    print(photos, data.stat().st_size, refused(lambda: [np.ones((512, 640, 3), np.float32) for _ in range(photos)]), refused(lambda: np.memmap(data, mode="c")))
""")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process may own")
def test_an_epoch_of_a_store_larger_than_the_limit(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (512, 640, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path/"000.bmp")
    for i in range(1, 320): (tmp_path/f"{i:03}.bmp").symlink_to(tmp_path/"000.bmp")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path), "200"], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    photos, size, *errors = done.stdout.split()
    assert photos == "320" and int(size) > 300e6 and errors == ["MemoryError", "OSError"]


def test_a_stored_photograph_can_be_read_and_not_changed(colours, tmp_path):
    store = PhotoStore(find_photos(colours), 64, tmp_path/"cache")
    with pytest.raises(ValueError, match="read-only"): store[0][:] = 0
    crops = PhotoCrops(store, lambda photo: photo.zero_())
    before = store[0].copy()
    assert not crops.draw(0).any() and (store[0] == before).all() and before.any()


def test_half_written_photographs_are_not_found(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path/"whole.jpg")
    with atomic_write(tmp_path/"other.jpg") as path:
        path.write_bytes(b"half")
        assert [f.name for f in find_photos(tmp_path)] == ["whole.jpg"] and path.suffix == ".jpg"


def test_augmented_copies_are_the_crops_of_ten_epochs(colours, tmp_path):
    files = find_photos(colours)[:3]
    copies, skipped = augment_folder(files, tmp_path/"out", size=64, seed=7, quality=100, progress=False)
    assert len(copies) == 30 and not skipped and find_photos(tmp_path/"out") == sorted(copies)
    crops = PhotoCrops(PhotoStore(files, 64*8//7, tmp_path/"cache", progress=False), train_crops(64, rotation=10), 7)
    for n, copy in enumerate(copies):
        with Image.open(copy) as photo: assert photo.format == "JPEG" and photo.size == (64, 64); pixels = np.asarray(photo).astype(int)
        assert abs(pixels - crops.draw(*divmod(n, 10)).permute(1, 2, 0).numpy()).mean() < 3


def contents(folder): return {f.name: f.read_bytes() for f in folder.iterdir()}


def test_the_same_seed_writes_the_same_bytes(colours, tmp_path):
    files = find_photos(colours)[:2]
    for out, seed in (("a", 1), ("b", 1), ("c", 2)): augment_folder(files, tmp_path/out, 3, 32, seed=seed, progress=False)
    torch.rand(3)
    augment_folder(files, tmp_path/"d", 3, 32, seed=1, progress=False)
    a, b, c, d = (contents(tmp_path/out) for out in "abcd")
    assert a == b == d and a.keys() == c.keys() and all(a[name] != c[name] for name in a) and len(set(a.values())) == 6
    augment_folder(files, tmp_path/"a", 3, 32, valid_crops(32), seed=1, progress=False)
    assert len(set(contents(tmp_path/"a").values())) == 2


def test_photographs_of_the_same_name_do_not_collide(tmp_path):
    files = [tmp_path/"one"/"1.png", tmp_path/"two"/"1.png", tmp_path/"two"/"1.jpg", tmp_path/("ä"*100 + ".png")]
    for file in files: file.parent.mkdir(exist_ok=True); Image.new("RGB", (40, 40), "red").save(file)
    copies, _ = augment_folder([*files, files[0]], tmp_path/"out", 2, 16, progress=False)
    assert len(copies) == len(set(copies)) == len(contents(tmp_path/"out")) == 8


def test_broken_photographs_are_left_out_and_named(colours, tmp_path):
    whole, _ = augment_folder(find_photos(colours), tmp_path/"whole", 2, 32, progress=False)
    (colours/"05.png").write_bytes(b"torn")
    copies, skipped = augment_folder(find_photos(colours), tmp_path/"out", 2, 32, progress=False)
    assert len(copies) == 22 and list(skipped) == [colours/"05.png"] and "05.png" in skipped[colours/"05.png"]
    assert contents(tmp_path/"out").items() < contents(tmp_path/"whole").items()
    with pytest.raises(PhotoError, match="none of 1 photographs"): augment_folder([colours/"05.png"], tmp_path/"none", progress=False)
    assert not (tmp_path/"none").exists()


@pytest.mark.parametrize("out", ["photos", "photos/../photos", "link", "."])
def test_no_photograph_is_written_into_its_own_folder(colours, tmp_path, out, monkeypatch):
    (tmp_path/"link").symlink_to(colours)
    before = contents(colours)
    for files in (find_photos(colours), [tmp_path/"link"/"00.png"]):
        with pytest.raises(ValueError, match="00.png, which is to be copied"): augment_folder(files, tmp_path/out, progress=False)
    monkeypatch.chdir(colours)
    with pytest.raises(ValueError, match="00.png, which is to be copied"): augment_folder(["00.png"], ".", progress=False)
    assert contents(colours) == before
    for nothing in (dict(files=[]), dict(files=["00.png"], copies=0)):
        with pytest.raises(ValueError, match="nothing to write"): augment_folder(out=tmp_path/"out", progress=False, **nothing)


def test_a_link_in_the_folder_of_copies_counts_as_a_photograph_in_it(colours, tmp_path):
    (tmp_path/"out").mkdir()
    (tmp_path/"out"/"link.png").symlink_to(colours/"00.png")
    with pytest.raises(ValueError, match="link.png"): augment_folder([tmp_path/"out"/"link.png"], tmp_path/"out", progress=False)


def test_killed_while_copying_only_whole_files_are_found(colours, tmp_path):
    files, out = find_photos(colours), tmp_path/"out"
    code = f"from colorize.batches import *; from colorize.pictures.folders import *; augment_folder(find_photos({str(colours)!r}), {str(out)!r}, 75, 96, progress=False)"
    process, deadline = nursery.Popen([sys.executable, "-c", code]), time.time() + 120
    while process.poll() is None and time.time() < deadline and not (out.exists() and len(list(out.iterdir())) > 100): time.sleep(.01)
    assert process.poll() is None, "the copying ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = find_photos(out)
    assert 50 < len(found) < 900
    augment_folder(files, tmp_path/"whole", 75, 96, progress=False)
    whole = contents(tmp_path/"whole")
    assert all(f.read_bytes() == whole[f.name] for f in found) and len(whole) == 900
