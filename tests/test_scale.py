"""Two processes that train as one, and an archive that workers colorize: killed in the middle, gone on with, nothing done twice."""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import fsspec
import nursery
import pandas as pd
import pytest
import torch
from fastcore.script import CliError
from PIL import Image
from torch import nn

from colorize.adversarial import train_colorizer
from colorize.batches import photo_dls
from colorize.cli import colorize, colorize_batch
from colorize.jobs.records import Manifest, read_manifest
from colorize.colorizer import Colorizer
from colorize.pictures.folders import sample_photos
from colorize.pictures.formats import PhotoError
from colorize.jobs.archive import ArchiveWorker, archive_tasks, colorize_archive, note_name, ray_cluster, simulate
from colorize.runs.processes import SharedNorm, share, share_norms, together

posix = pytest.mark.skipif(os.name == "nt", reason="needs signals")
PROGRAMS = Path(sys.executable).parent


# ---------------------------------------------------------------- training

TRAIN = """
import os, torch
from pathlib import Path
from unittest.mock import patch
from torch import nn
from colorize.adversarial import Adversary, train_gan
from colorize.batches import photo_dls
from colorize.discriminators import create_discriminator
from colorize.pictures.folders import sample_photos
from colorize.pretraining import pretrain
from colorize.runs.processes import together

class Small(nn.Module):
    "In float64, where rounding is not multiplied to something that can be seen within 20 steps"
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        def block(i, o): return nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.LeakyReLU(0.1))
        self.layers = nn.Sequential(block(1, 16), block(16, 16), nn.Conv2d(16, 2, 3, padding=1)).double()
    def forward(self, x): return self.layers(x.double()).float()

def double(*args, **kwargs): return create_discriminator(*args, **kwargs).double()
def judge(self, L, ab): return self.discriminator(torch.cat([L, ab], 1).double()).float()

def train(run, how, epochs=2, resume=False):
    "10 steps an epoch"
    with together(Path(run)) as mine, patch.object(Adversary, "judge", judge), patch("colorize.adversarial.create_discriminator", double):
        dls = photo_dls((sample_photos("train")[:80], sample_photos("valid")[:11]), size=32, bs=8, progress=False, device="cpu")
        common = dict(net=Small(), epochs=epochs, resume=resume, precise=True, preview_every=10, checkpoint_minutes=0, progress=False)
        learn = pretrain(dls, mine, **common) if how == "l1" else train_gan(dls, mine, choose_every=10, ema=0.9, d_args=dict(filters=16), **common)
        return {k: v.clone() for k, v in learn.model.state_dict().items()}, learn.adversary.discriminator.state_dict() if how == "gan" else {}
"""
exec(TRAIN)


PAIR = """
import socket, sys
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
children = []
for rank in range(2):
    children.append(os.fork())
    if not children[-1]: os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)); break
else:
    print(*children, flush=True)
    sys.exit(max(abs(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])) for child in children))
"""


def two(folder, code):
    "Start two processes that run `code` as torchrun would start them, from one that has imported everything; (process, their ids)"
    (folder/"train.py").write_text(TRAIN + PAIR + code)
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    process = nursery.Popen([sys.executable, folder/"train.py"], env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return process, [int(pid) for pid in process.stdout.readline().split()]


def until(what, seconds=60):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, "waited for too long"
        time.sleep(.02)


def far(one, other): return max((one[k].double() - other[k].double()).abs().max().item() for k in one)
def losses(run): return pd.read_csv(run/"losses.csv")
def rows(file): return file.read_bytes().count(b"\n") - 1 if file.exists() else 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory, own_cache):
    "What one process makes in 20 steps: {how: (run, generator, discriminator)}"
    folder = tmp_path_factory.mktemp("alone")
    return {how: (folder/how, *train(folder/how, how)) for how in ("l1", "gan")}


