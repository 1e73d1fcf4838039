"""What comes from outside and what breaks off: models that lie, processes that are killed at any moment, full disks, two at the same folder, Ctrl-C.

The fuzzing of models takes as long as COLORIZE_FUZZ_MINUTES says (a few seconds unless told): COLORIZE_FUZZ_MINUTES=10 pytest tests/test_crashes.py -k fuzz -s"""
import collections
import json
from contextlib import suppress
import os
import pickle
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import nursery as forked
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from colorize.adversarial import save_fakes
from colorize.files import FolderLocked, WriteError, atomic_write, folder_lock
from colorize.batches import augment_folder, photo_dls
from colorize.generators import create_generator, resnet_body, resnet_unet
from colorize.models.store import MAX_WEIGHTS, load_config, load_generator, save_generator
from colorize.pictures.folders import sample_photos
from colorize.pictures.formats import PhotoError
from colorize.pictures.store import PhotoStore
from colorize.pretraining import pretrain
from colorize.runs.checkpoint import load_checkpoint
from colorize.runs.log import read_losses
from colorize.runs.stop import heeding

posix = pytest.mark.skipif(os.name == "nt", reason="needs fork and signals")


# ---------------------------------------------------------------- processes that start quickly, because they are forked from one that has imported everything

class Nursery:
    "Processes by their ids, whose words go to a file"
    def __init__(self, folder): self.log, self.children = folder/"log.txt", {}

    def start(self, code, log=None):
        with open(log or self.log, "w") as said:
            child = forked.Popen([sys.executable, "-c", code], real=False, stdout=said, stderr=said, env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore"))
        self.children[child.pid] = child
        return child.pid

    def wait(self, pid): return self.children.pop(pid).wait()
    def run(self, code):
        code = self.wait(self.start(code))
        return code, self.log.read_text()


@pytest.fixture(scope="module")
def nursery(tmp_path_factory, own_cache):
    if os.name == "nt": pytest.skip("needs fork")
    return Nursery(tmp_path_factory.mktemp("nursery"))


DIES = """
import os, signal, sys
count, folder = [0], {folder!r}
def hook(event, args, kinds=("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir")):
    if event not in kinds or not isinstance(args[0], str) or not args[0].startswith(folder): return
    if event == "open" and not (args[2] or 0) & (os.O_WRONLY|os.O_RDWR): return
    if {trace}: print(count[0], event, args[0][len(folder):], file=sys.stderr, flush=True)
    if count[0] == {at}: os.kill(os.getpid(), signal.SIGKILL)
    count[0] += 1
sys.addaudithook(hook)
"""


def dies(folder, at, trace=False):
    "Code that kills its own process right before it touches `folder` for the `at`-th time: to write, to rename, to remove, to make"
    return DIES.format(folder=str(folder), at=at, trace=trace)


# ---------------------------------------------------------------- models

def small(arch, **args):
    torch.manual_seed(0)
    return create_generator(arch, **args).eval()

SMALL = {"colorize_net": dict(width=16, depth=2), "scaled_unet": dict(complexity=4), "valid_unet": {}, "pix2pix_unet": dict(filters=4, steps=4)}


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path/"model"
    save_generator(folder, small("colorize_net", **SMALL["colorize_net"]), dict(arch="colorize_net", arch_args=SMALL["colorize_net"], size=64))
    return folder


def refused(folder, *words, error=ValueError):
    with pytest.raises(error) as caught: load_generator(folder)
    told = str(caught.value)
    assert str(folder) in told and "\n" not in told and len(told) < 500, told
    for word in words: assert re.search(word, told), told
    return told


def described(folder, **changes):
    config = json.loads((folder/"config.json").read_text())
    (folder/"config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize("arch, args", [*SMALL.items(), ("resnet_unet", {}), ("resnet_unet", dict(self_attention=True, blur=True, y_range=[-1, 1]))])
def test_what_is_loaded_is_what_was_saved(arch, args, tmp_path):
    net = small(arch, **args)
    save_generator(tmp_path/"m", net, dict(arch=arch, arch_args=args))
    again, config = load_generator(tmp_path/"m")
    x = torch.rand(1, 1, 64, 48)
    with torch.no_grad(): assert torch.equal(net(x), again(x))
    assert not again.training and not any(v.is_meta for v in again.state_dict().values()) and config["arch_args"] == args
    assert {k: v.dtype for k, v in net.state_dict().items()} == {k: v.dtype for k, v in again.state_dict().items()}


@pytest.mark.parametrize("text, words", [
    ("", "not readable as JSON"), ("{", "not readable as JSON"), ("[]", "does not say which network"), ("null", "does not say"), ("3", "does not say"),
    ("\ufeff{}", "not readable as JSON"), ("["*100_000, "not readable as JSON"), ('{"arch": ' + "9"*10_000 + "}", "not readable as JSON"), ("{}", "does not say"),
    ('{"arch": 7}', "no generator '7'"), ('{"arch": ["colorize_net"]}', "no generator"), ('{"arch": "os.system"}', "no generator 'os.system'"),
    (" "*2**21, "more than a megabyte")])
def test_descriptions_that_are_none(saved, text, words):
    (saved/"config.json").write_text(text, encoding="utf-8")
    refused(saved, words, "config.json")


@pytest.mark.parametrize("change, words", [
    (dict(arch_args=[1]), "arch_args must be names"), (dict(arch_args=dict(widht=16)), "can't be built"), (dict(arch_args=dict(width="16", depth=2)), "can't be built"),
    (dict(arch_args=dict(width=16.5, depth=2)), "can't be built"), (dict(arch_args=dict(width=10**30, depth=2)), "can't be built"),
    (dict(arch_args=dict(width=float("nan"), depth=2)), "can't be built"), (dict(arch_args=dict(width=16, depth=10**9)), "at most 12"),
    (dict(arch_args=dict(width=16, depth=-1)), "at least 2"), (dict(arch_args=dict(width=None)), "can't be built"),
    (dict(arch="pix2pix_unet", arch_args=dict(steps=10**9)), "at most 12"), (dict(arch="resnet_unet", arch_args=dict(n_in=3)), "can't be built|another network"),
    (dict(arch="resnet_unet", arch_args=dict(n_out=3)), "another network"), (dict(arch="resnet_unet", arch_args=dict(y_range=["a", "b"])), "can't be built|another network"),
    (dict(arch="resnet_unet", arch_args=dict(size=10**12)), "can't be built|another network"), (dict(arch="resnet_unet", arch_args=dict(size=0)), "can't be built|another network"),
    (dict(size="large"), "whole number of pixels"), (dict(size=10**9), "at most 8192"), (dict(size=0), "at most 8192"), (dict(size=True), "at most 8192"),
    (dict(size=64.), "whole number"), (dict(scale=dict(L_range=1)), "exactly the entries"), (dict(scale="110"), "exactly the entries"),
    (dict(scale=dict(L_center=50., L_range=0., ab_center=0., ab_range=110.)), "must be above 0"),
    (dict(scale=dict(L_center=50., L_range=float("inf"), ab_center=0., ab_range=110.)), "must be a number"), (dict(training=[1]), "training must be")])
def test_descriptions_that_lie(saved, change, words):
    described(saved, **change)
    refused(saved, words)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("args, told, words", [(dict(n_out=3), {}, "does not make a and b of L"), (dict(n_in=3), {}, "can't be used"), (dict(), dict(y_range=["a", "b"]), "can't be used|can't be built")])
def test_networks_that_do_something_else(tmp_path, args, told, words, plain):
    save_generator(tmp_path, resnet_unet(size=64, **args), dict(arch="resnet_unet", arch_args=args | told))
    with pytest.raises(ValueError, match=words) as refusal: load_generator(tmp_path, plain=plain)
    assert "config.json" in str(refusal.value)


def test_entries_that_nobody_knows_are_left_alone(saved):
    described(saved, future=dict(anything=[1, 2]), training=dict(loss=float("nan")))
    assert load_generator(saved)[1]["future"] == {"anything": [1, 2]}


def test_a_description_cannot_name_another_file(saved, tmp_path):
    net = small("resnet_unet")
    save_generator(tmp_path/"r", net, dict(arch="resnet_unet", arch_args=dict(weights=str(tmp_path/"nowhere.pth"))))
    with torch.no_grad(): assert torch.equal(load_generator(tmp_path/"r")[0](torch.zeros(1, 1, 32, 32)), net(torch.zeros(1, 1, 32, 32)))


HUGE = """
import resource, time
from colorize.models.store import load_generator
resource.setrlimit(resource.RLIMIT_AS, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 + 6*10**9,)*2)
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.time()
try: load_generator({folder!r})
except ValueError as error: print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.time() - begun)
"""


@pytest.mark.parametrize("arch, args", [("colorize_net", dict(width=10**7)), ("scaled_unet", dict(complexity=10**6)), ("pix2pix_unet", dict(filters=10**5)),
                                        ("resnet_unet", dict(size=30_000)), ("colorize_net", dict(width=10**18, depth=12))])
def test_an_absurd_size_is_refused_before_memory_is_taken(nursery, saved, arch, args):
    described(saved, arch=arch, arch_args=args)
    code, said = nursery.run(HUGE.format(folder=str(saved)))
    *told, numbers = said.strip().splitlines()
    kilobytes, seconds = map(float, numbers.split())
    assert code == 0 and re.search("would have|can't be built|another network", told[-1]) and str(saved) in told[-1]
    assert kilobytes < 100_000 and seconds < 5, said


def head(changes, data=b""):
    "The bytes of a safetensors file with this head"
    text = json.dumps(changes).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize("content, words", [
    (b"", "not a readable"), (b"\0"*7, "not a readable"), (b"\xff"*64, "not a readable"), (struct.pack("<Q", 2**62) + b"{}", "not a readable"), (head([]), "not a readable"),
    (head({}), "another network"), (head(dict(a=dict(dtype="F32", shape=[10**12], data_offsets=[0, 4*10**12]))), "not a readable"),
    (head(dict(a=dict(dtype="F32", shape=[2**62, 4], data_offsets=[0, 4])), b"1234"), "not a readable"),
    (head(dict(a=dict(dtype="F32", shape=[-1], data_offsets=[0, 4])), b"1234"), "not a readable"),
    (head(dict(a=dict(dtype="F33", shape=[1], data_offsets=[0, 4])), b"1234"), "not a readable"),
    (head({"../../a": dict(dtype="F32", shape=[1], data_offsets=[0, 4])}, b"1234"), "another network"),
    (pickle.dumps({"a": 1}), "is a pickle"), (b"PK\3\4" + b"zip", "is a pickle")])
def test_weights_that_are_none(saved, content, words):
    (saved/"model.safetensors").write_bytes(content)
    refused(saved, words, "model.safetensors")


def test_a_head_of_any_length_is_not_taken_for_a_pickle(saved):
    data = (saved/"model.safetensors").read_bytes()
    n = struct.unpack("<Q", data[:8])[0]
    longer = next(m for m in range(n, n + 2**16) if m % 256 == 0x80 and m//256 % 256 == 4)
    (saved/"model.safetensors").write_bytes(struct.pack("<Q", longer) + data[8:8+n].ljust(longer) + data[8+n:])
    load_generator(saved)


def rewritten(folder, change):
    state = load_file(folder/"model.safetensors")
    change(state)
    save_file({k: v.contiguous() for k, v in state.items()}, folder/"model.safetensors")


def into(state, name, value): state[name].view(-1)[3] = value

@pytest.mark.parametrize("change, words", [
    (lambda s: into(s, "layers.0.0.weight", float("nan")), r"damaged; 1 tensors.*layers\.0\.0\.weight"), (lambda s: into(s, "layers.0.0.weight", float("inf")), "damaged"),
    (lambda s: into(s, "layers.0.1.running_var", -1.), "negative variance"), (lambda s: [v.fill_(3e38) for v in s.values() if v.is_floating_point()], "not made of numbers|damaged"),
    (lambda s: s.pop("layers.0.0.bias"), "another network; 1 tensors"), (lambda s: s.update(more=torch.zeros(2)), "another network; 1 tensors.*more"),
    (lambda s: s.update({"layers.0.0.bias": torch.zeros(9)}), "another shape"), (lambda s: s.update({"layers.0.0.bias": torch.zeros(8, dtype=torch.int64)}), "another network"),
    (lambda s: s.update({"layers.0.0.bias": torch.full((8,), 1e300, dtype=torch.float64)}), "damaged")])
def test_weights_that_are_wrong(saved, change, words):
    rewritten(saved, change)
    refused(saved, words, "model.safetensors")


def test_half_precision_is_read_as_what_the_network_computes_in(saved):
    rewritten(saved, lambda state: state.update({k: v.half() for k, v in state.items() if v.is_floating_point()}))
    assert {v.dtype for v in load_generator(saved)[0].parameters()} == {torch.float32}


def packed(folder):
    "The model of `folder` anew, with weights of 8 bits, however small they are"
    net, config = load_generator(folder)
    with pytest.MonkeyPatch.context() as patch:
        for least in ("_MANY", "_PER_CHANNEL"): patch.setattr(f"colorize.models.weights.{least}", 1)
        save_generator(folder, net, config, bits=8)
    return net


def test_weights_of_8_bits_are_off_by_half_a_step_at_most_and_take_a_quarter(saved):
    heavy = (saved/"model.safetensors").stat().st_size
    before = packed(saved).state_dict()
    after, stored = load_generator(saved)[0].state_dict(), load_file(saved/"model.safetensors")
    assert (saved/"model.safetensors").stat().st_size < .5*heavy
    for name, w in before.items():
        off = (after[name] - w).abs()
        if name + ":scale" in stored:
            assert (off <= .5001*stored[name + ":scale"]).all()
        else:
            assert (off == 0).all(), name
    assert {v.dtype for v in after.values()} == {v.dtype for v in before.values()}
    assert {v.dtype for k, v in stored.items() if k.endswith("weight") and v.dim() == 4} == {torch.int8}


def test_the_scale_of_a_transposed_convolution_is_that_of_its_output_channels(tmp_path):
    net = create_generator("scaled_unet", complexity=32)
    save_generator(tmp_path/"m", net, dict(arch="scaled_unet", arch_args=dict(complexity=32)), bits=8)
    stored = load_file(tmp_path/"m"/"model.safetensors")
    shapes = {tuple(v.shape) for k, v in stored.items() if k.endswith(":scale")}
    assert shapes == {(32, 1, 1, 1), (1, 32, 1, 1)}
    again = load_generator(tmp_path/"m")[0].state_dict()
    for name, w in net.state_dict().items():
        if name + ":scale" in stored: assert ((again[name] - w).abs() <= .5001*stored[name + ":scale"]).all()


def test_what_was_loaded_from_8_bits_is_saved_whole_again(saved):
    packed(saved)
    net, config = load_generator(saved)
    assert config["weights"] == {"bits": 8}
    save_generator(saved, net, config)
    again, told = load_generator(saved)
    assert "weights" not in told and all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))


@pytest.mark.parametrize("change, words", [
    (lambda s: s.pop("layers.0.0.weight:scale"), r"need a scale for each channel; 1 have none that fits.*layers\.0\.0\.weight"),
    (lambda s: s.update({"layers.0.0.weight:scale": torch.ones(9, 1, 1, 1)}), "need a scale"),
    (lambda s: s.update({"layers.0.0.weight:scale": torch.ones(8)}), "need a scale"),
    (lambda s: s.update({"layers.0.0.weight:scale": torch.ones(8, 1, 4, 4)}), "need a scale"),
    (lambda s: s.update({"layers.0.0.weight:scale": torch.ones(8, 1, 1, 1, dtype=torch.int64)}), "need a scale"),
    (lambda s: s.update({"layers.0.0.bias:scale": torch.ones(8)}), r"need a scale.*layers\.0\.0\.bias"),
    (lambda s: s.update({"more:scale": torch.ones(8)}), "need a scale.*more"),
    (lambda s: s.update({"layers.0.0.bias": torch.ones(8, dtype=torch.int8)}), "need a scale.*bias"),
    (lambda s: into(s, "layers.0.0.weight:scale", float("nan")), "damaged; 1 scales"),
    (lambda s: into(s, "layers.0.0.weight:scale", float("inf")), "damaged; 1 scales"),
    (lambda s: into(s, "layers.0.0.weight:scale", -1.), "damaged; 1 scales"),
    (lambda s: s["layers.0.0.weight:scale"].fill_(3e38), "damaged|not made of numbers"),
    (lambda s: [s.pop(k) for k in [*s] if k.endswith(":scale")], "another network")])
def test_weights_of_8_bits_that_are_wrong(saved, change, words):
    packed(saved)
    rewritten(saved, change)
    refused(saved, words, "model.safetensors")


@pytest.mark.parametrize("weights", [dict(bits=7), dict(bits="8"), dict(bits=[8]), "8 bits", 8])
def test_a_description_of_weights_that_there_are_not(saved, weights):
    described(saved, weights=weights)
    refused(saved, "weights must say their bits, one of 8, 16, 32", "config.json")


def test_other_bits_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="with 8, 16, 32 bits, and not with 4"):
        save_generator(tmp_path/"m", small("scaled_unet", complexity=4), dict(arch="scaled_unet"), bits=4)
    assert not (tmp_path/"m").exists()


