"""Generator against discriminator: the step itself, what must not mix, and runs that break off."""
import copy
import inspect
import os
import signal
import sys
import textwrap
import time

import nursery
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

import colorize.adversarial as adversarial
from colorize.adversarial import (Adversary, GANWarning, MixedGradients, Pairs, Watch, choose, colour_errors, gan_learner, pretrain_discriminator,
                                  save_fakes, train_colorizer, train_gan)
from colorize.batches import photo_dls
from colorize.discriminators import PatchDiscriminator
from colorize.models.store import load_config
from colorize.pictures.folders import sample_photos
from colorize.pretraining import averaged
from colorize.pretraining import decay_callbacks
from colorize.pretraining import l1_learner
from colorize.runs.learner import quiet
from colorize.runs.log import read_losses


def tiny():
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))


def small_judge():
    torch.manual_seed(2)
    return PatchDiscriminator(filters=8, n_down=2)


@pytest.fixture
def dls(): return photo_dls((sample_photos("train")[:12], sample_photos("valid")[:4]), size=32, bs=4, progress=False)


def fit(learn, epochs=1, lr=2e-3):
    with quiet(learn): learn.fit(epochs, lr)
    return learn


@pytest.mark.parametrize("every", [1, 2])
def test_three_steps_are_those_of_the_plain_loop(dls, every):
    G, D = tiny().train(), small_judge().train()
    trained = fit(gan_learner(dls, copy.deepcopy(G), copy.deepcopy(D), l1_weight=10., lr_ratio=.5, every=every, precise=True))
    opt_g, opt_d = torch.optim.Adam(G.parameters(), 2e-3, betas=(.5, .999)), torch.optim.Adam(D.parameters(), 1e-3, betas=(.5, .999))
    dls.train.start_at(0)
    for step, (L, ab) in enumerate(dls.train):
        fake = G(L)
        if step % every == 0:
            real_scores, fake_scores = D(torch.cat([L, ab], 1)), D(torch.cat([L, fake.detach()], 1))
            d_loss = (binary_cross_entropy_with_logits(real_scores, torch.ones_like(real_scores)) +
                      binary_cross_entropy_with_logits(fake_scores, torch.zeros_like(fake_scores)))/2
            opt_d.zero_grad()
            d_loss.backward()
            opt_d.step()
        else:
            with torch.no_grad(): D(torch.cat([L, ab], 1)), D(torch.cat([L, fake], 1))
        scores = D(torch.cat([L, fake], 1))
        opt_g.zero_grad()
        (binary_cross_entropy_with_logits(scores, torch.ones_like(scores)) + 10*l1_loss(fake, ab)).backward()
        opt_g.step()
    assert step == 2
    for ours, plain in ((trained.model, G), (trained.adversary.discriminator, D)):
        for (name, a), b in zip(ours.state_dict().items(), plain.state_dict().values()): torch.testing.assert_close(a, b, atol=1e-5, rtol=0, msg=name)
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(trained.model.parameters(), tiny().parameters()))


def changed(tmp_path, old, new, *functions):
    "The adversary with `old` in the named methods replaced by `new`"
    fresh = type("Changed", (Adversary,), {})
    for function in functions:
        source = textwrap.dedent(inspect.getsource(getattr(Adversary, function)))
        source = source[source.index("def "):]
        assert old in source
        scope = dict(vars(adversarial))
        exec(source.replace(old, new), scope)
        setattr(fresh, function, scope[function])
    return fresh


def one_epoch(dls, kind, *cbs):
    return fit(l1_learner(dls, tiny(), "mae", 0., True, [kind(small_judge()), *cbs]))


def test_the_gradients_stay_apart(dls, tmp_path):
    one_epoch(dls, Adversary, Watch())
    not_detached = changed(tmp_path, "self.pred.detach()", "self.pred", "after_pred")
    with pytest.raises((MixedGradients, RuntimeError), match="gradients in the generator|backward through the graph"): one_epoch(dls, not_detached, Watch())
    kept = changed(tmp_path, "self.d_loss.backward()", "self.d_loss.backward(retain_graph=True)", "update_discriminator")
    kept.after_pred = not_detached.after_pred
    with pytest.raises(MixedGradients, match="gradients in the generator"): one_epoch(dls, kept, Watch())
    with pytest.raises(MixedGradients, match="gradients in the discriminator"):
        one_epoch(dls, changed(tmp_path, "self.discriminator.requires_grad_(False)", "self.discriminator.requires_grad_(True)", "after_loss"), Watch())