@posix
def test_two_processes_are_one_with_the_whole_batch(alone, tmp_path):
    process, _ = two(tmp_path, f"""
for how in ("l1", "gan"): torch.save(train(Path({str(tmp_path)!r})/how, how), Path({str(tmp_path)!r})/f"{{how}}-{{rank}}.pt")
""")
    assert process.wait(120) == 0, process.stdout.read()
    for how, (run, generator, discriminator) in alone.items():
        first, second = (torch.load(tmp_path/f"{how}-{rank}.pt") for rank in (0, 1))
        assert far(first[0], second[0]) == 0 and far(first[0], generator) < 1e-6
        if how == "gan": assert far(first[1], second[1]) == 0 and far(first[1], discriminator) < 1e-5
        one, together = losses(run), losses(tmp_path/how)
        assert one.shape == together.shape and (one - together).abs().max().max() < 1e-4
        names = {f.relative_to(run) for f in run.rglob("*")}
        assert names == {f.relative_to(tmp_path/how) for f in (tmp_path/how).rglob("*")}
        assert (pd.read_csv(run/"choices.csv") - pd.read_csv(tmp_path/how/"choices.csv")).abs().max().max() < 1e-3 if how == "gan" else True


@posix
def test_one_is_killed_the_other_says_so_and_a_single_process_goes_on(alone, tmp_path):
    run = tmp_path/"gan"
    process, children = two(tmp_path, f"""
from colorize.runs.processes import PeerLost
try: train({str(run)!r}, "gan")
except PeerLost as lost: print(lost), sys.exit(3)
""")
    until(lambda: rows(run/"losses.csv") >= 4)
    os.kill(children[1], signal.SIGKILL)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 9 and f"{run}: another of the 2 processes is gone, so this one ends too; the same command with --resume goes on from the last checkpoint" in said
    assert 4 <= rows(run/"losses.csv") < 20
    begun, (one, *nets) = rows(run/"losses.csv"), alone["gan"]
    for net, finished in zip(train(run, "gan", resume=True), nets): assert far(net, finished) < 1e-5
    assert losses(run).step.tolist() == losses(one).step.tolist()


