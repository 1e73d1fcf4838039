"Sweeps: what is refused, what is killed and continued, what fails beside others, and the reports' experiments in their short form"
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import nursery
import numpy as np
import pandas as pd
import pytest
import torch

from colorize import experiments
from colorize.files import folder_lock
from colorize.experiments import (REPORTS, ConfigError, OneColour, Sweep, SweepError, beside, check_config, experiment_dls, grid_3x6,
                                  matching_complexity, measure, over, report_sweep, run_experiment, settings_of, trends, yardsticks)

BASE = {"data.size": 32, "data.limit": 32, "data.bs": 8, "pretrain.arch": "colorize_net", "pretrain.arch_args.activation": "tanh", "pretrain.epochs": 1,
        "pretrain.preview_every": 0}


@pytest.mark.parametrize("config, said", [
    ({"pretrain.epohcs": 3}, "pretrain.epohcs: there is no such setting; did you mean pretrain.epochs?"),
    ({"lr": 1e-3, "pretrain.epochs": 3}, "lr: there is no such setting; did you mean"),
    ({"pretrain.arch": "scaled_unt"}, "'scaled_unt'; did you mean scaled_unet?"),
    ({"pretrain.arch": "scaled_unet", "pretrain.arch_args.complxity": 3}, "did you mean pretrain.arch_args.complexity?"),
    ({"pretrain.arch": "scaled_unet", "pretrain.arch_args.width": 3}, "pretrain.arch_args.width: there is no such setting"),
    ({"gan.discriminator": "pach"}, "did you mean patch?"),
    ({"gan.epochs": 2, "gan.d_args.complexity": 4}, "gan.d_args.complexity: there is no such setting"),
    ({"gan.gan_loss": "bec"}, "did you mean bce?"),
    ({"pretrain.decay": "plato"}, "did you mean plateau?"),
    ({"pretrain.arch": "colorize_net", "pretrain.arch_args.activation": "sigmoyd"}, "did you mean sigmoid?"),
    ({"data.augment": "flip", "pretrain.epochs": 1}, "did you mean flips?"),
    ({"pretrain.epochs": "20"}, "pretrain.epochs is a number like 10, not '20'"),
    ({"data.size": 64}, "says what to train"),
    ({"regressor.epochs": 2, "pretrain.epochs": 2}, "says what to train"),
])
def test_what_is_not_known_is_refused_with_the_nearest_name(config, said, tmp_path):
    with pytest.raises(ConfigError) as error: Sweep("typo", {}, {"all": config}, folder=tmp_path)
    assert said in str(error.value) and "typo, all" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_settings_come_from_the_functions_and_the_chosen_network():
    assert "pretrain.arch_args.width" in settings_of({"pretrain.arch": "colorize_net"})
    assert "pretrain.arch_args.width" not in settings_of({"pretrain.arch": "scaled_unet"})
    assert settings_of({})["pretrain.epochs"] == 10 and settings_of({})["gan.lr"] == 2e-4
    check_config({"pretrain.patience": 5, "pretrain.lr": 1, "pretrain.checkpoint_minutes": 0.1})


def test_seeds_come_one_after_the_other_and_reach_every_part():
    runs = Sweep("s", {**BASE, "gan.epochs": 1}, {"a": {}, "b = 2": {"pretrain.lr": 1}}, seeds=(3, 7), folder="x").runs()
    assert [f.name for f in runs] == ["a-3", "b-2-3", "a-7", "b-2-7"]
    assert [c["data.seed"] for *_, c in runs.values()] == [3, 3, 7, 7] == [c["gan.seed"] for *_, c in runs.values()]
    with pytest.raises(ConfigError, match="two labels have the same folder"): Sweep("s", BASE, {"a b": {}, "a-b": {}}, folder="x")


def test_the_split_stays_while_the_seed_changes(photos_in_colour):
    one, two = (experiment_dls(str(photos_in_colour), size=32, bs=4, seed=s) for s in (1, 2))
    assert [f.name for f in one.valid_ds.store.files] == [f.name for f in two.valid_ds.store.files]
    assert not torch.equal(one.train.one_batch()[0], two.train.one_batch()[0])