@pytest.mark.parametrize("bits", [8, 16])
def test_what_few_bits_do_not_hold_is_refused_before_anything_is_written(tmp_path, bits):
    net = small("scaled_unet", complexity=4)
    with torch.no_grad(): next(net.parameters())[0] = float("nan") if bits == 8 else 1e6
    with pytest.raises(ValueError, match="is no number" if bits == 8 else "too large for 16 bits"): save_generator(tmp_path/"m", net, dict(arch="scaled_unet"), bits=bits)
    assert not (tmp_path/"m").exists()


def test_weights_of_another_architecture(saved, tmp_path):
    save_generator(tmp_path/"other", small("scaled_unet", complexity=4), dict(arch="scaled_unet", arch_args=dict(complexity=4)))
    shutil.copy(tmp_path/"other"/"model.safetensors", saved)
    refused(saved, "weights are of another network")


class Code:
    def __init__(self, file): self.file = file
    def __reduce__(self): return os.system, (f"touch {self.file}",)

@pytest.mark.parametrize("name", ["model.pth", "model.pt", "model.pkl", "weights"])
def test_pickles_are_refused_with_the_reason_and_not_opened(saved, tmp_path, name):
    for write in (lambda f: torch.save(dict(a=Code(tmp_path/"ran")), f), lambda f: f.write_bytes(pickle.dumps(Code(tmp_path/"ran")))):
        write(tmp_path/name)
        refused(tmp_path/name, "is a pickle, and to open one is to run whatever code is in it")
        shutil.copy(tmp_path/name, saved/"model.safetensors")
        refused(saved, "is a pickle, and to open one")
        with pytest.raises(ValueError, match="is a pickle, and to open one"): resnet_body(tmp_path/name)
    (tmp_path/"notes.txt").write_text("no model")
    refused(tmp_path/"notes.txt", "this is a file; a model of this course is a folder")
    assert not (tmp_path/"ran").exists()