def test_neither_step_changes_the_other_network(dls):
    seen = {}
    class Look(adversarial.Callback):
        order, run_valid = 19, False
        def after_pred(self): seen["g"], seen["d"] = [copy.deepcopy(list(net.parameters())) for net in (self.model, self.learn.adversary.discriminator)]
    class LookAgain(adversarial.Callback):
        order, run_valid = 21, False
        def after_pred(self):
            seen["g same"] = all(torch.equal(a, b) for a, b in zip(seen["g"], self.model.parameters()))
            seen["d moved"] = not all(torch.equal(a, b) for a, b in zip(seen["d"], self.learn.adversary.discriminator.parameters()))
            seen["d"] = copy.deepcopy(list(self.learn.adversary.discriminator.parameters()))
        def after_batch(self):
            if self.training: seen["d same"] = all(torch.equal(a, b) for a, b in zip(seen["d"], self.learn.adversary.discriminator.parameters()))
    learn = gan_learner(dls, tiny(), small_judge(), precise=True, cbs=[Look(), LookAgain()])
    with quiet(learn): learn.fit(1, 1e-3)
    assert seen["g same"] and seen["d moved"] and seen["d same"]


def test_mixed_up_labels_are_noticed(dls):
    class MixedUp(Adversary):
        def update_discriminator(self, L, ab, fake):
            swap = torch.arange(len(L)).view(-1, 1, 1, 1) % 2 == 0
            super().update_discriminator(L, torch.where(swap, ab, fake), torch.where(swap, fake, ab))
    learn = l1_learner(dls, tiny(), "mae", 0., True, [MixedUp(small_judge()), Watch(steps=20)])
    with pytest.warns(GANWarning, match="gives up: its loss sits at 0.69"): fit(learn, 40, 1e-3)


def test_a_winning_discriminator_is_noticed(dls):
    net = nn.Conv2d(1, 2, 1)
    learn = gan_learner(dls, net, small_judge(), lr_ratio=1e4, precise=True, cbs=[Watch(steps=10)])
    with pytest.warns(GANWarning, match="the discriminator wins"): fit(learn, 60, 1e-6)


def test_the_average_is_the_exponential_one(dls):
    weights = []
    class Note(adversarial.Callback):
        order, run_valid = 59, False
        def before_fit(self): weights.append(self.model[0].weight.detach().clone())
        def after_batch(self): weights.append(self.model[0].weight.detach().clone())
    learn = fit(gan_learner(dls, tiny(), small_judge(), precise=True, cbs=[adversarial.EMA(.8), Note()]), 2)
    expected = weights[0]
    for w in weights[1:]: expected = .8*expected + .2*w
    own = learn.model[0].weight.detach().clone()
    with averaged(learn) as net: torch.testing.assert_close(net[0].weight.detach(), expected)
    assert torch.equal(learn.model[0].weight, own) and not torch.allclose(own, expected)


def test_choosing_keeps_to_its_rule():
    rows = [dict(ab_error=10., chroma_ratio=.4), dict(ab_error=10.9, chroma_ratio=.8), dict(ab_error=12., chroma_ratio=1.), dict(ab_error=10.5, chroma_ratio=1.3)]
    assert choose(rows, .1) == 1 and choose(rows, .25) == 2 and choose(rows, 0) == 0


def test_without_measurements_the_last_generator_stays(dls, tmp_path):
    learn = train_gan(dls, tmp_path/"run", net=tiny(), epochs=2, d_args=dict(filters=8), choose_every=0, preview_every=0, progress=False, save=False)
    assert [r["step"] for r in learn.choice.rows] == [0, 6] and learn.choice.chosen["step"] == 6
    assert colour_errors(learn.model, dls.valid)["ab_error"] == pytest.approx(learn.choice.rows[-1]["ab_error"], abs=1e-3)


