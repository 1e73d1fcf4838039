"""A run that is killed without warning, and what else may happen to a run."""
import json
import os
import platform
import signal
import subprocess
import sys
import textwrap
import time

import nursery
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, CancelFitException
from safetensors.torch import load_file

from colorize.batches import photo_dls
from colorize.losses import FeatureLoss, colourfulness_loss
from colorize.models.store import load_config
from colorize.pictures.folders import sample_photos
from colorize.pretraining import AddedLoss, l1_learner, pretrain
from colorize.runs.checkpoint import TrainingDiverged, load_checkpoint
from colorize.runs.log import LossLog, read_losses
from colorize.runs.stop import stop_run

RUN = textwrap.dedent("""
    import json, sys, torch
    from colorize.batches import photo_dls
    from colorize.pictures.folders import sample_photos
    from colorize.pretraining import pretrain
    run, resume = sys.argv[1], sys.argv[2] == "resume"
    torch.set_num_threads(1)
    files = sample_photos("train")
    dls = photo_dls((files[:24], files[24:28]), size=32, bs=4, progress=False)
    pretrain(dls, run, lr=5e-4, preview_every=0, resume=resume, precise=True, progress=False, **json.loads(sys.argv[3]))
""")


def start(run, options, resume="new"): return nursery.Popen([sys.executable, "-c", RUN, str(run), resume, json.dumps(options)])


@pytest.mark.parametrize("options", [dict(arch="scaled_unet", arch_args=dict(complexity=4), epochs=30, checkpoint_minutes=.001),
                                     pytest.param(dict(epochs=5, checkpoint_minutes=.005), marks=pytest.mark.long)], ids=["a small network", "the usual one"])
def test_killed_and_resumed_twice_ends_like_the_uninterrupted_run(tmp_path, options):
    assert start(tmp_path/"whole", options).wait(timeout=300) == 0
    kills = 0
    process = start(tmp_path/"killed", options)
    while kills < 2:
        before = load_step(tmp_path/"killed")
        deadline = time.time() + 120
        while load_step(tmp_path/"killed") <= before and process.poll() is None and time.time() < deadline: time.sleep(.02)
        assert process.poll() is None, "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        assert not (tmp_path/"killed"/"model.safetensors").exists()
        process = start(tmp_path/"killed", options, "resume")
    assert process.wait(timeout=300) == 0
    whole, killed = read_losses(tmp_path/"whole"), read_losses(tmp_path/"killed")
    assert whole.step.tolist() == killed.step.tolist() and len(whole.loss.dropna()) == 6*options["epochs"]
    torch.testing.assert_close(torch.tensor(whole.loss.values), torch.tensor(killed.loss.values), atol=2e-3, rtol=.02, equal_nan=True)
    torch.testing.assert_close(torch.tensor(whole.lr.values), torch.tensor(killed.lr.values), atol=0, rtol=1e-3, equal_nan=True)
    assert (tmp_path/"killed"/"model.safetensors").exists() and not (tmp_path/"killed"/"checkpoint.pt").exists()


def load_step(run):
    try: return torch.load(run/"checkpoint.pt", weights_only=True, mmap=True)["step"]
    except FileNotFoundError: return -1


@pytest.fixture
def dls(): return photo_dls((sample_photos("train")[:8], sample_photos("valid")[:2]), size=32, bs=4, progress=False)


def tiny(): return torch.nn.Conv2d(1, 2, 3, padding=1)


def test_a_wish_to_stop_counts_from_the_moment_that_there_is_a_run(dls, tmp_path, monkeypatch):
    run, begin = tmp_path/"run", LossLog.before_fit
    run.mkdir()
    (run/"stop").touch()
    assert pretrain(dls, run, net=tiny(), epochs=1, preview_every=0, progress=False).checkpoint.finished, "an old wish is of the past"
    monkeypatch.setattr(LossLog, "before_fit", lambda self: (begin(self), stop_run(tmp_path/"asked")) and None)
    learn = pretrain(dls, tmp_path/"asked", net=tiny(), epochs=50, preview_every=0, progress=False)
    assert (learn.checkpoint.finished, read_losses(tmp_path/"asked").step.max()) == (False, 1)


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