def test_a_folder_that_has_a_pickle_only(saved):
    (saved/"model.safetensors").rename(saved/"pytorch_model.bin")
    refused(saved, "weights of this model are missing; pytorch_model.bin is a pickle", error=FileNotFoundError)
    (saved/"pytorch_model.bin").unlink()
    refused(saved, "weights of this model are missing$", error=FileNotFoundError)


@pytest.mark.parametrize("state", [[1, 2], torch.zeros(3), {"conv1.weight": 3}, {1: torch.zeros(1)}, {"conv1.weight": torch.zeros(())}])
def test_weights_for_the_body_that_are_no_state_dict(tmp_path, state):
    torch.save(state, tmp_path/"w.pth")
    with pytest.raises(ValueError, match="w.pth: (not a state dict|the weights are of another network)"): resnet_body(tmp_path/"w.pth")


def test_weights_for_the_body_with_nan(tmp_path):
    from torchvision.models import resnet18
    state = resnet18().state_dict()
    state["layer1.0.conv1.weight"][0] = float("nan")
    save_file(state, tmp_path/"w.safetensors")
    with pytest.raises(ValueError, match="w.safetensors: the weights are damaged.*layer1.0.conv1.weight"): resnet_body(tmp_path/"w.safetensors")


@posix
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_links_that_lead_out_of_the_folder(saved, tmp_path, name):
    shutil.move(saved/name, tmp_path/name)
    for target in (tmp_path/name, f"../{name}"):
        (saved/name).symlink_to(target)
        refused(saved, "this link leads out of the model's folder")
        (saved/name).unlink()
    (saved/name).symlink_to(saved/name)
    refused(saved, "this link leads nowhere|missing", error=(ValueError, FileNotFoundError))
    (saved/name).unlink()
    shutil.copy(tmp_path/name, saved/"inside")
    (saved/name).symlink_to("inside")
    load_generator(saved)
    (tmp_path/"elsewhere").symlink_to(saved)
    load_generator(tmp_path/"elsewhere")


@posix
def test_the_links_of_the_hubs_cache_are_followed(saved, tmp_path):
    snapshot, blobs = tmp_path/"models--a--b"/"snapshots"/"0123", tmp_path/"models--a--b"/"blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.move(saved/name, blobs/f"{name}-hash")
        (snapshot/name).symlink_to(Path("../../blobs")/f"{name}-hash")
    load_generator(snapshot)


