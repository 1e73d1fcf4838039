"""Every stage against the usual way of doing the same thing (usual.py), in turns, in one run.

    make bench                                     about 20 minutes on two cores; a GPU is used where there is one
    python bench/bench.py --only lab inference     some of the stages        --rounds 5 --seconds inf        five rounds of each, however long

Prints a table, and writes results.json and results.png beside this file. A figure is the median over the rounds, after one round to warm up;
beside it stand the smallest and the largest. The limit is what the machine could do at best: bytes moved over the bandwidth of its memory, or
multiply-adds over the rate at which it multiplies large matrices, both measured in the same run. For a smaller network the limit is its own.
"""
import argparse
import contextlib
import ctypes
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

warnings.filterwarnings("ignore")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from PIL import Image

import usual
from colorize.devices import fast_dtype, keep_memory, pick_device
from colorize.colorizer import Colorizer
from colorize.generators import create_generator
from colorize.lab import LabScale, join_lab, lab_to_rgb, rgb_to_lab, split_lab
from colorize.models.store import save_generator
from colorize.pictures.folders import sample_photos

HERE, STAGES = Path(__file__).parent, {}
NETWORKS = {"ours": ("resnet_unet", {}), "ours, half": ("resnet_unet", dict(half=True)), "ours, lite": ("lite_unet", {})}


def stage(function): STAGES[function.__name__] = function; return function


def wait(device):
    if device.type == "cuda": torch.cuda.synchronize()


@dataclass
class Row:
    "What is done, by whom, and what it could take at best"
    what: str
    photos: int # in a call
    ways: dict # name → function
    limits: dict = None # name → seconds at best
    kept: tuple = () # the ways for which memory is kept (`keep_memory`), as the library does where it makes batches and trains
    long: bool = False # once only, without a warm-up


_memory = {"kept": None}

def memory(kept):
    "Keep large tensors' memory, or give it back as glibc does when nobody has told it anything (its thresholds grow up to these). Was it otherwise before?"
    if _memory["kept"] == kept: return False
    _memory["kept"] = kept
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        if kept: keep_memory()
        else: libc.mallopt(-3, 2**25), libc.mallopt(-1, 2**26), libc.malloc_trim(0)
    return True


class Took:
    "What a way has measured itself, because not all that it did was to count"
    def __init__(self, seconds): self.seconds = seconds


def in_turns(ways, rounds, device, warm=True, kept=(), seconds=float("inf")):
    "Seconds of each way, one after the other, `rounds` times after a warm-up; no further round begins after `seconds`"
    taken, first = {name: [] for name in ways}, time.perf_counter()
    for i in range(0 if warm else 1, rounds + 1):
        if i > 1 and time.perf_counter() - first > seconds: break
        for name, way in ways.items():
            if memory(name in kept) and kept: way() # what is needed is then there again
            begun = time.perf_counter()
            given = way()
            wait(device)
            took = given.seconds if isinstance(given, Took) else time.perf_counter() - begun
            if i: taken[name].append(took)
    return taken


# ---------------------------------------------------------------- what the machine can do

def bandwidth(device):
    "Bytes a second that can be read and written"
    a = torch.zeros(2**26, device=device); b = torch.empty_like(a)
    return 2*a.nbytes/min(in_turns({"copy": lambda: b.copy_(a)}, 5, device)["copy"])


def matrix_rate(device, dtype):
    "Multiply-adds a second"
    a = torch.randn(2048, 2048, device=device).to(dtype)
    return 2048**3/min(in_turns({"multiply": lambda: a@a}, 5, device)["multiply"])


def work(net, size):
    "Multiply-adds for one photograph"
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter, torch.no_grad(): net(torch.zeros(1, 1, size, size, device=next(net.parameters()).device))
    return counter.get_total_flops()/2


# ---------------------------------------------------------------- the stages, in rows