def eyes():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.ReLU())


class Caught(Callback):
    def before_step(self):
        self.learn.caught = self.x, self.y, self.loss, self.model.weight.grad.clone()
        raise CancelFitException


def caught(dls, cbs, loss="mae"):
    torch.manual_seed(3)
    dls.train.start_at(0)
    net = tiny()
    learn = l1_learner(dls, net, loss, precise=True, cbs=[*cbs, Caught()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return net, learn


def test_the_gradient_is_that_of_the_sum_written_by_hand(dls):
    wish = FeatureLoss(eyes())
    net, learn = caught(dls, [AddedLoss(wish, 3., "feature_loss"), AddedLoss(lambda L, pred, ab: colourfulness_loss(pred), .5, "colourfulness_loss")], "huber")
    L, ab, total, gradient = learn.caught
    net.zero_grad()
    pred = net(L)
    pixel, feature, colour = F.smooth_l1_loss(pred, ab, beta=.1), wish(L, pred, ab), colourfulness_loss(pred)
    (pixel + 3*feature + .5*colour).backward()
    torch.testing.assert_close(gradient, net.weight.grad)
    torch.testing.assert_close(total, (pixel + 3*feature + .5*colour).detach())
    for name, value in dict(pixel_loss=pixel, feature_loss=feature, colourfulness_loss=colour).items(): torch.testing.assert_close(getattr(learn, name), value.detach())
    assert not total.requires_grad and not any(getattr(learn, name).requires_grad for name in ("pixel_loss", "feature_loss"))


def test_a_weight_of_0_changes_no_bit(dls, tmp_path):
    (plain, learn), (zero, with_zero) = caught(dls, []), caught(dls, [AddedLoss(FeatureLoss(eyes()), 0., "feature_loss")])
    assert all(torch.equal(a, b) for a, b in zip(learn.caught, with_zero.caught))
    runs = []
    for name, kwargs in (("plain", {}), ("zero", dict(feature_weight=0., feature_net=eyes(), colourfulness_weight=0.))):
        torch.manual_seed(3)
        runs.append(pretrain(dls, tmp_path/name, net=tiny(), epochs=2, precise=True, preview_every=0, progress=False, **kwargs))
    assert torch.equal(*(run.model.weight for run in runs))
    assert (tmp_path/"plain"/"losses.csv").read_text() == (tmp_path/"zero"/"losses.csv").read_text()
    assert load_config(tmp_path/"plain") == load_config(tmp_path/"zero") and "feature_weight" not in load_config(tmp_path/"zero")["training"]


def test_a_run_with_further_losses_says_so_and_validates_with_the_pixel_loss_alone(dls, tmp_path):
    learn = pretrain(dls, tmp_path/"run", net=tiny(), epochs=2, preview_every=0, progress=False, feature_weight=2., feature_net=eyes(), colourfulness_weight=.1)
    losses, training = read_losses(tmp_path/"run"), load_config(tmp_path/"run")["training"]
    assert training["feature_weight"] == 2 and training["colourfulness_weight"] == .1 and "feature_net" not in training
    steps = losses.dropna(subset="loss")
    assert abs(steps.loss - steps.pixel_loss - 2*steps.feature_loss - .1*steps.colourfulness_loss).max() < 1e-5
    L, ab = dls.valid.one_batch()
    with torch.no_grad(): assert abs(losses.valid_loss.iloc[-1] - F.l1_loss(learn.model(L), ab).item()) < 1e-3


def test_the_feature_net_draws_no_chance_from_the_run(dls, tmp_path, monkeypatch):
    monkeypatch.setattr("colorize.losses._vgg19", lambda: torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), *(torch.nn.ReLU() for _ in range(8))))
    args = dict(arch="colorize_net", epochs=1, lr=0., weight_decay=0., preview_every=0, progress=False, precise=True)
    plain = pretrain(dls, tmp_path/"plain", **args)
    torch.manual_seed(99)
    wishing = pretrain(dls, tmp_path/"wishing", feature_weight=1., **args)
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), wishing.model.parameters()))