@posix
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_file_is_not_waited_for(saved, name):
    (saved/name).unlink()
    os.mkfifo(saved/name)
    refused(saved, "not an ordinary file")
    (saved/name).unlink()
    (saved/name).mkdir()
    refused(saved, "not an ordinary file")


# ---------------------------------------------------------------- models, mutated

ODD = [None, True, 0, -1, 1, 2, 3, 10**6, 2**31, 2**63, 2**64, 10**30, 1.5, -0., float("nan"), float("inf"), 1e308, "", "a", "../../x", "/etc/passwd", "\0", "é"*50, [], {}, [1, 2], {"a": 1}, [[[]]],
       "resnet_unet", "pix2pix_unet", "scaled_unet", "valid_unet", "colorize_net", "F16", "BF16", "F64", "I64", "BOOL", "F8_E4M3", "C64"]
NAMES = ["arch", "arch_args", "scale", "size", "training", "width", "depth", "activation", "complexity", "steps", "filters", "weights", "n_in", "n_out", "size", "y_range", "blur", "self_attention",
         "dtype", "shape", "data_offsets", "__metadata__", "x"]


def mutated_json(rng, x, depth=0):
    "`x` with something changed, somewhere"
    roll = rng.random()
    if isinstance(x, dict) and x and roll < .85:
        x, key = dict(x), rng.choice([*x])
        if roll < .1: x.pop(key)
        elif roll < .2: x[rng.choice(NAMES)] = rng.choice(ODD)
        elif roll < .25: x[rng.choice(NAMES)] = x.pop(key)
        else: x[key] = mutated_json(rng, x[key], depth + 1)
        return x
    if isinstance(x, list) and x and roll < .7:
        x, i = list(x), rng.randrange(len(x))
        if roll < .15: del x[i]
        elif roll < .3: x.insert(i, rng.choice(ODD))
        else: x[i] = mutated_json(rng, x[i], depth + 1)
        return x
    if isinstance(x, int) and roll < .4: return x + rng.choice([-1, 1, -x, 7, 2**31, -2**40, x*x])
    return rng.choice(ODD)


def mutated_bytes(rng, data):
    data, roll = bytearray(data), rng.random()
    if roll < .2: return bytes(data[:rng.randrange(len(data) + 1)])
    if roll < .3: return bytes(data) + rng.randbytes(rng.choice([1, 8, 1000]))
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        i = rng.randrange(min(len(data), rng.choice([8, 16, 200, 5000, len(data)])))
        if rng.random() < .5: data[i] ^= 1 << rng.randrange(8)
        else: data[i:i + rng.choice([1, 4, 8])] = rng.choice([b"\0"*8, b"\xff"*8, rng.randbytes(4), struct.pack("<f", 3e38), struct.pack("<f", float("nan"))])
    return bytes(data)


def mutated_model(rng, config, weights):
    what = rng.random()
    if what < .35:
        for _ in range(rng.choice([1, 1, 2, 4])): config = mutated_json(rng, config)
        text = json.dumps(config).encode()
    else: text = json.dumps(config).encode()
    if .35 <= what < .45: text = mutated_bytes(rng, text)
    if .45 <= what < .75:
        n = struct.unpack("<Q", weights[:8])[0]
        header = json.loads(weights[8:8+n])
        for _ in range(rng.choice([1, 1, 2, 4])): header = mutated_json(rng, header)
        weights = head(header, weights[8+n:])
    if what >= .75: weights = mutated_bytes(rng, weights)
    return text, weights


def test_fuzz_models(tmp_path):
    minutes, seeds = float(os.environ.get("COLORIZE_FUZZ_MINUTES", 0)), []
    for arch, args in SMALL.items():
        save_generator(tmp_path/arch, small(arch, **args), dict(arch=arch, arch_args=args, size=64, scale=dict(L_center=50., L_range=50., ab_center=0., ab_range=110.), training=dict(loss="mae")))
        seeds.append((json.loads((tmp_path/arch/"config.json").read_text()), (tmp_path/arch/"model.safetensors").read_bytes()))
    packed(tmp_path/"scaled_unet")
    eight = json.loads((tmp_path/"scaled_unet"/"config.json").read_text())
    seeds.append((eight, (tmp_path/"scaled_unet"/"model.safetensors").read_bytes()))
    seeds.append((dict(arch="resnet_unet", arch_args=dict(self_attention=False, y_range=[-1, 1], size=64), size=64), seeds[0][1]))
    folder, x, seen, slowest = tmp_path/"m", torch.rand(1, 1, 40, 48), collections.Counter(), 0.
    folder.mkdir()
    end, n = time.time() + (60*minutes or 15), 0
    while time.time() < end and (minutes or n < 400):
        rng = random.Random(n)
        config, weights = mutated_model(rng, *seeds[n % len(seeds)])
        (folder/"config.json").write_bytes(config)
        (folder/"model.safetensors").write_bytes(weights)
        begun = time.time()
        try:
            net, found = load_generator(folder)
            with torch.no_grad(): shape = net(x).shape
            assert shape == (1, 2, 40, 48), (n, shape)
            seen["loaded"] += 1
        except (ValueError, FileNotFoundError) as error:
            told = str(error)
            assert type(error) in (ValueError, FileNotFoundError) and str(folder) in told and "\n" not in told and len(told) < 500, (n, type(error), told)
            seen[re.sub(r"\(.*|\d+", "", told.split(": ", 1)[1])[:45]] += 1
        except BaseException as error: raise AssertionError(f"model number {n}: {type(error).__name__} {error}") from error
        slowest = max(slowest, time.time() - begun)
        n += 1
    print(n, "models, the slowest took", round(slowest, 2), "s", *seen.most_common(), sep="\n")
    assert slowest < 10 and seen["loaded"] and len(seen) > 5


def until(true, seconds=60):
    end = time.time() + seconds
    while not true():
        assert time.time() < end, "it did not happen"
        time.sleep(.01)


# ---------------------------------------------------------------- kill -9

@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    "150 small pictures"
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(3)
    for i in range(150): Image.fromarray(rng.integers(0, 255, (24 + i % 5, 30, 3), dtype=np.uint8)).save(folder/f"{i:03}.png")
    return sorted(folder.iterdir())


STORE = """
import colorize.pictures.store as b
from pathlib import Path
b.NOTE_EVERY = 0.
store = b.PhotoStore(sorted(Path({photos!r}).iterdir()), 16, {cache!r}, progress=False)
print(len(store))
"""


def as_a_store_should_be(cache, files):
    "All photographs, rightly; and nothing left in the folder that is of no use"
    store = PhotoStore(files, 16, cache, progress=False)
    assert len(store) == len(files) and not store.skipped
    assert {f.name for f in store.folder.iterdir()} == {"index.json", store.data}
    return [store[i].copy() for i in range(len(store))]


def test_a_store_killed_before_each_thing_that_it_does(nursery, squares, tmp_path):
    expected = as_a_store_should_be(tmp_path/"whole", squares)
    code, killed = STORE.format(photos=str(squares[0].parent), cache=str(tmp_path/"c")), 0
    for at in range(200):
        shutil.rmtree(tmp_path/"c", ignore_errors=True)
        done, _ = nursery.run(dies(tmp_path/"c", at) + code)
        if done == 0: break
        assert done == -signal.SIGKILL
        killed += 1
        if at % 2:
            done, _ = nursery.run(dies(tmp_path/"c", at + 1) + code)
        for ours, theirs in zip(as_a_store_should_be(tmp_path/"c", squares), expected): np.testing.assert_array_equal(ours, theirs)
    assert 12 < killed < 200