@stage
def lab(bench):
    from skimage.color import lab2rgb, rgb2lab
    squares = bench.squares(32)
    rgb = torch.stack([torch.from_numpy(p.copy()).permute(2, 0, 1) for p in squares]).to(bench.device)
    there = rgb_to_lab(rgb)
    usual_there = [rgb2lab(p) for p in squares]
    for what, way, ours, moved in (("RGB to Lab, 256²", lambda: [rgb2lab(p) for p in squares], lambda: rgb_to_lab(rgb), 1 + 4),
                                   ("Lab to RGB, 256²", lambda: [lab2rgb(p) for p in usual_there], lambda: lab_to_rgb(there), 8)):
        names = "ours", "ours, memory kept"
        yield Row(what, 32, {"usual": way} | dict.fromkeys(names, ours), dict.fromkeys(names, rgb.numel()*moved/bench.bandwidth), kept=names[1:])


@stage
def batches(bench):
    from colorize.batches import photo_dls
    files = [*sample_photos("train")][:128]
    for workers in (0, 2):
        loader = torch.utils.data.DataLoader(usual.Photographs(files, 256), batch_size=32, num_workers=workers)
        def first():
            with tempfile.TemporaryDirectory(dir=bench.folder) as cache:
                begun = time.perf_counter()
                for _ in photo_dls((files, files[:1]), size=256, bs=32, cache=cache, num_workers=workers, progress=False, device=str(bench.device)).train: pass
                return Took(time.perf_counter() - begun)
        kept = photo_dls((files, files[:1]), size=256, bs=32, cache=bench.folder/"cache", num_workers=workers, progress=False, device=str(bench.device)).train
        ways = {"usual": lambda: [None for _ in loader], "ours": lambda: [None for _ in kept], "ours, first epoch": first}
        limit = 128*256*256*3*(1 + 4)/bench.bandwidth
        yield Row(f"batches, 256², {workers} workers", 128, ways, {"ours": limit, "ours, first epoch": limit}, kept=("ours", "ours, first epoch"))


def step_clock():
    "A fastai callback that notes the seconds of each step"
    from fastai.callback.core import Callback
    class Clock(Callback):
        run_valid, order = False, 100
        def before_fit(self): self.times = []
        def before_batch(self): self.begun = time.perf_counter()
        def after_batch(self): wait(self.dls.device); self.times.append(time.perf_counter() - self.begun)
    return Clock()


def a_step(learn):
    "Median seconds of a step of this Learner"
    def run():
        clock = step_clock()
        with learn.no_bar(), learn.no_logging(), contextlib.redirect_stdout(io.StringIO()): learn.fit(1, 1e-4, cbs=clock)
        return Took(statistics.median(clock.times))
    return run


def _trained(bench, size, adversarial):
    from colorize.adversarial import gan_learner
    from colorize.batches import photo_dls
    from colorize.discriminators import PatchDiscriminator
    from colorize.pretraining import l1_learner
    files = sample_photos("train")[:16 if size > 128 else 24]
    dls = photo_dls((files, files[:1]), size=size, bs=8, cache=bench.folder/"cache", progress=False, device=str(bench.device))
    L, ab = (x.contiguous() for x in dls.train.one_batch())
    learner = lambda net: gan_learner(dls, net, PatchDiscriminator()) if adversarial else l1_learner(dls, net)
    net = usual.network(size).to(bench.device).train()
    opt = torch.optim.Adam(net.parameters(), 1e-4)
    if adversarial:
        critic = PatchDiscriminator().to(bench.device).train()
        other = torch.optim.Adam(critic.parameters(), 1e-4)
        step = lambda: usual.adversarial_step(net, critic, opt, other, L, ab)
    else: step = lambda: usual.l1_step(net, opt, L, ab)
    ways, limits = {"usual": step}, {}
    for name, (arch, args) in NETWORKS.items():
        ways[name] = a_step(learner(create_generator(arch, **args)))
        limits[name] = 3*8*bench.work(name, size)/bench.rate
    yield Row(f"{'adversarial' if adversarial else 'L1'} step, {size}², batch 8", 8, ways, limits, kept=tuple(NETWORKS))


@stage
def l1(bench):
    for size in (64, 128, 256): yield from _trained(bench, size, False)


@stage
def adversarial(bench):
    for size in (64, 128, 256): yield from _trained(bench, size, True)