@pytest.fixture(scope="session")
def photos_in_colour(tmp_path_factory):
    from PIL import Image
    folder, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    for i in range(20): Image.fromarray(rng.integers(0, 255, (4, 5, 3), dtype=np.uint8)).resize((60, 48)).save(folder/f"{i:02}.png")
    return folder


def running(folder):
    "Processes that work on a run of `folder`"
    found = subprocess.run(["pgrep", "-f", f"run_folder.*{folder}"], capture_output=True, text=True)
    return [pid for pid in found.stdout.split() if int(pid) != os.getpid()]


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path, monkeypatch, photos_in_colour):
    base = {**BASE, "data.photos": str(photos_in_colour), "data.bs": 4, "pretrain.arch_args.width": 16, "pretrain.arch_args.depth": 2, "pretrain.checkpoint_minutes": 0.002}
    vary = {"short": {}, "long": {"pretrain.epochs": 60}, "later": {"pretrain.lr": 1e-4}}
    args = f"'sweep', {base}, {vary}, (1,), {str(tmp_path)!r}"
    process = nursery.Popen([sys.executable, "-c", f"from colorize.experiments import Sweep; Sweep({args}).run(jobs=1, progress=False)"])
    sweep = Sweep("sweep", base, vary, (1,), tmp_path)
    short, long, later = sweep.runs()
    wait_for(lambda: (long/"checkpoint.pt").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: not running(tmp_path))
    with folder_lock(long, wait=True): pass # a process that ends has no name any more a moment before it lets its locks go
    done, kept = (short/"result.json").stat().st_mtime_ns, torch.load(long/"checkpoint.pt", weights_only=True)["step"]
    assert not (long/"result.json").exists() and 0 < kept < 240
    monkeypatch.setattr(experiments, "subprocess", nursery)
    sweep.run(jobs=1, progress=False)
    assert (short/"result.json").stat().st_mtime_ns == done
    assert sweep.results().set_index("label").steps.to_dict() == {"short": 4, "long": 240, "later": 4}
    steps = pd.read_csv(long/"losses.csv").dropna(subset="loss").step
    assert steps.tolist() == list(range(1, 241))
    straight = run_experiment({**base, **vary["long"], "pretrain.seed": 1, "data.seed": 1}, tmp_path/"straight")
    ours = json.loads((long/"result.json").read_text())
    assert ours["ab_error"] == pytest.approx(straight["ab_error"], rel=0.02)


def wait_for(what, process=None, seconds=120):
    end = time.time() + seconds
    while not what():
        assert time.time() < end and (process is None or process.poll() is None)
        time.sleep(0.02)


def test_a_run_ends_with_the_process_that_began_it(tmp_path):
    (tmp_path/"experiment.json").write_text(json.dumps({**BASE, "pretrain.epochs": 100_000}))
    child = f"import subprocess, sys, time; from colorize.experiments import _WORKER; p = subprocess.Popen([sys.executable, '-c', _WORKER, {str(tmp_path)!r}], stdin=subprocess.PIPE); time.sleep(600)"
    parent = nursery.Popen([sys.executable, "-c", child])
    wait_for(lambda: (tmp_path/"losses.csv").exists(), parent)
    assert running(tmp_path)
    parent.kill()
    wait_for(lambda: not running(tmp_path), seconds=120)


def test_one_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "subprocess", nursery)
    sweep = Sweep("bad", BASE, {"diverges": {"pretrain.lr": 1e30}, "fine": {}}, (1,), tmp_path)
    with pytest.raises(SweepError, match="1 of 2 runs have failed: .*diverges-1.*the loss became nan"): sweep.run(jobs=1, progress=False)
    assert sweep.results().label.tolist() == ["fine"]


def test_another_configuration_under_the_same_name_is_refused(tmp_path):
    folder = tmp_path/"s"/"all-1"
    folder.mkdir(parents=True)
    config = {**BASE, "data.seed": 1, "pretrain.seed": 1}
    (folder/"experiment.json").write_text(json.dumps(config))
    (folder/"result.json").write_text(json.dumps(dict(mse=1.)))
    assert Sweep("s", BASE, {"all": {}}, (1,), tmp_path).run().results().mse.tolist() == [1.]
    with pytest.raises(ConfigError, match="pretrain.lr was None, now 0.5"): Sweep("s", {**BASE, "pretrain.lr": 0.5}, {"all": {}}, (1,), tmp_path).run()