def test_a_store_killed_at_random_moments_loses_little(nursery, squares, tmp_path):
    slow = "import time, colorize.batches as b\ndecode = b.PhotoStore._decode\ndef counted(self, stamp):\n    time.sleep(.004)\n    open({n!r}, 'a').write('x')\n    return decode(self, stamp)\nb.PhotoStore._decode = counted\n"
    code, rng = slow.format(n=str(tmp_path/"n")) + STORE.format(photos=str(squares[0].parent), cache=str(tmp_path/"c")), random.Random(5)
    def decoded(): return (tmp_path/"n").stat().st_size if (tmp_path/"n").exists() else 0
    for moment in (20, 80, 40):
        pid, enough = nursery.start(code), decoded() + moment + rng.randrange(20)
        until(lambda: decoded() >= enough)
        os.kill(pid, signal.SIGKILL)
        nursery.wait(pid)
    noted = [len(json.loads(file.read_text())["rows"]) for file in tmp_path.glob("c/*/unfinished.json")]
    before = decoded()
    done, said = nursery.run(code)
    assert done == 0, said
    as_a_store_should_be(tmp_path/"c", squares)
    assert decoded() - before == len(squares) - sum(noted) and sum(noted) >= 64


TRAIN = """
import sys, time
from colorize.adversarial import train_colorizer, train_gan
from colorize.files import FolderLocked, WriteError
from colorize.batches import photo_dls
from colorize.pictures.folders import sample_photos
from colorize.pretraining import pretrain
from colorize.runs.checkpoint import Checkpoint
from colorize.runs.stop import Interrupted
from pathlib import Path
run, files = {run!r}, sample_photos("train")
dls = photo_dls((files[:24], files[24:28]), size=32, bs=4, progress=False)
common = dict(preview_every=2, checkpoint_minutes=0, resume=(Path(run)/"losses.csv").exists() or (Path(run)/"pretraining").exists(), precise=True, progress=False)
first = dict(arch="colorize_net", arch_args=dict(width=16, depth=2), epochs={epochs})
second = dict(epochs={epochs}, d_args=dict(filters=4, n_down=1), ema=.9, choose_every=2)
"""
PRETRAIN, BOTH = TRAIN + "pretrain(dls, run, **first, **common)\n", TRAIN + "train_colorizer(dls, run, first, second, **common)\n"


def whole(run):
    "Every file of a run can be read to its end, whatever happened"
    for file in Path(run).rglob("*"):
        if file.is_dir() or re.match(r"\.(lock$|[0-9a-f]{8}\.partial)", file.name): continue
        if file.name == "checkpoint.pt": assert torch.load(file, weights_only=True)["step"] > 0
        elif file.suffix == ".safetensors": assert load_file(file)
        elif file.name == "config.json": load_generator(file.parent)
        elif file.suffix == ".png": Image.open(file).load()
        elif file.suffix == ".csv": assert (text := file.read_bytes()) == b"" or text.endswith(b"\n") and len({line.count(b",") for line in text.splitlines()}) == 1
        else: raise AssertionError(f"what is {file}?")


def the_same(run, expected):
    a, b = load_file(Path(run)/"model.safetensors"), load_file(Path(expected)/"model.safetensors")
    assert a.keys() == b.keys()
    for k in a: torch.testing.assert_close(a[k], b[k], atol=1e-5, rtol=1e-4, msg=k)
    a, b = read_losses(run), read_losses(expected)
    assert a.step.tolist() == b.step.tolist() and a.epoch.tolist() == b.epoch.tolist()
    np.testing.assert_allclose(a.valid_loss, b.valid_loss, atol=1e-4)
    assert not list(Path(run).rglob("checkpoint.pt")) and not [f for f in Path(run).rglob(".*")]


def finished(run): return (Path(run)/"config.json").exists() and json.loads((Path(run)/"config.json").read_text())["training"]["finished"] and not (Path(run)/"checkpoint.pt").exists()


@pytest.fixture(scope="module")
def uninterrupted(nursery, tmp_path_factory):
    folder, runs = tmp_path_factory.mktemp("uninterrupted"), {}
    def get(code, epochs):
        if (code, epochs) not in runs:
            runs[code, epochs] = folder/str(len(runs))
            done, said = nursery.run(code.format(run=str(runs[code, epochs]), epochs=epochs))
            assert done == 0, said
            whole(runs[code, epochs])
        return runs[code, epochs]
    return get


@pytest.mark.parametrize("code, kills", [(PRETRAIN, 6), (BOTH, 8)])
def test_a_run_killed_at_random_moments_ends_like_the_uninterrupted(nursery, uninterrupted, tmp_path, code, kills):
    expected, run, rng, killed = uninterrupted(code, 2), tmp_path/"run", random.Random(11), 0
    while not finished(run):
        pid = nursery.start(code.format(run=str(run), epochs=2))
        if killed < kills:
            time.sleep(rng.uniform(.1, 1.5))
            with suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)  # it may have come to its end meanwhile
            killed += nursery.wait(pid) == -signal.SIGKILL
        else: assert nursery.wait(pid) == 0, nursery.log.read_text()
        if run.exists(): whole(run)
    the_same(run, expected)
    if code == BOTH: the_same(run/"pretraining", expected/"pretraining")


def test_a_run_killed_before_each_thing_that_it_does(nursery, uninterrupted, tmp_path):
    expected, code = uninterrupted(PRETRAIN, 1), PRETRAIN.format(run=str(tmp_path/"run"), epochs=1)
    _, trace = nursery.run(dies(tmp_path/"run", 10**9, trace=True) + code)
    n = sum(bool(re.match(r"\d+ (open|os\.)", line)) for line in trace.splitlines())
    last = [i for i in range(n) if i > n - 22]
    for at in sorted({*random.Random(1).sample(range(n), 6), *last[::3]}):
        shutil.rmtree(tmp_path/"run", ignore_errors=True)
        done, _ = nursery.run(dies(tmp_path/"run", at) + code)
        assert done == -signal.SIGKILL
        if (tmp_path/"run").exists(): whole(tmp_path/"run")
        if not finished(tmp_path/"run"):
            done, said = nursery.run(code)
            assert done == 0, said
        whole(tmp_path/"run")
        if list(tmp_path.glob("run/.lock")): (tmp_path/"run"/".lock").unlink()
        the_same(tmp_path/"run", expected)


# ---------------------------------------------------------------- full disks

@pytest.fixture
def small_disk(tmp_path):
    "A folder with room for a megabyte or two"
    folder = tmp_path/"disk"
    folder.mkdir()
    if sys.platform != "linux" or shutil.which("mount") is None: pytest.skip("only Linux has a tmpfs to mount")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode: pytest.skip(f"this machine lets nobody mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder, but=0):
    "Fill the disk up to its last `but` bytes"
    with open(folder/"filler", "wb", buffering=0) as f:
        try:
            while f.write(b"x"*4096): pass
        except OSError: pass
        f.truncate(max(0, f.tell() - but))


def contents(folder): return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(Path(folder).rglob("*")) if f.is_file() and f.name != "filler"}


