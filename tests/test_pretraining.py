"""A run that is killed without warning, and what else may happen to a run."""
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from colorize.batches import photo_dls
from colorize.photos import sample_photos
from colorize.pretraining import load_checkpoint, pretrain, read_losses

RUN = textwrap.dedent("""
    import sys, torch
    from colorize.batches import photo_dls
    from colorize.photos import sample_photos
    from colorize.pretraining import pretrain
    run, resume = sys.argv[1], sys.argv[2] == "resume"
    torch.set_num_threads(1)
    files = sample_photos("train")
    dls = photo_dls((files[:24], files[24:28]), size=32, bs=4, progress=False)
    pretrain(dls, run, epochs=5, lr=5e-4, preview_every=0, checkpoint_minutes=0.005, resume=resume, precise=True, progress=False)
""")


def start(run, resume="new"): return subprocess.Popen([sys.executable, "-c", RUN, str(run), resume])


def test_killed_and_resumed_twice_ends_like_the_uninterrupted_run(tmp_path):
    assert start(tmp_path/"whole").wait(timeout=300) == 0
    kills = 0
    process = start(tmp_path/"killed")
    while kills < 2:
        before = load_step(tmp_path/"killed")
        deadline = time.time() + 120
        while load_step(tmp_path/"killed") <= before and process.poll() is None and time.time() < deadline: time.sleep(.02)
        assert process.poll() is None, "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        assert not (tmp_path/"killed"/"model.safetensors").exists()
        process = start(tmp_path/"killed", "resume")
    assert process.wait(timeout=300) == 0
    whole, killed = read_losses(tmp_path/"whole"), read_losses(tmp_path/"killed")
    assert whole.step.tolist() == killed.step.tolist() and len(whole.loss.dropna()) == 30
    torch.testing.assert_close(torch.tensor(whole.loss.values), torch.tensor(killed.loss.values), atol=2e-3, rtol=.02, equal_nan=True)
    torch.testing.assert_close(torch.tensor(whole.lr.values), torch.tensor(killed.lr.values), atol=0, rtol=1e-3, equal_nan=True)
    assert (tmp_path/"killed"/"model.safetensors").exists() and not (tmp_path/"killed"/"checkpoint.pt").exists()


def load_step(run):
    try: return torch.load(run/"checkpoint.pt", weights_only=True, mmap=True)["step"]
    except FileNotFoundError: return -1


@pytest.fixture
def dls(): return photo_dls((sample_photos("train")[:8], sample_photos("valid")[:2]), size=32, bs=4, progress=False)


def tiny(): return torch.nn.Conv2d(1, 2, 3, padding=1)


def test_a_broken_checkpoint_says_so(dls, tmp_path):
    pretrain(dls, tmp_path/"run", net=tiny(), epochs=2, max_minutes=0, preview_every=0, progress=False)
    (tmp_path/"run"/"checkpoint.pt").write_bytes(b"PK not a checkpoint")
    with pytest.raises(ValueError, match="checkpoint.pt: not a readable checkpoint"):
        pretrain(dls, tmp_path/"run", net=tiny(), epochs=2, resume=True, preview_every=0, progress=False)


def test_a_checkpoint_that_carries_code_is_refused(tmp_path):
    class Code:
        def __reduce__(self): return os.system, (f"touch {tmp_path}/ran",)
    torch.save(dict(settings={}, code=Code()), tmp_path/"checkpoint.pt")
    with pytest.raises(ValueError, match="not a readable checkpoint"): load_checkpoint(tmp_path, {})
    assert not (tmp_path/"ran").exists()


def test_it_stops_in_time_and_can_go_on(dls, tmp_path):
    begun = time.monotonic()
    learn = pretrain(dls, tmp_path/"run", net=tiny(), epochs=100_000, max_minutes=.03, preview_every=0, progress=False)
    assert time.monotonic() - begun < 20 and not learn.checkpoint.finished
    assert load_step(tmp_path/"run") == learn.train_iter


def test_early_stopping_ends_the_run(dls, tmp_path):
    learn = pretrain(dls, tmp_path/"run", net=tiny(), epochs=50, lr=1e-9, weight_decay=0, patience=2, preview_every=0, progress=False)
    assert learn.checkpoint.finished and learn.train_iter < 50*len(dls.train)
    assert (tmp_path/"run"/"model.safetensors").exists()


def test_the_optimizer_is_adamw_with_the_given_weight_decay(dls, tmp_path):
    learn = pretrain(dls, tmp_path/"run", net=tiny(), epochs=1, weight_decay=0.3, preview_every=0, progress=False)
    assert isinstance(learn.opt.opt, torch.optim.AdamW) and learn.opt.opt.param_groups[0]["weight_decay"] == 0.3


def test_mse_and_mae_give_the_losses_they_are_named_for(dls, tmp_path):
    L, ab = dls.valid.one_batch()
    for name, expected in (("mae", lambda e: e.abs().mean()), ("mse", lambda e: (e**2).mean())):
        learn = pretrain(dls, tmp_path/name, net=tiny(), loss=name, epochs=1, preview_every=0, progress=False)
        with torch.no_grad(): error = learn.model(L) - ab
        assert abs(read_losses(tmp_path/name).valid_loss.iloc[-1] - expected(error).item()) < 1e-4