@posix
def test_the_command_under_torchrun_ends_in_order(tmp_path):
    program, args = str(PROGRAMS/"colorize-train"), [*"--epochs 40 --size 32 --batch-size 4 --split 12:4 --preview-every 0 --run r --runs".split(), str(tmp_path/"runs")]
    (tmp_path/"photos").mkdir()
    for file in sample_photos("train")[:16]: shutil.copy(file, tmp_path/"photos")
    command, env = [program, str(tmp_path/"photos"), *args], dict(os.environ, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
    with open(tmp_path/"log.txt", "w") as log:
        process = subprocess.Popen([PROGRAMS/"torchrun", *"--standalone --nproc-per-node 2 --no-python --".split(), *command], env=env, stdout=log, stderr=log)
        until(lambda: rows(tmp_path/"runs"/"r"/"losses.csv") >= 2, 90)
        process.terminate()
        process.wait(60)
    said, run = (tmp_path/"log.txt").read_text(), tmp_path/"runs"/"r"
    assert said.count("ended by SIGTERM") == 2 and len({*re.findall(rf"({re.escape(str(run))}: ended by SIGTERM after step \d+; its checkpoint is written, and it can be resumed)", said)}) == 1, said
    assert [f.name for f in run.iterdir() if f.name.startswith(".")] == [] and (run/"checkpoint.pt").exists()


def test_shares_are_the_batch_without_repeats_and_remember_where_they_are():
    dls = photo_dls((sample_photos("train")[:22], sample_photos("valid")[:5]), size=32, bs=4, progress=False, device="cpu")
    for dl, sizes in ((dls.train, [(2, 2)]*5), (dls.valid, [(2, 2), (1, 0)])):
        shares = [share(dl, rank, 2) for rank in (0, 1)]
        dl.start_at(3)
        whole, parts = [L for L, _ in dl], []
        for part in shares:
            dl.start_at(3)
            parts.append([L for L, _ in part])
        for i, batch in enumerate(whole):
            mine = [part[i] if i < len(part) else batch[:0] for part in parts]
            assert tuple(map(len, mine)) == sizes[i]
            for rank in (0, 1): assert torch.equal(mine[rank], batch[rank::2])
        assert dl.epoch == 4
    dls.train.start_at(3, 2)
    part = share(dls.train, 0, 2)
    assert len([*part]) == 3


def test_shared_norms_keep_weights_and_names_and_are_the_same_alone():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    x, before = torch.randn(2, 1, 8, 8), {k: v.clone() for k, v in net.state_dict().items()}
    expected = net.train()(x)
    net.load_state_dict(before)
    assert isinstance(share_norms(net)[1], SharedNorm) and net.state_dict().keys() == before.keys() and torch.equal(net(x), expected)


def test_without_torchrun_nothing_changes(tmp_path, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with together(tmp_path) as mine: assert mine == tmp_path and not torch.distributed.is_initialized()


# ---------------------------------------------------------------- archives

@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    "The folder of a small model"
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    Colorizer("scaled_unet", dict(complexity=4), size=48).save_pretrained(folder)
    return folder


def fill(box, n, broken=()):
    "`n` small grey photographs in two folders, some of which are broken"
    files = sample_photos("train")
    for i in range(n):
        file = box/f"{'ab'[i%2]}/{i:03}.jpg"
        file.parent.mkdir(exist_ok=True, parents=True)
        if i in broken: file.write_bytes(b"no photograph")
        else: Image.open(files[i%len(files)]).convert("L").resize((48 + i%9, 40)).save(file)
    return box


def files(folder): return {f.relative_to(folder): f for f in folder.rglob("*-color.*")}
def unlike(row): return {k: v for k, v in row.items() if k not in ("seconds", "file")}


@posix
def test_three_hundred_photographs_killed_in_the_middle_and_gone_on_with(tiny, tmp_path, capsys):
    pytest.importorskip("ray")
    box, out = fill(tmp_path/"box", 300, range(7, 300, 30)), tmp_path/"out"
    begun = time.perf_counter()
    assert colorize(str(box), out=tmp_path/"plain", model=str(tiny)) == 1
    plain = time.perf_counter() - begun
    capsys.readouterr()
    with ray_cluster(workers=2) as ray:
        command = [sys.executable, "-c", "import sys; from colorize.jobs.archive import *; colorize_archive(*sys.argv[1:5], workers=2)"]
        env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore")
        first = subprocess.Popen([*command, str(box), str(out), str(tiny), ray.get_runtime_context().gcs_address], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: rows(out/"colorize.csv") >= 60, 150)
        first.kill(), first.wait()
        until(lambda: not any(f.stat().st_mtime > time.time() - 6 for f in out.rglob("*")))
        there = {name: file.stat().st_mtime_ns for name, file in files(out).items()}
        assert 50 <= len(there) < 290
        assert colorize_batch(str(box), str(out), model=str(tiny), workers=2) == 1
    said = capsys.readouterr()
    done, seconds = re.search(r"(\d+) photographs in ([\d.]+) s by 2 workers: [\d.]+ a second", said.out).groups()
    twice = int(done) + len(there) - 290  # each worker may have been killed between a picture and the note of it: that one is made again
    assert 0 <= twice <= 2 and f"290 of 300 colorized, in {out} ({len(there) - twice} of them by an earlier call)" in said.out
    assert {f"{i:03}.jpg" for i in range(7, 300, 30)} == set(re.findall(r"(\d+\.jpg): this is not a picture", said.err))
    assert files(out).keys() == files(tmp_path/"plain").keys() and all(file.read_bytes() == files(tmp_path/"plain")[name].read_bytes() for name, file in files(out).items())
    assert sum(files(out)[name].stat().st_mtime_ns != before for name, before in there.items()) == twice
    record, expected = read_manifest(out), read_manifest(tmp_path/"plain")
    assert {k: unlike(v) for k, v in record.items()} == {k: unlike(v) for k, v in expected.items()} and rows(out/"colorize.csv") == 300
    assert not any((out/".colorize-batch").iterdir())
    assert colorize(str(box), out=out, model=str(tiny)) == 1 and "(290 of them by an earlier call)" in capsys.readouterr().out
    with capsys.disabled(): print(f"\n300 photographs by `colorize`: {plain:.1f} s; {done} of them by two workers of Ray: {seconds} s, their start included")


def worker(source, target, tiny, **kwargs):
    "An `ArchiveWorker` in this process"
    (source_fs, _), (target_fs, out) = fsspec.url_to_fs(source), fsspec.url_to_fs(target)
    return ArchiveWorker(Colorizer.from_pretrained(tiny, "cpu"), source_fs, target_fs, out, "key", "cpu", **kwargs)


def test_from_a_zip_to_a_store_that_is_no_folder(tiny, tmp_path):
    box = fill(tmp_path/"box", 6, {3})
    (box/"a"/"000.png").write_bytes((box/"a"/"002.jpg").read_bytes())
    (box/"a"/"000.gif").write_bytes((box/"a"/"002.jpg").read_bytes())
    (box/"a"/"notes.txt").touch()
    source, target = f"zip://::{shutil.make_archive(tmp_path/'all', 'zip', box)}", f"simplecache::file://{tmp_path/'store'}"
    with Manifest(tmp_path/"record") as record:
        tasks, faults, _ = archive_tasks(source, record)
        assert len(tasks) == 8 and len({task["result"] for task in tasks}) == 8 and not faults
        assert archive_tasks(source, record)[0] == tasks
    (tmp_path/"store"/"a").mkdir(parents=True), (tmp_path/"store"/"b").mkdir(), (tmp_path/"store"/".colorize-batch").mkdir()
    work = worker(source, target, tiny)
    answers = {task["key"].removeprefix(source): work(task) for task in tasks}
    assert [key for key, row in answers.items() if row["fault"]] == ["/b/003.jpg"] and answers["/b/003.jpg"]["fault"] == "b/003.jpg: this is not a picture, or of a format that Pillow does not know"
    expected = Colorizer.from_pretrained(tiny, "cpu")
    for key, row in answers.items():
        if not row["fault"]: assert (tmp_path/"store"/row["result"]).stat().st_size > 0
    Image.open(tmp_path/"store"/answers["/a/000.png"]["result"]).verify()
    with Image.open(tmp_path/"store"/"a"/"000-color.png") as made: assert made.tobytes() == expected(box/"a"/"002.jpg").tobytes()
    with pytest.raises(ValueError, match="say with --record which folder"): colorize_archive(source, target, tiny)
    with pytest.raises(ValueError, match="there is no such folder"): colorize_archive(str(tmp_path/"nowhere"), str(tmp_path/"out"), tiny)


def test_what_is_finished_is_not_done_again_and_what_kills_is_given_up(tiny, tmp_path):
    box, out = fill(tmp_path/"box", 2), tmp_path/"out"
    with Manifest(out) as record: tasks, _, _ = archive_tasks(str(box), record)
    for folder in "ab": (out/folder).mkdir(parents=True)
    work = worker(str(box), str(out), tiny)
    first, note = work(tasks[0]), Path(note_name(str(out), tasks[0]))
    work.colorizer = None
    assert work(tasks[0]) == first and not first["fault"]
    note.write_text(json.dumps(dict(first, tries=2)))
    assert work(tasks[0])["fault"] == "the process that worked at it died, 2 times"
    note.write_text(json.dumps(dict(first, tries=1)))
    assert "it could not be colorized" in work(tasks[0])["fault"]


def test_a_full_disk_stops_everything(tiny, tmp_path, monkeypatch):
    import errno
    box, out = fill(tmp_path/"box", 1), tmp_path/"out"
    with Manifest(out) as record: tasks, _, _ = archive_tasks(str(box), record)
    (out/"a").mkdir(parents=True)
    def full(*_, **__): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("colorize.jobs.archive.colorize_one", full)
    assert re.fullmatch(r".*000-color.jpg could not be written, because .*; the same command goes on later", worker(str(box), str(out), tiny)(tasks[0])["halt"])


@posix
def test_links_do_not_lead_out_of_the_target(tiny, tmp_path):
    box, out = fill(tmp_path/"box", 1), tmp_path/"out"
    out.mkdir(), (tmp_path/"elsewhere").mkdir()
    (out/"a").symlink_to(tmp_path/"elsewhere")
    end = colorize_archive(str(box), str(out), tiny)
    assert not end.done and "is a link that leads out" in end.faults[str(box/"a"/"000.jpg")] and not any((tmp_path/"elsewhere").iterdir())


def test_without_the_extra_it_says_what_to_install(tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CliError, match=r"this needs Ray: pip install 'colorize-course\[scale\]'"): colorize_batch(str(fill(tmp_path/"box", 1)), str(tmp_path/"out"), model=str(tiny))


# ---------------------------------------------------------------- the plan

def test_the_simulated_pipeline():
    assert simulate(10, 1, 2.) == 20 and simulate(10, 2, 2.) == 10 and simulate(11, 2, 2.) == 12 and simulate(3, 8, 2., start=5.) == 7
    assert simulate(100, 50, .01, bytes_read=1e6, bandwidth=1e6) == pytest.approx(100.01)
    assert simulate(100, 50, .01, row_seconds=.1) == pytest.approx(10.01)
    assert simulate(0, 4, 1.) == 0