def told(caught, file):
    text = str(caught.value)
    assert re.search(f"{file}.*: this could not be written, because the disk is full$", text) and "\n" not in text, text


def sampled(n, size=32): return photo_dls((sample_photos("train")[:n], sample_photos("train")[n:n+4]), size=size, bs=4, progress=False)


def test_no_room_for_a_store(small_disk, squares):
    few = PhotoStore(squares[:20], 16, small_disk, progress=False)
    whole, first = contents(small_disk), few[3].copy()
    fill(small_disk, 8*4096)
    with pytest.raises(WriteError) as caught: PhotoStore(squares, 24, small_disk, progress=False)
    told(caught, "[0-9a-f]{8}.bin")
    assert contents(small_disk) == whole
    Image.new("RGB", (16, 16), "red").save(Path(squares[0]).with_name("more.png"))
    fill(small_disk)
    with pytest.raises(WriteError): PhotoStore([squares[0].with_name("more.png"), *squares[1:20]], 16, small_disk, progress=False)
    assert contents(small_disk) == whole
    squares[0].with_name("more.png").unlink()
    np.testing.assert_array_equal(PhotoStore(squares[:20], 16, small_disk, progress=False)[3], first)


def test_no_room_for_copies(small_disk, squares):
    with pytest.raises(WriteError) as caught: augment_folder(squares, small_disk/"out", 10, 160, progress=False)
    told(caught, "[0-9]{3}-.*jpg")
    assert len(contents(small_disk)) > 50 and all(Image.open(small_disk/name).load() for name in contents(small_disk))


def test_no_room_for_a_model(small_disk):
    net, config = small("colorize_net", **SMALL["colorize_net"]), dict(arch="colorize_net", arch_args=SMALL["colorize_net"])
    save_generator(small_disk/"m", net, config)
    before = contents(small_disk)
    for but in (0, 1, 2, 4):
        fill(small_disk, but*4096)
        try: save_generator(small_disk/"m", net, dict(config, training=dict(note="x"*(3*4096))))
        except WriteError as error: assert re.search("(config.json|model.safetensors): this could not be written, because the disk is full", str(error))
        else: raise AssertionError(f"{but} pages were enough")
        assert contents(small_disk) == before
    load_generator(small_disk/"m")


def test_no_room_for_pictures_to_judge(small_disk):
    with pytest.raises(WriteError) as caught: save_fakes(sampled(24, 64), small("colorize_net", **SMALL["colorize_net"]), small_disk/"fakes.npy", epochs=3)
    told(caught, "fakes.npy")
    assert not contents(small_disk)


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24])
def test_no_room_in_the_middle_of_a_run(small_disk, pages):
    dls, run = sampled(24), small_disk/"run"
    args = dict(arch="colorize_net", arch_args=SMALL["colorize_net"], epochs=2, preview_every=1, checkpoint_minutes=0, precise=True, progress=False)
    pretrain(dls, run, max_minutes=0, **args)
    before = (run/"checkpoint.pt").read_bytes()
    model = (run/"model.safetensors").read_bytes(), (run/"config.json").read_bytes()
    fill(small_disk, pages*4096)
    with pytest.raises(WriteError) as caught: pretrain(dls, run, resume=True, **args)
    told(caught, "(losses.csv|checkpoint.pt|step-[0-9]+.png|config.json|model.safetensors|.lock)")
    whole(run)
    assert model == ((run/"model.safetensors").read_bytes(), (run/"config.json").read_bytes())
    assert not [f for f in run.rglob(".*")] and load_checkpoint(run, json.loads(model[1])["training"] and {k: v for k, v in json.loads(model[1])["training"].items() if k not in ("steps", "finished")})
    assert pages or (run/"checkpoint.pt").read_bytes() == before
    (small_disk/"filler").unlink()
    learn = pretrain(dls, run, resume=True, **args)
    assert learn.checkpoint.finished and read_losses(run).dropna(subset="loss").step.tolist() == [*range(1, 13)] and not (run/"checkpoint.pt").exists()


@posix
@pytest.mark.parametrize("kilobytes", [1, 10, 20])
def test_files_that_may_not_be_so_large(nursery, tmp_path, kilobytes):
    code = TRAIN + "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1024*{n}, -1))\ntry: pretrain(dls, run, **first, **common)\nexcept WriteError as error: sys.exit(str(error).startswith(run) and 7)\n"
    done, said = nursery.run(code.replace("{n}", str(kilobytes)).format(run=str(tmp_path/"run"), epochs=3))
    assert done == 7, said
    whole(tmp_path/"run")
    assert not list((tmp_path/"run").rglob(".*.partial*"))


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path/"a") as path: path.write_text((tmp_path/"nowhere").read_text())
    with pytest.raises(RuntimeError, match="^mine$"), atomic_write(tmp_path/"a"): raise RuntimeError("mine")
    with pytest.raises(WriteError, match="its name is too long"), atomic_write(tmp_path/("a"*300)/"b") as path: path.write_text("")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- two at the same folder

def test_two_processes_want_the_same_store(nursery, squares, tmp_path):
    slow = "import os, time, colorize.batches as b\ndecode = b.PhotoStore._decode\ndef counted(self, stamp):\n    time.sleep(.005)\n    open({n!r}, 'a').write('x')\n    return decode(self, stamp)\nb.PhotoStore._decode = counted\n"
    code = slow.format(n=str(tmp_path/"n")) + STORE.format(photos=str(squares[0].parent), cache=str(tmp_path/"c"))
    pids = [nursery.start(code, tmp_path/f"log{i}") for i in range(3)]
    assert [nursery.wait(pid) for pid in pids] == [0, 0, 0]
    assert (tmp_path/"n").stat().st_size == len(squares) and all((tmp_path/f"log{i}").read_text().strip().endswith("150") for i in range(3))
    as_a_store_should_be(tmp_path/"c", squares)


def test_who_waits_for_a_store_goes_on_when_the_other_is_killed(nursery, squares, tmp_path):
    code = STORE.format(photos=str(squares[0].parent), cache=str(tmp_path/"c"))
    first = nursery.start("import time, colorize.batches as b\nb.PhotoStore._decode = lambda *_: time.sleep(60)\n" + code)
    until(lambda: list(tmp_path.glob("c/*/.lock")))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        threading.Timer(.5, os.kill, (first, signal.SIGKILL)).start()
        assert len(PhotoStore(squares, 16, tmp_path/"c", progress=False)) == len(squares)
    assert any("another process is decoding these photographs; waiting" in str(w.message) for w in said)
    nursery.wait(first)