def test_colour_errors_of_known_colorizers(dls):
    class Grey(nn.Module):
        def forward(self, L): return torch.zeros(len(L), 2, *L.shape[2:])
    errors = colour_errors(Grey(), dls.valid)
    ab = 110*torch.cat([ab for _, ab in dls.valid])
    assert errors["chroma"] == 0 and abs(errors["ab_error"] - ab.abs().mean().item()) < 1e-3
    assert abs(errors["true_chroma"] - ab.norm(dim=1).mean().item()) < 1e-3


def test_learning_rates_fall_in_steps_for_both(dls):
    rates = []
    class Note(adversarial.Callback):
        order, run_valid = 90, False
        def after_batch(self): rates.append((self.opt.hypers[-1]["lr"], self.learn.adversary.d_opt.param_groups[0]["lr"]))
    fit(gan_learner(dls, tiny(), small_judge(), lr_ratio=3., precise=True, cbs=[*decay_callbacks("step", 1e-3, 2, 10.), Note()]), 4, 1e-3)
    assert [round(g, 8) for g, _ in rates] == [1e-3]*6 + [1e-4]*6
    assert all(abs(d/g - 3) < 1e-6 for g, d in rates)
    with pytest.raises(ValueError, match="no decay 'stairs'"): decay_callbacks("stairs", 1.)


def test_the_discriminator_learns_from_saved_pictures(dls, tmp_path):
    file = save_fakes(dls, tiny(), tmp_path/"fakes.npy", epochs=8)
    learn = pretrain_discriminator(small_judge(), file, epochs=6, lr=1e-3, bs=8, progress=False)
    assert learn.recorder.values[-1][0] < .5 and learn.recorder.values[-1][2] > .8
    assert isinstance(learn.model, Pairs)


RUN = textwrap.dedent("""
    import sys, torch
    from torch import nn
    from colorize.adversarial import train_gan
    from colorize.batches import photo_dls
    from colorize.pictures.folders import sample_photos
    run, resume = sys.argv[1], sys.argv[2] == "resume"
    torch.set_num_threads(1)
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2, 3, padding=1))
    files = sample_photos("train")
    dls = photo_dls((files[:24], files[24:28]), size=32, bs=4, progress=False)
    learn = train_gan(dls, run, net=net, epochs=6, lr=1e-3, d_args=dict(filters=16, n_down=2), ema=.9, decay="step", decay_epochs=4, choose_every=5, save=False,
                      tolerance=1., preview_every=0, checkpoint_minutes=0.0002, resume=resume, precise=True, progress=False)
    torch.save(dict(g=learn.model.state_dict(), d=learn.adversary.discriminator.state_dict()), run + "/end.pt")
""")


def start(run, resume="new"): return nursery.Popen([sys.executable, "-c", RUN, str(run), resume])


def step_of(run):
    try: return torch.load(run/"checkpoint.pt", weights_only=True, mmap=True)["step"]
    except FileNotFoundError: return -1


def test_killed_and_resumed_both_networks_go_on(tmp_path):
    assert start(tmp_path/"whole").wait(timeout=300) == 0
    process = start(tmp_path/"killed")
    for _ in range(2):
        before, deadline = step_of(tmp_path/"killed"), time.time() + 120
        while step_of(tmp_path/"killed") <= before + 2 and process.poll() is None and time.time() < deadline: time.sleep(.005)
        assert process.poll() is None, "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        state = torch.load(tmp_path/"killed"/"checkpoint.pt", weights_only=True)
        assert {"discriminator", "opt"} <= set(state["callbacks"]["adversary"]) and state["callbacks"]["choice"]["rows"]
        process = start(tmp_path/"killed", "resume")
    assert process.wait(timeout=300) == 0
    whole, killed = read_losses(tmp_path/"whole"), read_losses(tmp_path/"killed")
    pd.testing.assert_frame_equal(whole, killed, atol=2e-4, rtol=1e-3)
    assert len(whole.d_real_loss.dropna()) == 36 and whole.lr.dropna().nunique() == 2
    pd.testing.assert_frame_equal(*[pd.read_csv(tmp_path/run/"choices.csv") for run in ("whole", "killed")], atol=2e-3, rtol=1e-3)
    ends = [torch.load(tmp_path/run/"end.pt", weights_only=True) for run in ("whole", "killed")]
    for part in "gd":
        for name in ends[0][part]: torch.testing.assert_close(ends[0][part][name], ends[1][part][name], atol=1e-3, rtol=1e-2)