def fabricated(tmp_path, values):
    "A sweep whose results are written by hand"
    sweep = Sweep("made", BASE, {label: {"pretrain.lr": i + 1.} for i, label in enumerate(values)}, (1, 2, 3), tmp_path)
    for folder, (label, seed, _) in sweep.runs().items():
        folder.mkdir(parents=True)
        (folder/"result.json").write_text(json.dumps(dict(ab_error=values[label][seed - 1], mse=0.5)))
    return sweep


def test_the_table_has_mean_and_standard_deviation_of_the_seeds(tmp_path):
    sweep = fabricated(tmp_path, {"b": (1., 2., 3.), "a": (4.5, 4.5, 4.5), "c": (7., 7., 7.)})
    assert sweep.table("ab_error").to_dict("index") == {"b": dict(runs=3, ab_error="2.00 ± 1.00"), "a": dict(runs=3, ab_error="4.50 ± 0.00"),
                                                         "c": dict(runs=3, ab_error="7")}
    with pytest.raises(ConfigError, match="no 'ab_eror'; did you mean ab_error?"): sweep.table("ab_eror")
    sweep.dots("ab_error", "mse", marks=dict(mse=0.4))
    import matplotlib.pyplot as plt
    assert [len(line.get_xdata()) for line in plt.gcf().axes[0].lines] == [3, 2, 3, 2, 3, 2]
    plt.close()


def test_a_sweep_without_results_has_an_empty_table(tmp_path):
    sweep = Sweep("none", BASE, {"a": {}}, folder=tmp_path)
    assert len(sweep.results()) == 0 and len(sweep.table()) == 0


def test_trends_are_those_of_a_straight_line(tmp_path):
    step = np.arange(1, 101)
    pd.DataFrame(dict(step=step, epoch=0, lr=1e-3, gan_loss=0.3 + 0.01*step + np.where(step < 20, 5., 0.), gan_loss_avg=7., valid_loss=np.nan)).to_csv(tmp_path/"losses.csv", index=False)
    found = trends(tmp_path)
    assert found["gan_loss_end"] == 7. and found["gan_loss_trend"] == pytest.approx(0.01*79)


def test_measure_against_the_long_way():
    dls = experiment_dls(size=32, limit=16, bs=8)
    found = measure(OneColour([0.1, -0.2]), dls.valid)
    ab = torch.cat([ab for _, ab in dls.valid])
    assert found["mse"] == pytest.approx((ab - torch.tensor([0.1, -0.2]).view(1, 2, 1, 1)).square().mean().item(), rel=1e-4)
    assert found["ab_error"] == pytest.approx(110*(ab - torch.tensor([0.1, -0.2]).view(1, 2, 1, 1)).abs().mean().item(), rel=1e-4)
    from skimage.metrics import structural_similarity
    from colorize.batches import to_rgb
    L, ab = dls.valid.one_batch()
    pairs = zip(to_rgb(L, torch.zeros_like(ab)), to_rgb(L, ab))
    usual = np.mean([structural_similarity(a.numpy(), b.numpy(), channel_axis=0, data_range=1., gaussian_weights=True, sigma=1.5, use_sample_covariance=False, win_size=11) for a, b in pairs])
    assert measure(OneColour([0., 0.]), Batches(dls.valid, L, ab))["ssim"] == pytest.approx(usual, abs=0.02)


class Batches:
    "One batch, with what `measure` asks of a loader"
    def __init__(self, dl, L, ab): self.scale, self.batch = dl.scale, (L, ab)
    def __iter__(self): return iter([self.batch])


@pytest.mark.parametrize("scale", ["110", "127", "unit"])
def test_yardsticks_know_where_grey_lies(scale):
    found = yardsticks(size=32, scale=scale, limit=16)
    assert found.loc["grey", "chroma_ratio"] < 1e-3 and found.loc["mean colour", "chroma_ratio"] > 0.05


