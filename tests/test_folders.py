"""Folders of photographs: resumed, killed, full, read-only, oddly named, and never a word that is not true."""
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colorize.files import one_line
from colorize.cli import CliError, colorize
from colorize.jobs.folder import Gate, list_photos, plan, target_for
from colorize.jobs.records import COLUMNS, MANIFEST, Manifest, escaped, read_manifest, unescaped

PROGRAM = str(Path(sys.executable).with_name("colorize"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "A model that takes milliseconds"
    import torch
    from colorize.colorizer import Colorizer
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    Colorizer("colorize_net", size=32).save_pretrained(folder)
    return str(folder)


def picture(file, seed=0, size=(24, 18)):
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, size[::-1], dtype=np.uint8)
    Image.fromarray(pixels).save(file, **({"quality": 90} if Path(file).suffix in (".jpg", ".jpeg") else {}))
    return Path(file)


def files(folder): return {f.relative_to(folder).as_posix(): f.stat().st_mtime_ns for f in Path(folder).rglob("*") if f.is_file() and f.name != MANIFEST}


def rows(folder): return list(csv.DictReader((Path(folder)/MANIFEST).open(encoding="utf-8", newline="")))


def run(*args, **kwargs): return subprocess.run([PROGRAM, *map(str, args)], text=True, capture_output=True, errors="surrogateescape", **kwargs)


@pytest.fixture
def box(tmp_path):
    for i, name in enumerate(["a.jpg", "deep/b.png", "deep/deeper/c.webp"]): picture(tmp_path/"box"/name, i)
    return tmp_path/"box"


# --- a thousand photographs, killed three times

def whole(out):
    "What is there at this moment: results, all of them readable and recorded; the record, all of it readable"
    done = files(out)
    visible = {name: t for name, t in done.items() if not any(part.startswith(".") for part in Path(name).parts)}
    recorded = [row["result"] for row in read_manifest(out).values() if row["result"]]
    assert set(visible) <= set(recorded), "a result without its line in the record"
    for name in visible: Image.open(Path(out)/name).load()
    waiting = [name for name in recorded if name not in visible]
    for name in waiting: Image.open(Path(out)/".colorize"/name).load()
    assert len(waiting) <= 2
    return visible


@pytest.mark.parametrize("n, bad, jobs, kills", [(1000, 30, 2, 3), (100, 5, 1, 1)])
def test_a_thousand_photographs_killed_three_times(tiny, tmp_path, capsys, n, bad, jobs, kills):
    rng = random.Random(jobs)
    box, out = tmp_path/"box", tmp_path/"out"
    names = [f"{i//100}/{i%100//50}/{i:04}.{rng.choice(['png', 'jpg'])}" for i in range(n)]
    for i, name in enumerate(names): picture(box/name, i)
    broken = rng.sample(names, bad)
    for i, name in enumerate(broken): (box/name).write_bytes([b"", b"no picture", (box/name).read_bytes()[:60]][i % 3])
    command = [PROGRAM, str(box), "--out", str(out), "--model", tiny, "--size", "32", "--jobs", str(jobs)]
    seen = {}
    for moment in sorted(rng.uniform(.05, .9) for _ in range(kills)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (out/MANIFEST).exists() or (out/MANIFEST).read_bytes().count(b"\n") < moment*n:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(.002)
        time.sleep(rng.uniform(0, .03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = whole(out)
        assert {name: now[name] for name in seen} == seen, "work was done twice"
        seen = now
    assert 0 < len(seen) < n
    assert call(box, out=out, model=tiny, jobs=jobs) == 1
    result = capsys.readouterr()
    last = result.out.strip().splitlines()[-1]
    assert last.startswith(f"{n - bad} of {n} colorized, in {out} (") and last.endswith("of them by an earlier call)")
    assert all(str(box/name) in result.err for name in broken) and sum("png:" in line or "jpg:" in line for line in result.err.splitlines()) == bad
    now = whole(out)
    assert {name: now[name] for name in seen} == seen, "work was done twice"
    assert len(now) == len(files(out)) == n - bad and not (out/".colorize").exists()
    record = rows(out)
    assert len(record) == n and len({row["file"] for row in record}) == n, "each photograph has one line"
    assert {row["file"] for row in record if row["fault"]} == {f"../box/{name}" for name in broken}
    assert {row["file"]: row["result"] for row in record if not row["fault"]} == {f"../box/{name}": str(target_for(Path(name))) for name in names if name not in broken}
    from colorize.colorizer import Colorizer
    from colorize.lab import rgb_to_lab
    import torch
    colorizer = Colorizer.from_pretrained(tiny, "cpu")
    lightness = lambda p: rgb_to_lab(torch.from_numpy(np.array(p.convert("RGB"))).permute(2, 0, 1))[0]
    for i, name in enumerate(names):
        if name in broken: continue
        with Image.open(box/name) as grey, Image.open(out/target_for(Path(name))) as colour:
            assert grey.size == colour.size and colour.mode == "RGB"
            if name.endswith("png"):
                assert (lightness(grey) - lightness(colour)).abs().max() < 1
                if i % 9 == 0: assert np.array_equal(colorizer(grey, 32), colour)
    assert call(box, out=out, model=tiny, jobs=jobs) == 1
    assert f"({n - bad} of them by an earlier call)" in capsys.readouterr().out and files(out) == now and len(rows(out)) == n


# --- what is done again, and what is not

def call(*args, **kwargs):
    "In this process, since torch takes seconds to load"
    return colorize(*map(str, args), size=32, **kwargs)


def test_only_what_has_changed_is_done_again(tiny, box, tmp_path, capsys):
    out = tmp_path/"out"
    assert call(box, out=out, model=tiny) == 0
    first = files(out)
    assert sorted(first) == ["a-color.jpg", "deep/b-color.png", "deep/deeper/c-color.webp"]
    assert call(box, out=out, model=tiny) == 0 and files(out) == first
    assert "3 of 3 colorized, in" in (said := capsys.readouterr().out) and said.strip().endswith("(3 of them by an earlier call)")
    picture(box/"a.jpg", 9)
    picture(box/"new.png", 10)
    assert call(box, out=out, model=tiny) == 0
    second = files(out)
    assert {n for n in second if second[n] != first.get(n)} == {"a-color.jpg", "new-color.png"}
    (out/"a-color.jpg").unlink()
    assert call(box, out=out, model=tiny) == 0 and {n for n, t in files(out).items() if t != second[n]} == {"a-color.jpg"}
    third = files(out)
    assert call(box, out=out, model=tiny, saturation=.5) == 0 and not set(files(out).values()) & set(third.values())
    fourth = files(out)
    assert call(box, out=out, model=tiny, saturation=.5, again=True) == 0 and not set(files(out).values()) & set(fourth.values())
    fifth = files(out)
    assert call(box, out=out, model=tiny, saturation=.5, compare=True) == 0 and len(files(out)) == 8
    assert call(box, out=out, model=tiny, saturation=.5, compare=True) == 0
    assert fifth.keys() < files(out).keys()


def test_another_model_is_noticed_wherever_it_lies_and_the_same_one_is_known(tiny, box, tmp_path):
    import torch
    from colorize.colorizer import Colorizer
    out = tmp_path/"out"
    assert call(box, out=out, model=tiny) == 0
    first = files(out)
    shutil.copytree(tiny, tmp_path/"moved")
    assert call(box, out=out, model=tmp_path/"moved") == 0 and files(out) == first
    torch.manual_seed(1)
    Colorizer("colorize_net", size=32).save_pretrained(tmp_path/"moved")
    assert call(box, out=out, model=tmp_path/"moved") == 0 and not set(files(out).values()) & set(first.values())


def test_a_box_and_its_results_can_be_moved_together_and_called_from_anywhere(tiny, box, tmp_path, monkeypatch):
    assert call(box, out=tmp_path/"out", model=tiny) == 0
    first = files(tmp_path/"out")
    (tmp_path/"disk").mkdir()
    for name in ("box", "out"): shutil.move(tmp_path/name, tmp_path/"disk"/name)
    monkeypatch.chdir(tmp_path/"disk"/"box")
    assert call(".", out=Path("../out"), model=tiny) == 0 and files(tmp_path/"disk"/"out") == first


def test_results_beside_the_photographs_are_resumed_too(tiny, box, capsys):
    before = files(box)
    assert call(box, model=tiny) == 0
    first = files(box)
    assert len(first) == 6 and {n: first[n] for n in before} == before
    assert call(box, model=tiny) == 0 and files(box) == first
    assert "3 left out, because their names end in -color or -compare" in capsys.readouterr().err


def test_an_old_photograph_with_the_name_of_a_result_is_not_written_over(tiny, box, capsys):
    mine = picture(box/"a-color.jpg", 77).read_bytes()
    assert call(box, model=tiny, mark=False) == 1
    assert (box/"a-color.jpg").read_bytes() == mine and "is there already" in capsys.readouterr().err
    assert (box/"deep"/"b-color.png").exists()


def test_broken_ones_are_tried_again_and_take_one_line(tiny, box, tmp_path, capsys):
    (box/"torn.jpg").write_bytes((box/"a.jpg").read_bytes()[:99])
    for _ in range(3):
        assert call(box, out=tmp_path/"out", model=tiny) == 1
        said = capsys.readouterr()
        assert "torn.jpg" in said.err and "3 of 4 colorized" in said.out
    assert [row["fault"] != "" for row in rows(tmp_path/"out") if "torn" in row["file"]] == [True]
    shutil.copy(box/"a.jpg", box/"torn.jpg")
    assert call(box, out=tmp_path/"out", model=tiny) == 0
    assert read_manifest(tmp_path/"out")["../box/torn.jpg"]["fault"] == ""


# --- names

ODD = [b"two\nlines.jpg", b"caf\xe9.png", b" space .jpg", b"-rf.jpg", b"\x1b[31mred.png", b"back\\x0aslash.jpg", b"comma, \"quote\".png", "日本 ñ 🙂.jpg".encode(),
       "gr\u202egpj.png".encode(), b"x"*250 + b".jpg", b"'; rm *.png", b"%s{0}.jpg", b"\r.jpg", b"#.png"]


def test_odd_names_survive(tiny, tmp_path, capsys):
    box, out = tmp_path/"box", tmp_path/"out"
    box.mkdir()
    names = [os.fsdecode(name) for name in ODD]
    try:
        for i, name in enumerate(names): picture(box/name, i)
    except OSError as error: pytest.skip(f"this file system does not take such names: {error}")
    (box/os.fsdecode(b"bro\nken\xff.jpg")).write_bytes(b"nothing")
    assert call(box, out=out, model=tiny) == 1
    said = capsys.readouterr()
    assert f"{len(names)} of {len(names) + 1} colorized" in said.out
    assert "bro\\nken\\udcff.jpg" in said.err and len([line for line in said.err.splitlines() if "ken" in line]) == 1 and "\x1b" not in said.err
    record = read_manifest(out)
    assert set(record) == {f"../box/{name}" for name in [*names, os.fsdecode(b"bro\nken\xff.jpg")]}
    assert {row["result"] for row in record.values() if row["result"]} == set(files(out))
    assert len((out/MANIFEST).read_text(encoding="utf-8").splitlines()) == len(names) + 2
    first = files(out)
    assert call(box, out=out, model=tiny) == 1 and files(out) == first


def test_odd_names_on_the_command_line(tiny, tmp_path):
    name = os.fsdecode(b"caf\xe9 \n.png")
    picture(tmp_path/name)
    result = run(tmp_path/name, "--model", tiny, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0 and "1 of 1 colorized" in result.stdout and "\\udce9 \\n-color.png" in result.stdout, result.stderr
    assert (tmp_path/os.fsdecode(b"caf\xe9 \n-color.png")).exists()


def test_every_text_comes_back():
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(chr(rng.choice([rng.randrange(32, 127), rng.randrange(0, 32), 92, rng.randrange(0xdc80, 0xdd00), rng.randrange(0xa0, 0x3000)])) for _ in range(20))
        line = escaped(text)
        assert unescaped(line) == text and len(line.splitlines()) == 1 and line.encode() and one_line(text).isprintable()
    assert one_line("a\nb\x1b") == "a\\nb\\x1b"


def test_the_same_stem_twice(tiny, tmp_path, capsys):
    box, out = tmp_path/"box", tmp_path/"out"
    for i, name in enumerate(["a.jpg", "a.png", "a.gif", "a.pgm", "A.jpg", "b.gif"]): picture(box/name, i)
    assert call(box, out=out, model=tiny, compare=True) == 0
    record = read_manifest(out)
    assert len({row["result"].lower() for row in record.values()}) == 6 and {row["result"] for row in record.values()} <= set(files(out))
    assert record["../box/b.gif"]["result"] == "b-color.png"
    for name, row in record.items():
        grey, colour = np.array(Image.open(out/name).convert("L")).astype(int), np.array(Image.open(out/row["result"]).convert("L")).astype(int)
        assert np.abs(grey - colour).mean() < 25, f"{name} went to {row['result']}"
    first = files(out)
    picture(box/"b.png", 7)
    assert call(box, out=out, model=tiny, compare=True) == 0
    assert {n: t for n, t in files(out).items() if n in first} == first and read_manifest(out)["../box/b.png"]["result"] != "b-color.png"


def test_two_folders_in_one(tiny, tmp_path):
    for i, name in enumerate(["one/a.jpg", "two/a.jpg"]): picture(tmp_path/name, i)
    assert call(tmp_path/"one", tmp_path/"two", out=tmp_path/"out", model=tiny) == 0
    assert {f: row["result"] for f, row in read_manifest(tmp_path/"out").items()} == {"../one/a.jpg": "a-color.jpg", "../two/a.jpg": "a-2-color.jpg"}
    assert call(tmp_path/"two", tmp_path/"one", tmp_path/"one", out=tmp_path/"out", model=tiny) == 0
    assert sorted(files(tmp_path/"out")) == ["a-2-color.jpg", "a-color.jpg"] and len(rows(tmp_path/"out")) == 2


# --- links

def test_links_in_circles_and_to_nowhere(tiny, box, tmp_path, capsys):
    (box/"deep"/"up").symlink_to(box)
    (box/"self.jpg").symlink_to("self.jpg")
    (box/"one.jpg").symlink_to("two.jpg"), (box/"two.jpg").symlink_to("one.jpg")
    (box/"gone.png").symlink_to("nowhere.png")
    (box/"same.jpg").symlink_to("a.jpg")
    assert call(box, out=tmp_path/"out", model=tiny) == 1
    said = capsys.readouterr()
    assert "4 of 8 colorized" in said.out and all(name in said.err for name in ("self.jpg", "one.jpg", "two.jpg", "gone.png"))
    assert sorted(files(tmp_path/"out")) == ["a-color.jpg", "deep/b-color.png", "deep/deeper/c-color.webp", "same-color.jpg"]


def test_nothing_is_written_outside_of_out(tiny, box, tmp_path, capsys):
    out, elsewhere = tmp_path/"out", tmp_path/"elsewhere"
    out.mkdir(), elsewhere.mkdir()
    (out/"deep").symlink_to(elsewhere)
    assert call(box, out=out, model=tiny) == 1
    said = capsys.readouterr()
    assert not list(elsewhere.rglob("*")) and "leads out of" in said.err and "1 of 3 colorized" in said.out
    for name in (MANIFEST, ".colorize"):
        shutil.rmtree(out), out.mkdir()
        (out/name).symlink_to(elsewhere/"x" if name == MANIFEST else elsewhere)
        with pytest.raises(CliError, match="is a link"): call(box, out=out, model=tiny)
        assert not list(elsewhere.rglob("*"))
    shutil.rmtree(out), out.mkdir()
    (tmp_path/"precious-color.jpg").write_bytes(b"precious")
    with Manifest(out) as record: record.add(file="../box/a.jpg", result="../precious-color.jpg", **{"size": 1, "mtime": 1})
    assert call(box, out=out, model=tiny) == 0 and (tmp_path/"precious-color.jpg").read_bytes() == b"precious"


def test_no_input_is_written_over(tiny, tmp_path):
    box = tmp_path/"box"
    for i, name in enumerate(["a.jpg", "deep/a.jpg", "deep/b.png"]): picture(box/name, i)
    before = {f: f.read_bytes() for f in box.rglob("*.*") if f.is_file()}
    picture(tmp_path/"a-color.jpg", 8)
    with_that = (tmp_path/"a-color.jpg").read_bytes()
    (box/"out").symlink_to(box/"deep")
    for out in (box, box/"deep", box/"out"): call(box, out=out, model=tiny)
    assert call(box, tmp_path/"a-color.jpg", out=tmp_path, model=tiny) == 0
    assert {f: f.read_bytes() for f in before} == before and (tmp_path/"a-color.jpg").read_bytes() == with_that


# --- disks

@pytest.fixture
def small_disk(tmp_path):
    "Mounts a file system in memory; afterwards it goes away"
    mounted = []
    def make(*options):
        folder = tmp_path/"disk"
        folder.mkdir(exist_ok=True)
        result = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], text=True, capture_output=True) if shutil.which("mount") else None
        if result is None or result.returncode: pytest.skip(f"no file system can be mounted here: {result.stderr.strip() if result else 'there is no mount'}")
        mounted.append(folder)
        return folder
    yield make
    for folder in mounted: subprocess.run(["umount", "-l", str(folder)])


def test_a_full_disk_stops_the_work_and_more_room_goes_on(tiny, tmp_path, small_disk, capsys):
    box = tmp_path/"box"
    for i in range(30): picture(box/f"{i:02}.png", i, (60, 40))
    disk = small_disk("size=80k")
    out = disk/"out"
    assert call(box, out=out, model=tiny) == 1
    said = capsys.readouterr()
    assert "the disk is full" in said.err and "still to do" in said.out
    done = whole(out)
    assert 0 < len(done) < 30 and said.out.strip().splitlines()[-1].startswith(f"{len(done)} of 30 colorized")
    assert not [name for name in files(out) if "partial" in name]
    subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
    assert call(box, out=out, model=tiny) == 0
    assert {n: t for n, t in files(out).items() if n in done} == done and len(files(out)) == 30
    assert not [row for row in rows(out) if row["fault"]]


@pytest.mark.parametrize("size", ["4k", "8k", "12k"])
def test_a_disk_that_is_full_from_the_start(tiny, box, small_disk, size):
    out = small_disk(f"size={size}")/"out"
    try: assert call(box, out=out, model=tiny) == 1
    except CliError as error: assert "the disk is full" in str(error)
    for name in files(out): Image.open(out/name).load()


def test_a_read_only_target(tiny, box, tmp_path, small_disk):
    if os.geteuid():
        out = tmp_path/"out"
        out.mkdir(mode=0o555)
    else:
        out = small_disk("size=1m", "ro")
    start = time.perf_counter()
    with pytest.raises(CliError, match="read-only|permission"): call(box, out=out, model=tiny)
    with pytest.raises(CliError, match="read-only|permission"): call(box, out=out/"new", model=tiny)


def test_a_file_in_the_way(tiny, box, tmp_path, capsys):
    out = tmp_path/"out"
    out.mkdir()
    (out/"deep").write_text("not a folder")
    assert call(box, out=out, model=tiny) == 1
    said = capsys.readouterr()
    assert "1 of 3 colorized" in said.out and "could not be written" in said.err and (out/"deep").read_text() == "not a folder"
    with pytest.raises(CliError, match="this is a file, where a folder"): call(box, out=out/"deep", model=tiny)
    (tmp_path/"other").mkdir()
    (tmp_path/"other"/MANIFEST).write_text("my own list of names\n")
    with pytest.raises(CliError, match="not a record of colorize"): call(box, out=tmp_path/"other", model=tiny)
    (tmp_path/"other"/MANIFEST).write_text("my own list, no line end")
    with pytest.raises(CliError, match="not a record of colorize"): call(box, out=tmp_path/"other", model=tiny)
    assert (tmp_path/"other"/MANIFEST).read_text() == "my own list, no line end"


def test_a_folder_that_cannot_be_looked_into(tiny, box, tmp_path, monkeypatch, capsys):
    scandir = os.scandir
    def refused(path):
        if str(path) == str(box/"deep"): raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)
    monkeypatch.setattr(os, "scandir", refused)
    assert call(box, out=tmp_path/"out", model=tiny) == 1
    said = capsys.readouterr()
    assert "deep: this folder cannot be looked into" in said.err and "1 of 2 colorized" in said.out


def test_what_formats_can_hold_and_what_the_command_writes_are_the_same():
    from colorize.jobs.folder import WRITABLE
    from colorize.pictures.write import KINDS
    assert WRITABLE == KINDS


def test_the_options_reach_the_file(tiny, tmp_path):
    from colorize.pictures.read import read_photo
    box = tmp_path/"box"
    box.mkdir()
    Image.fromarray(np.linspace(20000, 30000, 40*30).reshape(30, 40).astype(np.uint16)).save(box/"deep.png")
    exif = Image.Exif()
    exif[270], exif[306] = "harbour", "1932:07:01 12:00:00"
    Image.new("L", (20, 20), 90).save(box/"old.jpg", exif=exif, dpi=(300, 300))
    for name, options in {"plain": {}, "deep": dict(deep=True, compare=True), "bare": dict(metadata=False, mark=False), "contrast": dict(auto_contrast=True), "negative": dict(negative=True)}.items():
        assert call(box, out=tmp_path/name, model=tiny, **options) == 0
    assert read_photo(tmp_path/"plain"/"deep-color.png").deep is None and read_photo(tmp_path/"deep"/"deep-color.png").deep is not None
    assert Image.open(tmp_path/"deep"/"deep-compare.png").size == (80, 30)
    plain, bare = Image.open(tmp_path/"plain"/"old-color.jpg"), Image.open(tmp_path/"bare"/"old-color.jpg")
    assert plain.getexif()[270] == "harbour" and plain.getexif()[306].startswith("1932") and "model" in plain.getexif()[305]
    assert not dict(bare.getexif()) and b"model" not in (tmp_path/"bare"/"old-color.jpg").read_bytes()
    spread = lambda name: int(np.ptp(np.asarray(Image.open(tmp_path/name/"deep-color.png").convert("L"))))
    assert spread("contrast") > 2*spread("plain")
    mean = lambda name: np.asarray(Image.open(tmp_path/name/"old-color.jpg").convert("L")).mean()
    assert mean("negative") > 140 > 110 > mean("plain")


# --- while it runs

def test_a_photograph_that_vanishes_after_the_listing(tiny, box, tmp_path, monkeypatch, capsys):
    import colorize.jobs.folder as folder
    def planned(*args):
        result = plan(*args)
        (box/"deep"/"b.png").unlink()
        return result
    monkeypatch.setattr(folder, "plan", planned)
    assert call(box, out=tmp_path/"out", model=tiny) == 1
    said = capsys.readouterr()
    assert "2 of 3 colorized" in said.out and "deep/b.png: there is no such file" in said.err
    assert read_manifest(tmp_path/"out")["../box/deep/b.png"]["fault"]
    monkeypatch.undo()
    assert call(box, out=tmp_path/"out", model=tiny) == 0 and "2 of 2 colorized" in capsys.readouterr().out


def test_a_photograph_that_changes_while_it_is_read_is_done_anew_next_time(tiny, box, tmp_path, monkeypatch, capsys):
    import colorize.jobs.folder as folder
    one = folder.colorize_one
    def and_then_changed(colorizer, photo, *args, **kwargs):
        notes = one(colorizer, photo, *args, **kwargs)
        if photo.name == "b.png": picture(photo, 99)
        return notes
    monkeypatch.setattr(folder, "colorize_one", and_then_changed)
    assert call(box, out=tmp_path/"out", model=tiny) == 0
    assert "it changed while it was read" in capsys.readouterr().err
    first = files(tmp_path/"out")
    monkeypatch.undo()
    assert call(box, out=tmp_path/"out", model=tiny) == 0
    assert {n for n, t in files(tmp_path/"out").items() if t != first[n]} == {"deep/b-color.png"}
    grey, colour = (np.array(Image.open(f).convert("L")).astype(int) for f in (box/"deep"/"b.png", tmp_path/"out"/"deep"/"b-color.png"))
    assert np.abs(grey - colour).mean() < 25


def test_the_second_of_two_processes_is_refused_with_a_sentence(tiny, box, tmp_path):
    out = tmp_path/"out"
    code = f"import sys, time; from colorize.jobs.records import Manifest\nwith Manifest({str(out)!r}): print('here', flush=True); time.sleep(60)"
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "here\n"
        with pytest.raises(CliError, match="another colorize is at work in this folder"): call(box, out=out, model=tiny)
        assert not [f for f in files(out) if f.endswith("-color.jpg")]
    finally: first.kill(), first.wait()
    assert call(box, out=out, model=tiny) == 0


def test_an_interruption_says_what_is_left(tiny, tmp_path, monkeypatch, capsys):
    import colorize.jobs.folder as folder
    for i in range(20): picture(tmp_path/"box"/f"{i:02}.png", i)
    one, done = folder.colorize_one, []
    def interrupted(*args, **kwargs):
        done.append(args)
        if len(done) == 8: os.kill(os.getpid(), signal.SIGINT); time.sleep(.5)
        return one(*args, **kwargs)
    monkeypatch.setattr(folder, "colorize_one", interrupted)
    assert call(tmp_path/"box", out=tmp_path/"out", model=tiny) == 1
    said = capsys.readouterr()
    n = len(whole(tmp_path/"out"))
    assert 7 <= n <= 9 and "interrupted" in said.err and f"{n} of 20 colorized" in said.out and f"{20 - n} still to do" in said.out
    assert call(tmp_path/"box", out=tmp_path/"out", model=tiny) == 0


# --- the record

@pytest.mark.parametrize("end", ["", "half.jpg,half-co", "\"half\nquoted", "\x00\x00\x00", "a,b\n", "\"open\n", "é,ü,\n"])
def test_a_torn_record_is_mended(end, tmp_path):
    with Manifest(tmp_path) as record: record.add(file="a.jpg", result="a-color.jpg"), record.add(file="b.jpg", fault="torn")
    with open(tmp_path/MANIFEST, "a", encoding="utf-8") as file: file.write(end)
    with Manifest(tmp_path) as record: record.add(file="c.jpg", result="c-color.jpg")
    assert list(read_manifest(tmp_path)) == ["a.jpg", "b.jpg", "c.jpg"]


def test_a_record_torn_at_every_byte(tmp_path):
    with Manifest(tmp_path) as record: record.add(file="ä.jpg", result="a-color.jpg"), record.add(file="b\n.jpg", fault="torn, \"it is\"")
    data = (tmp_path/MANIFEST).read_bytes()
    for n in range(len(data) + 1):
        (tmp_path/MANIFEST).write_bytes(data[:n])
        with Manifest(tmp_path) as record: assert len(record.rows) == max(0, data[:n].count(b"\n") - 1)
        if (tmp_path/MANIFEST).exists(): assert (tmp_path/MANIFEST).read_bytes().startswith((",".join(COLUMNS) + "\n").encode())


def test_a_record_that_went_through_a_spreadsheet_is_still_one(tiny, box, tmp_path):
    out = tmp_path/"out"
    assert call(box, out=out, model=tiny) == 0
    first = files(out)
    text = (out/MANIFEST).read_text(encoding="utf-8")
    (out/MANIFEST).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert call(box, out=out, model=tiny) == 0 and files(out) == first


def test_what_was_finished_and_recorded_comes_to_its_place(tmp_path):
    with Manifest(tmp_path) as record: record.add(file="a.jpg", result="deep/a-color.jpg")
    for name in ("deep/a-color.jpg", "deep/a-compare.jpg", "b-color.jpg", ".12345678.partial.jpg"):
        (tmp_path/".colorize"/name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/".colorize"/name).write_text(name)
    with Manifest(tmp_path): pass
    assert sorted(files(tmp_path)) == ["deep/a-color.jpg", "deep/a-compare.jpg"] and not (tmp_path/".colorize").exists()


# --- threads

def test_threads_give_what_one_gives(model, tmp_path):
    for i in range(12): picture(tmp_path/"box"/f"{i}.png", i, (50 + i, 40))
    for jobs in (1, 4): assert call(tmp_path/"box", out=tmp_path/f"out{jobs}", model=model, jobs=jobs) == 0
    for i in range(12):
        one, four = (np.asarray(Image.open(tmp_path/f"out{jobs}"/f"{i}-color.png")).astype(int) for jobs in (1, 4))
        assert np.abs(one - four).max() <= 1
    with pytest.raises(CliError, match="--jobs 0"): call(tmp_path/"box", out=tmp_path/"out", model=model, jobs=0)


def test_the_gate_bounds_what_is_inside():
    from concurrent.futures import ThreadPoolExecutor
    gate, inside, most = Gate(10), [], []
    def pass_through(n):
        with gate.through(n):
            inside.append(n), most.append(list(inside)), time.sleep(.002)
            inside.remove(n)
    with ThreadPoolExecutor(8) as pool: list(pool.map(pass_through, random.Random(0).choices([1, 2, 4, 9, 30], k=60)))
    assert all(sum(those) <= 10 or len(those) == 1 for those in most) and max(map(len, most)) > 1


def test_help_is_quick_and_names_the_options():
    start = time.perf_counter()
    said = run("--help").stdout
    assert all(option in said for option in ("--jobs", "--again", "--auto-contrast", "--deep", "--no-metadata", "--no-mark"))
    assert "torch" not in subprocess.run([sys.executable, "-X", "importtime", "-c", "import colorize.cli"], text=True, capture_output=True).stderr


def test_a_record_that_is_just_being_begun_holds_nothing(tmp_path):
    head = (",".join(COLUMNS) + "\n").encode()
    for n in (0, 1, len(head)//2, len(head)):
        (tmp_path/MANIFEST).write_bytes(head[:n])
        assert read_manifest(tmp_path) == {}
    (tmp_path/MANIFEST).write_bytes(b"name,price\n")
    with pytest.raises(ValueError, match="not a record"): read_manifest(tmp_path)