@pytest.mark.parametrize("first, second", [({}, dict(colourfulness_weight=.1)), (dict(colourfulness_weight=.1), {}), (dict(colourfulness_weight=.1), dict(colourfulness_weight=.2))])
def test_a_run_is_not_resumed_with_other_wishes(dls, tmp_path, first, second):
    args = dict(net=tiny(), epochs=2, preview_every=0, progress=False)
    pretrain(dls, tmp_path/"run", max_minutes=0, **args, **first)
    with pytest.raises(ValueError, match="colourfulness_weight was"): pretrain(dls, tmp_path/"run", resume=True, **args, **second)
    learn = pretrain(dls, tmp_path/"run", resume=True, **args, **first)
    assert learn.checkpoint.finished and len(read_losses(tmp_path/"run").loss.dropna()) == 4


def test_an_added_loss_that_is_no_number_stops_the_run(dls, tmp_path):
    class Blind(torch.nn.Module):
        def forward(self, x): return x*float("nan")
    with pytest.raises(TrainingDiverged, match="became nan at step 0"):
        pretrain(dls, tmp_path/"run", net=tiny(), epochs=1, preview_every=0, progress=False, feature_weight=1., feature_net=Blind())


@pytest.mark.parametrize("weight", [-1., float("nan"), float("inf")])
def test_impossible_weights_get_a_sentence(dls, tmp_path, weight):
    with pytest.raises(ValueError, match="colourfulness_weight must be a number that is not negative"):
        pretrain(dls, tmp_path/"run", net=tiny(), colourfulness_weight=weight, preview_every=0, progress=False)


def test_an_added_loss_keeps_its_weight_beside_a_discriminator(dls):
    from colorize.adversarial import gan_learner
    critic, totals = torch.nn.Conv2d(3, 1, 3), []
    class Total(Callback):
        order = 90
        def after_loss(self):
            if self.training: totals.append((self.loss - 7*self.l1_loss - 2*self.gan_loss - .5*self.colourfulness_loss).abs().item())
    learn = gan_learner(dls, tiny(), critic, precise=True, l1_weight=7., gan_weight=2.,
                        cbs=[AddedLoss(lambda L, pred, ab: colourfulness_loss(pred), .5, "colourfulness_loss"), Total()])
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-4)
    assert totals and max(totals) < 1e-5


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="other C libraries have nothing to tell")
def test_memory_of_large_tensors_is_kept_in_training():
    script = """
import resource, torch
from colorize.batches import photo_dls
from colorize.generators import create_generator
from colorize.pretraining import l1_learner
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def touched():
    before = faults()
    for _ in range(4): torch.zeros(2**24).add_(1)
    return faults() - before
touched()
before = touched()
l1_learner(photo_dls(size=32, bs=4, progress=False, device="cpu"), create_generator("colorize_net", width=16, depth=2))
touched()
print(before, touched())
"""
    # Now and then something lies right behind the heap, which then can't grow: three processes, of which one is lucky enough.
    runs = (subprocess.run([sys.executable, "-c", script], text=True, capture_output=True) for _ in range(3))
    assert any(after < before/2 for before, after in (map(int, done.stdout.split()) for done in runs))


@pytest.mark.parametrize("precise", [True, False])
def test_with_dropout_too_an_interrupted_run_ends_bit_by_bit_where_another_does(tmp_path, precise):
    def train(run, minutes):
        done = None
        while not (done and done.finished):
            done = pretrain(photo_dls((sample_photos("train")[:12], sample_photos("valid")[:4]), size=32, bs=4, progress=False), run, arch="scaled_unet", arch_args=dict(complexity=4), epochs=2,
                            resume=run.exists(), max_minutes=minutes, precise=precise, preview_every=0, progress=False).checkpoint
        return load_file(run/"model.safetensors"), read_losses(run)
    (whole, losses), (pieces, found) = train(tmp_path/"whole", None), train(tmp_path/"pieces", 1e-6)
    assert all(torch.equal(whole[key], pieces[key]) for key in whole)
    assert losses.equals(found) and losses.valid_loss.notna().sum() == 2