def test_grids_are_three_by_six_and_grey_on_the_left():
    dl = experiment_dls(size=32, limit=16).valid
    grid = grid_3x6(OneColour([0.3, 0.3]), dl)
    assert grid.shape == (96, 192, 3) and grid.dtype == np.uint8
    left, right = (half.astype(int) for half in np.split(grid, 2, axis=1))
    assert np.ptp(left, axis=2).max() <= 1 and np.ptp(right, axis=2).mean() > 20


def test_ten_copies_are_ten_times_as_many_and_made_once():
    dls = experiment_dls(size=32, limit=4, bs=4, copies=10, augment="none")
    times = [f.stat().st_mtime_ns for f in dls.train_ds.store.files]
    assert len(times) == 40
    again = experiment_dls(size=32, limit=4, bs=4, copies=10, augment="none", seed=7)
    assert [f.stat().st_mtime_ns for f in again.train_ds.store.files] == times


def test_the_discriminator_that_matches():
    from colorize.discriminators import UNetDiscriminator
    from colorize.generators import ScaledUNet, count_parameters
    assert matching_complexity(38, 256) == 4
    c = matching_complexity(30, 64)
    ratio = lambda c: count_parameters(UNetDiscriminator(c, 64))/count_parameters(ScaledUNet(30))
    assert abs(ratio(c) - 0.8) <= min(abs(ratio(c - 1) - 0.8), abs(ratio(c + 1) - 0.8))


def test_the_long_forms_can_be_run_and_differ_from_the_base_in_what_they_say():
    for name, report in REPORTS.items():
        sweep = report_sweep(name, "photos", "x")
        assert sweep.name == f"{name}-long" and all(c["data.photos"] == "photos" for *_, c in sweep.runs().values())
        assert set(report.found) <= set(report.vary)
    assert [len(changes) for changes in REPORTS["D-stabilizers"].vary.values()] == [0, 1, 1, 1, 1, 1, 1]
    with pytest.raises(ConfigError, match="did you mean E-alpha?"): report_sweep("E-alhpa")


def one_epoch(settings): return {name: min(value, 1) if name.endswith(".epochs") else value for name, value in settings.items()}


@pytest.fixture(scope="module")
def few_photos(tmp_path_factory):
    "48 of the sample photographs to train on and 8 to measure on"
    from colorize.pictures.folders import sample_photos
    folder = tmp_path_factory.mktemp("few")
    for part, n in (("train", 48), ("valid", 8)):
        (folder/part).mkdir()
        for file in sample_photos(part)[:n]: shutil.copy(file, folder/part)
    return str(folder)


@pytest.mark.parametrize("form", ["one epoch", pytest.param("as told", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", list(REPORTS))
def test_the_short_form_of_every_report(name, form, tmp_path, monkeypatch, few_photos):
    "On 48 of the sample photographs, with one seed, in this process: one epoch at 32 px, and with --long as many epochs at the size that the report says"
    report = replace(REPORTS[name], short={**REPORTS[name].short, "data.limit": 48})
    if form == "one epoch":
        small = {"data.photos": few_photos, "data.size": 64 if "regressor" in name else 32}
        report = replace(report, base=one_epoch(report.base), short=one_epoch(report.short) | small, vary={k: one_epoch(v) for k, v in report.vary.items()})
    monkeypatch.setitem(REPORTS, name, report)
    sweep = report_sweep(name, folder=tmp_path, seeds=(1,))
    for folder in sweep._claimed(): run_experiment(json.loads((folder/"experiment.json").read_text()), folder)
    table = beside(name, sweep)
    assert table.index.tolist() == list(report.vary) and table.runs.eq(1).all()
    assert np.isfinite(table[list(report.columns)].replace(",", "", regex=True).astype(float).values).all()
    assert table["report"].tolist() == [report.found.get(label, "") for label in report.vary]
    trained = {json.dumps([r["mse"], r["steps"]]) for r in sweep.results().to_dict("records")}
    assert len(trained) == len(report.vary)