def test_a_store_that_is_open_outlives_its_renewal(squares, tmp_path):
    store = PhotoStore(squares, 16, tmp_path/"c", progress=False)
    before = store[7].copy()
    stat = squares[7].stat()
    os.utime(squares[7], ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    again = PhotoStore(squares, 16, tmp_path/"c", progress=False)
    assert again.data != store.data
    np.testing.assert_array_equal(store[7], before)
    import pickle
    with pytest.raises(PhotoError, match="another process has built this store anew"): pickle.loads(pickle.dumps(store))[7]


@pytest.mark.parametrize("index", ["[]", "{}", '{"data": "../x.bin", "size": 0, "rows": [], "skipped": []}', '{"data": "00000000.bin", "size": 5, "rows": 3, "skipped": []}',
                                   '{"data": "00000000.bin", "size": 0, "rows": [{"file": ["a", 1, 2], "start": 0, "shape": [9, 9]}], "skipped": []}'])
def test_an_index_that_lies_is_none(squares, tmp_path, index):
    store = PhotoStore(squares[:5], 16, tmp_path/"c", progress=False)
    (store.folder/"00000000.bin").write_bytes(b"")
    for name in ("index.json", "unfinished.json"): (store.folder/name).write_text(index)
    as_a_store_should_be(tmp_path/"c", squares[:5])


LONG = TRAIN + "first['epochs'] = 10_000\ntry: pretrain(dls, run, **first, **common)\nexcept (FolderLocked, WriteError) as error: print(error); sys.exit(9)\n"


def test_a_second_training_in_the_same_folder_is_refused(nursery, tmp_path):
    run = tmp_path/"run"
    first = nursery.start(LONG.format(run=str(run), epochs=1))
    until((run/"checkpoint.pt").exists)
    before = (run/"losses.csv").read_bytes()
    for log in range(2):
        done, said = nursery.run(LONG.format(run=str(run), epochs=1))
        assert done == 9 and said.strip() == f"{run}: another process is training here; wait until it has ended, or choose another name for the run", said
    with pytest.raises(FolderLocked): pretrain(sampled(24), run, epochs=1, arch="colorize_net", progress=False)
    assert (run/"losses.csv").read_bytes().startswith(before)
    os.kill(first, signal.SIGKILL)
    nursery.wait(first)
    second = nursery.start(LONG.format(run=str(run), epochs=1))
    size = (run/"losses.csv").stat().st_size
    until(lambda: (run/"losses.csv").stat().st_size > size + 200)
    os.kill(second, signal.SIGKILL)
    nursery.wait(second)


@posix
def test_a_forked_worker_does_not_keep_the_lock_of_its_dead_parent(nursery, tmp_path):
    code = f"""
import os, time
from colorize.files import folder_lock
with folder_lock({str(tmp_path/'f')!r}):
    worker = os.fork()
    if worker: open({str(tmp_path/'worker')!r}, "w").write(str(worker) + ".")
    time.sleep(60)
"""
    parent = nursery.start(code)
    until(lambda: (tmp_path/"worker").exists() and (tmp_path/"worker").read_text().endswith("."))
    with pytest.raises(FolderLocked), folder_lock(tmp_path/"f"): pass
    os.kill(parent, signal.SIGKILL)
    nursery.wait(parent)
    worker = int((tmp_path/"worker").read_text()[:-1])
    os.kill(worker, 0)
    with folder_lock(tmp_path/"f"): pass
    os.kill(worker, signal.SIGKILL)


def test_a_folder_is_taken_by_one_thread(tmp_path):
    with folder_lock(tmp_path/"f"):
        with folder_lock(tmp_path/"f"): pass
        found = []
        def other():
            try:
                with folder_lock(tmp_path/"f"): found.append("taken")
            except FolderLocked as error: found.append(str(error))
        thread = threading.Thread(target=other)
        thread.start(), thread.join()
        assert found == [f"{tmp_path/'f'}: another process works in this folder"]
    with folder_lock(tmp_path/"f"): (tmp_path/"f"/"kept").touch()
    assert [f.name for f in (tmp_path/"f").iterdir()] == ["kept"]


@posix
def test_where_there_are_no_locks_it_goes_on_with_a_warning(tmp_path, monkeypatch, squares):
    import errno
    import fcntl
    def none(fd, how): raise OSError(errno.ENOLCK, "No locks available")
    monkeypatch.setattr(fcntl, "flock", none)
    (tmp_path/".01234567.partial.txt").touch()
    with pytest.warns(UserWarning, match="this disk knows no locks"):
        with folder_lock(tmp_path):
            with folder_lock(tmp_path): pass
    assert (tmp_path/".01234567.partial.txt").exists()
    with pytest.warns(UserWarning, match="knows no locks"): assert len(PhotoStore(squares, 16, tmp_path/"c", progress=False)) == len(squares)


def test_what_was_left_beside_is_swept_away_and_nothing_else(tmp_path):
    for name in (".01234567.partial.png", ".01234567.partial", ".mine.partial.png", "01234567.partial.png"): (tmp_path/name).touch()
    with folder_lock(tmp_path): pass
    assert {f.name for f in tmp_path.iterdir()} == {".mine.partial.png", "01234567.partial.png"}


# ---------------------------------------------------------------- Ctrl-C and SIGTERM

ASKED = """
try: {call}
except Interrupted as error: print(error); sys.exit(error.status)
"""
SENDS = """
import os
after_batch, seen = Checkpoint.after_batch, [0]
def sends(self):
    seen[0] += self.training is {training}
    if seen[0] == {at}: os.kill(os.getpid(), {number}); seen[0] += 1000
    after_batch(self)
Checkpoint.after_batch = sends
"""
CALLS = {"pretrain": (PRETRAIN, "pretrain(dls, run, **first, **common)"), "both": (BOTH, "train_colorizer(dls, run, first, second, **common)")}


@posix
@pytest.mark.parametrize("call, training, at, number", [("pretrain", True, 1, 2), ("pretrain", True, 12, 15), ("pretrain", False, 1, 15), ("pretrain", False, 2, 2),
                                                        ("both", True, 15, 2), ("both", False, 3, 15)])
def test_a_run_that_is_asked_to_end_ends_in_order(nursery, uninterrupted, tmp_path, call, training, at, number):
    code, line = CALLS[call]
    run = tmp_path/"run"
    start = TRAIN.format(run=str(run), epochs=2).replace("checkpoint_minutes=0", "checkpoint_minutes=9")
    done, said = nursery.run(start + SENDS.format(training=training, at=at, number=number) + ASKED.format(call=line))
    name, last = {2: "Ctrl-C", 15: "SIGTERM"}[number], said.strip().splitlines()[-1]
    assert done == 128 + number and re.fullmatch(rf"{run}.*: ended by {name} after step \d+; its checkpoint is written, and it can be resumed", last), said
    whole(run)
    assert list(run.rglob("checkpoint.pt")) and not [f for f in run.rglob(".*")]
    done, said = nursery.run(start + line)
    assert done == 0, said
    the_same(run, uninterrupted(code, 2))


class Asked: asked = False


@posix
def test_the_second_ctrl_c_acts_at_once_and_handlers_are_given_back():
    what, before = Asked(), (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt), heeding(what):
        signal.raise_signal(signal.SIGINT)
        assert what.asked == signal.SIGINT
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError), heeding(what): 1/0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@posix
def test_a_signal_that_is_ignored_stays_ignored():
    before, what = signal.signal(signal.SIGTERM, signal.SIG_IGN), Asked()
    try:
        with heeding(what): signal.raise_signal(signal.SIGTERM)
        assert not what.asked and signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally: signal.signal(signal.SIGTERM, before)