@stage
def inference(bench):
    net = bench.usual_net()
    def ours(colorizer, rgb):
        net, dtype = colorizer._network()
        with torch.no_grad():
            lab = rgb_to_lab(rgb.to(bench.device))
            L, _ = colorizer.scale.encode(lab)
            ab = torch.cat([net(part.to(dtype)).float() for part in (L.split(1) if bench.device.type == "cpu" else [L])])
            made = lab_to_rgb(join_lab(split_lab(lab)[0], colorizer.scale.decode_ab(ab)))
            return (255*made).round().byte().cpu()
    for n in (1, 8):
        squares = bench.squares(n)
        rgb = torch.stack([torch.from_numpy(p.copy()).permute(2, 0, 1) for p in squares])
        ways = {"usual": lambda: usual.colours(net, squares)} | {name: lambda colorizer=colorizer: ours(colorizer, rgb) for name, colorizer in (bench.colorizers | bench.engines).items()}
        yield Row(f"inference, 256², batch {n}", n, ways, {name: n*bench.work(name, 256)/bench.rate for name in NETWORKS})


@stage
def twelve_megapixels(bench):
    from colorize.jobs.folder import colorize_one
    photo, out, net = bench.large(), bench.folder/"out.jpg", bench.usual_net()
    ways = {name: lambda colorizer=colorizer: colorize_one(colorizer, photo, out) for name, colorizer in bench.colorizers.items()}
    yield Row("12 megapixels, file to file, warm", 1, {"usual": lambda: usual.colorize(net, photo, out)} | ways)


# ---------------------------------------------------------------- whole processes: seconds, and memory at its peak