def test_other_settings_are_refused(dls, tmp_path):
    options = dict(net=tiny(), epochs=2, d_args=dict(filters=8), preview_every=0, progress=False, save=False)
    train_gan(dls, tmp_path/"run", max_minutes=0, **options)
    with pytest.raises(ValueError, match="l1_weight was 100.0, now 1.0"): train_gan(dls, tmp_path/"run", l1_weight=1., resume=True, **options)


def test_what_is_wrong_with_the_second_phase_is_said_before_the_first(dls, tmp_path):
    for wrong in (dict(gan_loss="wasserstein"), dict(gan_loss="hinge", label_smoothing=.1), dict(discriminator="jury"), dict(decay="stairs"), dict(discriminator="conv")):
        with pytest.raises(ValueError): train_colorizer(dls, tmp_path/"run", dict(epochs=1), dict(epochs=1, **wrong), progress=False)
    assert not (tmp_path/"run").exists()


@pytest.mark.parametrize("minimax", [False, True])
def test_the_generators_first_cost(dls, tmp_path, minimax):
    costs = []
    class Note(adversarial.Callback):
        order = 90
        def after_loss(self):
            if not self.training: return
            with torch.no_grad(): costs.append((self.learn.gan_loss.item(), self.adversary.judge(self.x, self.pred)))
    fit(gan_learner(dls, tiny(), small_judge(), minimax=minimax, precise=True, cbs=[Note()]))
    torch.manual_seed(0)
    train_gan(dls, tmp_path/"run", net=tiny(), epochs=1, minimax=minimax, d_args=dict(filters=8, n_down=2), d_epochs=1, preview_every=0, precise=True, progress=False, save=True)
    assert load_config(tmp_path/"run")["training"].get("minimax", False) is minimax
    logged = read_losses(tmp_path/"run").gan_loss.dropna()
    assert len(costs) >= 3 and (logged < 0).all() == minimax and (logged > 0).all() != minimax
    for cost, scores in costs:
        believed = scores.double().sigmoid()
        assert abs(cost - (torch.log(1 - believed) if minimax else -torch.log(believed)).mean().item()) < 1e-5


def test_a_run_from_before_there_was_a_choice_of_cost_goes_on(dls, tmp_path):
    options = dict(net=tiny(), epochs=2, d_args=dict(filters=8, n_down=2), preview_every=0, progress=False, save=False)
    train_gan(dls, tmp_path/"run", max_minutes=0, **options)
    assert "minimax" not in torch.load(tmp_path/"run"/"checkpoint.pt", weights_only=True)["settings"]
    learn = train_gan(dls, tmp_path/"run", resume=True, minimax=False, **options)
    assert learn.checkpoint.finished and learn.train_iter == 6


def test_another_cost_is_refused_and_said_before_the_first_phase(dls, tmp_path):
    options = dict(net=tiny(), epochs=2, d_args=dict(filters=8, n_down=2), preview_every=0, progress=False, save=False)
    for begun in (False, True):
        train_gan(dls, tmp_path/str(begun), max_minutes=0, minimax=begun, **options)
        with pytest.raises(ValueError, match="minimax was True, now None" if begun else "minimax was None, now True"):
            train_gan(dls, tmp_path/str(begun), minimax=not begun, resume=True, **options)
    with pytest.raises(ValueError, match="minimax cost belongs to bce"):
        train_colorizer(dls, tmp_path/"both", dict(epochs=1), dict(epochs=1, gan_loss="lsq", minimax=True), progress=False)
    assert not (tmp_path/"both").exists()