def test_in_another_thread_signals_are_left_alone():
    said = []
    def work():
        with heeding(Asked()): said.append(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    thread = threading.Thread(target=work)
    thread.start(), thread.join()
    assert said == [True]


# ---------------------------------------------------------------- runs from before

def test_a_checkpoint_has_the_parts_it_always_had(tmp_path):
    dls = sampled(8)
    pretrain(dls, tmp_path/"run", arch="colorize_net", epochs=2, max_minutes=0, preview_every=0, progress=False)
    state = torch.load(tmp_path/"run"/"checkpoint.pt", weights_only=True)
    assert state.keys() == {"settings", "step", "epoch", "batch", "callbacks", "model", "opt", "chance"} and state["callbacks"]["loss_log"].keys() == {"means", "count", "size"}
    (tmp_path/"run"/"losses.csv").unlink()
    pretrain(dls, tmp_path/"run", arch="colorize_net", epochs=2, preview_every=0, progress=False, resume=True)
    assert read_losses(tmp_path/"run").dropna(subset="loss").step.tolist() == [2, 3, 4]
    torch.save(dict(settings={}), tmp_path/"checkpoint.pt")
    with pytest.raises(ValueError, match="checkpoint.pt: not the checkpoint of a run"): load_checkpoint(tmp_path, {})


# ---------------------------------------------------------------- downloads

@pytest.fixture
def published(tmp_path, monkeypatch):
    "ResNet18's weights, as if they lay on torchvision's server: a function that puts a file there"
    import hashlib
    from torchvision.models import ResNet18_Weights
    monkeypatch.setenv("TORCH_HOME", str(tmp_path/"home"))
    def publish(content, digest=None):
        file = tmp_path/"server"/f"resnet18-{digest or hashlib.sha256(content).hexdigest()[:8]}.pth"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", file.as_uri())
        return tmp_path/"home"/"hub"/"checkpoints"/file.name
    return publish


def bytes_of(state):
    import io
    torch.save(state, out := io.BytesIO())
    return out.getvalue()


def test_downloaded_weights_are_those_that_were_published(published):
    from torchvision.models import resnet18
    state = resnet18().state_dict()
    published(bytes_of(state))
    for _ in range(2): assert torch.equal(resnet_body("imagenet", 3)[0].weight, state["conv1.weight"])


def test_a_download_that_is_not_what_its_name_says_is_refused(published):
    place = published(b"another file", digest="01234567")
    with pytest.raises(RuntimeError, match="resnet18-01234567.pth: the downloaded weights of ResNet18 are damaged.*invalid hash"): resnet_body("imagenet")
    assert not place.exists()


def test_a_download_that_was_damaged_later_is_named(published):
    place = published(b"")
    place.parent.mkdir(parents=True)
    for content in (b"PK\3\4 torn", b""):
        place.write_bytes(content)
        with pytest.raises(RuntimeError, match=f"{place.name}: the downloaded weights of ResNet18 are damaged .*; remove the file and try again"): resnet_body("imagenet")


def test_no_code_is_run_from_a_download(published, tmp_path):
    published(bytes_of(dict(a=Code(tmp_path/"ran"))))
    with pytest.raises(RuntimeError, match="are damaged"): resnet_body("imagenet")
    assert not (tmp_path/"ran").exists()


def test_no_network_is_told_from_a_damaged_file(published):
    place = published(b"x")
    Path(place.parents[3]/"server"/place.name).unlink()
    with pytest.raises(RuntimeError, match="weights of ResNet18 could not be downloaded"): resnet_body("imagenet")


# ---------------------------------------------------------------- archives

import colorize.pictures.archives



def archive(file, *members):
    "A tar of (name, content) and (name, changes of its TarInfo)"
    import io, tarfile
    with tarfile.open(file, "w:gz") as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            content = what if isinstance(what, bytes) else b""
            info.size = len(content)
            for k, v in ({} if isinstance(what, bytes) else what).items(): setattr(info, k, v)
            tar.addfile(info, io.BytesIO(content))
    return file


def untouched(tmp_path): assert {f.name for f in tmp_path.iterdir()} <= {"a.tgz", "a.zip", "in"} and not any((tmp_path/"in").rglob("*") if (tmp_path/"in").exists() else [])


def test_an_archive_is_unpacked_whole(tmp_path):
    import zipfile
    for members, names in (([("photos/a.jpg", b"1"), ("photos/b/c.jpg", b"22")], ["a.jpg", "b/c.jpg"]), ([("a.jpg", b"1"), ("b.jpg", b"2")], ["a.jpg", "b.jpg"])):
        with zipfile.ZipFile(tmp_path/"a.zip", "w") as z:
            for name, content in members: z.writestr(name, content)
        for i, file in enumerate((archive(tmp_path/"a.tgz", *members), tmp_path/"a.zip")):
            folder = colorize.pictures.archives.unpack(file, tmp_path/"in"/str(i))
            assert sorted(str(f.relative_to(folder)) for f in folder.rglob("*.jpg")) == names
            assert colorize.pictures.archives.unpack(file, folder) == folder
        assert not list((tmp_path/"in").glob(".*"))
        shutil.rmtree(tmp_path/"in")


@pytest.mark.parametrize("name, what", [("../out.jpg", b"x"), ("/tmp/out.jpg", b"x"), ("a/../../out.jpg", b"x"), ("link", dict(type=b"2", linkname="/etc/passwd")),
                                        ("link", dict(type=b"2", linkname="../../out")), ("hard", dict(type=b"1", linkname="../../out")), ("fifo", dict(type=b"6")), ("dev", dict(type=b"3"))])
def test_an_archive_cannot_escape(tmp_path, name, what):
    file = archive(tmp_path/"a.tgz", ("photos/a.jpg", b"1"), (name, what))
    if name.startswith("/tmp"):
        try: folder = colorize.pictures.archives.unpack(file, tmp_path/"in"/"x")
        except PhotoError: untouched(tmp_path)
        else: assert all(f.resolve().is_relative_to(folder.resolve()) for f in folder.rglob("*"))
        return
    with pytest.raises(PhotoError, match="a.tgz: refused, because it has something that leads out"): colorize.pictures.archives.unpack(file, tmp_path/"in"/"x")
    untouched(tmp_path)


@pytest.mark.parametrize("name", ["../out.jpg", "/out.jpg", "a/../../out.jpg", "C:\\out.jpg", "..\\out.jpg"])
def test_a_zip_cannot_escape(tmp_path, name):
    import zipfile
    with zipfile.ZipFile(tmp_path/"a.zip", "w") as z: z.writestr("a.jpg", b"1"), z.writestr(name, b"2")
    with pytest.raises(PhotoError, match="leads out of its folder"): colorize.pictures.archives.unpack(tmp_path/"a.zip", tmp_path/"in"/"x")
    untouched(tmp_path)


def test_an_archive_that_is_torn_or_a_bomb_leaves_nothing(tmp_path):
    file = archive(tmp_path/"a.tgz", *((f"{i}.bin", random.Random(i).randbytes(5000)) for i in range(20)))
    whole, unpack = file.read_bytes(), colorize.pictures.archives.unpack
    with pytest.raises(PhotoError, match="more than 50,000 bytes"): unpack(file, tmp_path/"in"/"x", limit=50_000)
    for n in (0, 1, 20, len(whole)//2, len(whole) - 20):
        file.write_bytes(whole[:n])
        with pytest.raises(PhotoError, match="a.tgz: the archive can't be unpacked"): unpack(file, tmp_path/"in"/"x")
        untouched(tmp_path)
    with pytest.raises(PhotoError, match="no such archive"): unpack(tmp_path/"b.tgz", tmp_path/"in"/"x")