def process(command, peaks=None, name=None):
    "Run a program, and note how much memory it had at most"
    peak = 0
    with open(os.devnull, "w") as nothing: child = subprocess.Popen(list(map(str, command)), stdout=nothing, stderr=nothing, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    while child.poll() is None:
        if peaks is not None:
            with contextlib.suppress(OSError):
                found = [line for line in Path(f"/proc/{child.pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
                if found: peak = max(peak, int(found[0].split()[1])*1024)
        time.sleep(.005)
    if child.returncode: raise SystemExit(f"{' '.join(map(str, command))} failed with status {child.returncode}")
    if peaks is not None: peaks.setdefault(name, []).append(peak)


@stage
def commands(bench):
    colorize = Path(sys.executable).with_name("colorize")
    weights, out, photos = bench.usual_weights(), bench.folder/"made", bench.many(200)
    out.mkdir(exist_ok=True)
    one = photos[0]
    by_hand = lambda *files: [sys.executable, HERE/"usual.py", weights, out, *files]
    yield Row("import torch, a process", 1, {"usual": lambda: process([sys.executable, "-c", "import torch"])})
    yield Row("colorize --help, a process", 1, {"ours": lambda: process([colorize, "--help"])})
    for what, files, n in (("one small photograph, a process", [one], 1), ("12 megapixels, a process", [bench.large()], 1), ("a folder of 200 photographs", photos, 200)):
        ways = {"usual": lambda: process(by_hand(*files), bench.peaks, (what, "usual"))}
        for name in NETWORKS:
            given, target = ([one.parent], out/f"{name}-{n}") if n > 1 else (files, out/"one.jpg")
            ways[name] = lambda name=name, given=given, target=target: process([colorize, *given, "--model", bench.folder/name, "--out", target, "--again"], bench.peaks, (what, name))
        yield Row(what, n, ways, long=n > 1)


class Bench:
    "What the stages share"
    def __init__(self, folder, device):
        self.folder, self.device, self.peaks = Path(folder), device, {}
        self.dtype = fast_dtype(device) or torch.float32
        self.bandwidth, self.rate = bandwidth(device), matrix_rate(device, self.dtype)
        torch.manual_seed(0)
        self.colorizers, self.engines = {}, {}
        for name, (arch, args) in NETWORKS.items():
            save_generator(self.folder/name, create_generator(arch, **args), dict(arch=arch, arch_args=args, scale=LabScale().to_dict(), size=256))
            self.colorizers[name] = Colorizer.from_pretrained(self.folder/name, str(device))
        for engine, package in (("onnx", "onnxruntime"), ("openvino", "openvino")):
            if find_spec(package): self.engines |= {f"{name}, {engine}": Colorizer.from_pretrained(self.folder/name, "cpu", engine=engine) for name in NETWORKS}

    def work(self, name, size): return work(self.colorizers[name].net, size)

    def squares(self, n): return [np.asarray(Image.open(f).convert("RGB").resize((256, 256))) for f in sample_photos("train")[:n]]

    def usual_net(self):
        torch.manual_seed(0)
        return usual.network().eval()

    def usual_weights(self):
        torch.save(self.usual_net().state_dict(), self.folder/"usual.pth")
        return self.folder/"usual.pth"

    def large(self):
        if not (file := self.folder/"large.jpg").exists(): Image.open(sample_photos("train")[3]).convert("L").resize((4000, 3000), Image.Resampling.BICUBIC).save(file, quality=90)
        return file

    def many(self, n):
        folder = self.folder/"photos"
        if not folder.exists():
            folder.mkdir()
            for i in range(n): Image.open(sample_photos()[i % 168]).convert("L").resize((640, 480)).save(folder/f"{i:03}.jpg", quality=90)
        return sorted(folder.glob("*.jpg"))


def report(rows):
    import pandas as pd
    table = pd.DataFrame(rows)
    return table.to_string(index=False, float_format=lambda v: f"{v:.3g}")


def draw(rows, file, title):
    import matplotlib
    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    rows = [r for r in rows if r["way"] != "usual" and r["times the usual"] == r["times the usual"]]
    if not rows: return
    fig, ax = plt.subplots(figsize=(9, .32*len(rows) + 1.2), layout="constrained")
    names = [r["stage"] + ("" if r["way"] == "ours" else f" ({r['way'].removeprefix('ours, ')})") for r in rows]
    ax.barh(names[::-1], [r["times the usual"] for r in rows][::-1], color=["#0072b2" if r["way"] == "ours" else "#56b4e9" for r in rows][::-1])
    ax.axvline(1, c="k", lw=1); ax.margins(y=.01)
    ax.set(xlabel="times as fast as the usual way (medians)", title=title)
    fig.savefig(file, dpi=110)
    plt.close(fig)


def keep(out, machine, rows):
    "Write what is known so far"
    (out/"results.json").write_text(json.dumps(dict(machine=machine, rows=[{k: None if v != v else v for k, v in row.items()} for row in rows]), indent=1) + "\n")
    draw(rows, out/"results.png", f"{machine['gpu'] or machine['processor']}, {machine['cores']} cores, {machine['date']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=STAGES, default=list(STAGES), help="stages")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the warm-up, at most")
    parser.add_argument("--seconds", type=float, default=30, help="no further round of a row begins after this time (one there is always); inf for all of them")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for results.json and results.png")
    args = parser.parse_args()
    device, rows = pick_device(), []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder, device)
        machine = dict(processor=_processor(), cores=os.cpu_count(), gpu=torch.cuda.get_device_name() if device.type == "cuda" else None, number_format=str(bench.dtype).removeprefix("torch."),
                       bandwidth=bench.bandwidth, multiply_adds=bench.rate, python=platform.python_version(), torch=torch.__version__, date=date.today().isoformat(), threads=torch.get_num_threads(),
                       load_before=LOAD)
        for name in args.only:
            for row in STAGES[name](bench):
                print(f"{row.what} …", file=sys.stderr)
                taken = in_turns(row.ways, 1 if row.long else args.rounds, device, not row.long, row.kept, args.seconds)
                base = statistics.median(taken["usual"]) if "usual" in taken else float("nan")
                for way, seconds in taken.items():
                    median, limit, peak = statistics.median(seconds), (row.limits or {}).get(way), bench.peaks.get((row.what, way))
                    rows.append({"stage": row.what, "way": way, "seconds": median, "least": min(seconds), "most": max(seconds), "rounds": len(seconds), "a second": row.photos/median, "times the usual": base/median,
                                 "of the limit": limit/median if limit else float("nan"), "MB": statistics.median(peak)/1e6 if peak else float("nan")})
                keep(args.out, machine, rows)
    print(report(rows))
    print(json.dumps(machine, indent=1))


def _processor():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"): return line.split(":")[1].strip()
    return platform.processor()


if __name__ == "__main__":
    LOAD = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    main()
