"""The two commands as a user types them."""
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nursery
import pytest
from PIL import Image


def run(command, *args, cwd=None, real=None):
    program = str(Path(sys.executable).with_name(command))
    return nursery.run([program, *map(str, args)], cwd=cwd, real=real, text=True, capture_output=True)


def digest(folder): return {f: hashlib.sha1(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()}


def test_one_photograph_goes_beside_itself(model, photos):
    before = digest(photos)
    result = run("colorize", photos/"a.jpg", "--model", model, "--compare")
    assert result.returncode == 0 and result.stdout.strip().endswith(f"1 of 1 colorized: {photos/'a-color.jpg'}")
    assert Image.open(photos/"a-color.jpg").size == (90, 60) and Image.open(photos/"a-compare.jpg").size == (180, 60)
    assert {f: h for f, h in digest(photos).items() if f in before} == before


def test_a_folder_with_a_broken_file(model, photos, tmp_path):
    (photos/"deep").mkdir()
    (photos/"a.jpg").rename(photos/"deep"/"a.jpg")
    (photos/"torn.png").write_bytes((photos/"b.png").read_bytes()[:99])
    before = digest(photos)
    result = run("colorize", photos, "--model", model, "--out", tmp_path/"out")
    assert result.returncode == 1
    assert "torn.png" in result.stderr and "Traceback" not in result.stderr
    assert result.stdout.strip().splitlines()[-1].startswith("3 of 4 colorized")
    assert sorted(str(f.relative_to(tmp_path/"out")) for f in (tmp_path/"out").rglob("*.*")) == ["b-color.png", "c-color.webp", "colorize.csv", "deep/a-color.jpg"]
    assert digest(photos) == before


def test_no_photograph_is_written_over(model, photos):
    before = digest(photos)
    assert run("colorize", photos/"a.jpg", "--model", model, "--out", photos/"a.jpg").returncode == 1
    (photos/"link.jpg").symlink_to(photos/"a.jpg")
    assert run("colorize", photos/"a.jpg", "--model", model, "--out", photos/"link.jpg").returncode == 1
    (photos/"link.jpg").unlink()
    assert digest(photos) == before


def test_two_photographs_of_one_name_do_not_replace_each_other(model, photos, tmp_path):
    (photos/"deep").mkdir()
    Image.new("L", (20, 20)).save(photos/"deep"/"a.jpg")
    result = run("colorize", photos/"a.jpg", photos/"deep"/"a.jpg", "--model", model, "--out", tmp_path/"out")
    assert result.returncode == 1 and "1 of 2 colorized" in result.stdout
    assert Image.open(tmp_path/"out"/"a-color.jpg").size == (90, 60)


def test_transparency_survives_or_becomes_white(model, tmp_path):
    Image.new("LA", (32, 32), (0, 0)).save(tmp_path/"clear.png")
    assert run("colorize", tmp_path/"clear.png", "--model", model).returncode == 0
    assert Image.open(tmp_path/"clear-color.png").mode == "RGBA"
    assert run("colorize", tmp_path/"clear.png", "--model", model, "--out", tmp_path/"white.jpg").returncode == 0
    assert Image.open(tmp_path/"white.jpg").getpixel((5, 5)) > (250, 250, 250)


@pytest.mark.parametrize("args, sentence", [
    ([], "which photograph"), (["nowhere.jpg"], "nowhere.jpg"), (["."], "no photographs"), (["a.jpg", "--model", "runs/frist"], "no such folder"),
    (["a.jpg", "--out", "a.xyz"], "can be written as")])
def test_mistakes_of_colorize_get_a_sentence(model, tmp_path, args, sentence, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    if "a.jpg" in args: Image.new("L", (20, 20)).save(tmp_path/"a.jpg")
    result = run("colorize", *args, *([] if "--model" in args else ["--model", model]), cwd=tmp_path)
    assert result.returncode == 1 and sentence in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.parametrize("args, sentence", [
    (["nowhere"], "nowhere"), (["photos", "--split", "120"], "is not a split"), (["photos", "--resume"], "no interrupted run"),
    (["photos", "--weights", "no.pth"], "no such file of weights"), (["grey"], "grey")])
def test_mistakes_of_colorize_train_get_a_sentence(tmp_path, args, sentence):
    for folder, colour in (("photos", "tomato"), ("grey", "grey")):
        (tmp_path/folder).mkdir()
        for i in range(6): Image.effect_noise((48, 48), 40).convert("RGB").save(tmp_path/folder/f"{i}.png") if colour == "grey" else \
            Image.blend(Image.new("RGB", (48, 48), colour), Image.linear_gradient("L").resize((48, 48)).convert("RGB").rotate(15*i), .4).save(tmp_path/folder/f"{i}.png")
    result = run("colorize-train", *args, *([] if args[0] != "photos" else ["--keep-grey"]), "--size", 32, "--epochs", 1, cwd=tmp_path)
    assert result.returncode == 1 and sentence in result.stderr + result.stdout and "Traceback" not in result.stderr


def test_the_nine_arguments_of_training(tmp_path, photos):
    from colorize.pictures.folders import sample_photos
    (tmp_path/"colour").mkdir()
    for file in sample_photos("valid")[:10]: shutil.copy(file, tmp_path/"colour")
    result = run("colorize-train", tmp_path/"colour", "--split", "7:3", "--epochs", 2, "--save-images", "true", "--lr", 5e-4, "--weight-decay", 0.1,
                 "--save-model", "true", "--loss", "mse", "--batch-size", 3, "--preview-every", 2, "--size", 32, "--runs", tmp_path/"runs", "--run", "nine")
    assert result.returncode == 0, result.stderr
    assert "7 photographs to train on, 3 to validate with" in result.stdout
    import json
    training = json.loads((tmp_path/"runs"/"nine"/"config.json").read_text())["training"]
    assert {k: training[k] for k in ("epochs", "lr", "weight_decay", "loss", "batch_size", "photos", "steps", "finished")} == \
        dict(epochs=2, lr=5e-4, weight_decay=.1, loss="mse", batch_size=3, photos=7, steps=4, finished=True)
    assert len(list((tmp_path/"runs"/"nine"/"previews").glob("*.png"))) == 2
    assert run("colorize", photos/"a.jpg", "--model", tmp_path/"runs"/"nine").returncode == 0


def test_nothing_is_saved_that_was_not_asked_for(tmp_path):
    from colorize.pictures.folders import sample_photos
    (tmp_path/"colour").mkdir()
    for file in sample_photos("valid")[:6]: shutil.copy(file, tmp_path/"colour")
    result = run("colorize-train", tmp_path/"colour", "--epochs", 1, "--save-images", "false", "--save-model", "false", "--batch-size", 4, "--size", 32, cwd=tmp_path, real=True)
    assert result.returncode == 0, result.stderr
    assert [f.name for f in (tmp_path/"runs"/"colorizer").iterdir()] == ["losses.csv"]


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize("number, name", [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_training_that_is_told_to_end_says_so_and_goes_on(tmp_path, number, name):
    from colorize.pictures.folders import sample_photos
    (tmp_path/"colour").mkdir()
    for file in sample_photos("valid")[:6]: shutil.copy(file, tmp_path/"colour")
    command, losses = ["colorize-train", "colour", "--epochs", "500", "--batch-size", "4", "--size", "32"], tmp_path/"runs"/"colorizer"/"losses.csv"
    process = nursery.Popen([str(Path(sys.executable).with_name(command[0])), *command[1:]], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.time() + 300
        while not (losses.exists() and losses.read_text().count("\n") > 3) and process.poll() is None and time.time() < deadline: time.sleep(.1)
        process.send_signal(number)
        said = process.communicate(timeout=300)[1]
    finally: process.kill()
    assert process.returncode == 128 + number and "Traceback" not in said, said
    assert re.search(rf"runs/colorizer: ended by {name} after step \d+; its checkpoint is written, and it can be resumed\n", said)
    again = run(*command, "--resume", "--max-minutes", 0, cwd=tmp_path)
    assert again.returncode == 0 and "--resume goes on" in again.stdout, again.stderr


def test_the_game_against_a_discriminator(tmp_path, photos):
    import json
    from colorize.pictures.folders import sample_photos
    (tmp_path/"colour").mkdir()
    for file in sample_photos("valid")[:8]: shutil.copy(file, tmp_path/"colour")
    command = ["colorize-train", tmp_path/"colour", "--split", "3:1", "--epochs", 1, "--size", 32, "--batch-size", 3, "--runs", tmp_path/"runs", "--run", "game",
               "--adversarial-epochs", 2, "--gan-loss", "lsq", "--gan-weight", 0.5, "--l1-weight", 7, "--gan-lr", 1e-4, "--d-lr", 3e-4, "--d-every", 2,
               "--d-epochs", 1, "--label-smoothing", 0.1, "--ema", 0.9, "--preview-every", 2]
    run_folder = tmp_path/"runs"/"game"
    first = run(*command, "--max-minutes", 0)
    assert first.returncode == 0 and "--resume goes on" in first.stdout, first.stderr
    assert not (run_folder/"model.safetensors").exists()
    result = run(*command, "--resume")
    assert result.returncode == 0, result.stderr
    training = json.loads((run_folder/"config.json").read_text())["training"]
    expected = dict(epochs=2, gan_loss="lsq", gan_weight=.5, l1_weight=7., lr=1e-4, d_lr=3e-4, d_every=2, d_epochs=1, label_smoothing=.1, ema=.9, steps=4, finished=True)
    assert {k: training[k] for k in expected} == expected and training["before"]["steps"] == 2 and training["chosen"]["step"] in (0, 4)
    assert {"losses.csv", "choices.csv", "discriminator.safetensors", "previews", "pretraining"} <= {f.name for f in run_folder.iterdir()}
    assert run("colorize", photos/"a.jpg", "--model", run_folder).returncode == 0
    assert "a run here already" in run(*command).stderr


def test_a_game_that_cannot_be_played_is_refused_before_the_pretraining(tmp_path):
    from colorize.pictures.folders import sample_photos
    result = run("colorize-train", sample_photos("valid")[0].parent, "--adversarial-epochs", 1, "--gan-loss", "hinge", "--label-smoothing", 0.1, "--size", 32, cwd=tmp_path)
    assert result.returncode == 1 and "no labels that could be smoothed" in result.stderr and not (tmp_path/"runs").exists()


def test_evaluating_a_folder(model, tmp_path):
    import pandas as pd
    from colorize.pictures.folders import sample_photos
    (tmp_path/"colour").mkdir()
    for file in sample_photos("valid")[:5]: shutil.copy(file, tmp_path/"colour")
    Image.effect_noise((80, 80), 40).save(tmp_path/"colour"/"grey.png")
    result = run("colorize-evaluate", tmp_path/"colour", "--model", model, "--against", model, "--size", 64, "--csv", tmp_path/"s.csv", "--grid", tmp_path/"g.png", real=True)
    assert result.returncode == 0, result.stderr
    assert "N = 5 photographs, 1 grey left out" in result.stdout and "ΔE2000" in result.stdout and "neither" in result.stdout
    assert len(pd.read_csv(tmp_path/"s.csv")) == 5 and Image.open(tmp_path/"g.png").width > 300
    (tmp_path/"colour"/"torn.jpg").write_bytes((tmp_path/"colour"/sample_photos("valid")[0].name).read_bytes()[:500])
    result = run("colorize-evaluate", tmp_path/"colour", "--model", model, "--size", 64)
    assert result.returncode == 1 and "torn.jpg" in result.stderr and "1 unreadable left out" in result.stdout


@pytest.mark.parametrize("args, sentence", [
    (["nowhere"], "nowhere"), (["grey"], "all photographs are grey"), (["empty"], "no photographs"), (["grey", "--model", "runs/frist"], "no such folder"),
    (["grey", "--size", 8], "at least 32 pixels")])
def test_mistakes_of_colorize_evaluate_get_a_sentence(model, tmp_path, args, sentence, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for folder in ("grey", "empty"): (tmp_path/folder).mkdir()
    Image.effect_noise((80, 80), 40).save(tmp_path/"grey"/"a.png")
    result = run("colorize-evaluate", *args, *([] if "--model" in args else ["--model", model]), cwd=tmp_path)
    assert result.returncode == 1 and sentence in result.stderr and "Traceback" not in result.stderr
    assert not list(tmp_path.glob("*.csv"))


def test_without_a_second_model_none_is_evaluated(tmp_path, monkeypatch, capsys):
    import torch
    from colorize.cli import colorize_evaluate
    from colorize.colorizer import Colorizer
    from colorize.pictures.folders import sample_photos
    (tmp_path/"colour").mkdir()
    for file in sample_photos("valid")[:2]: shutil.copy(file, tmp_path/"colour")
    asked = []
    def loaded(name=None, device=None): asked.append(name); return lambda L: torch.zeros(len(L), 2, *L.shape[-2:])
    monkeypatch.setattr(Colorizer, "from_pretrained", loaded)
    assert colorize_evaluate(str(tmp_path/"colour"), size=32) == 0
    assert asked == [None] and "against" not in capsys.readouterr().out


def test_the_pixel_losses_of_the_command_are_those_of_the_library(tmp_path):
    from colorize.losses import LOSSES
    from colorize.pictures.folders import sample_photos
    told = " ".join(run("colorize-train", "--help").stdout.split())
    assert f"the pixel loss: {', '.join(LOSSES)}, or one of your own" in told
    result = run("colorize-train", sample_photos("valid")[0].parent, "--loss", "hubert", "--size", 32, cwd=tmp_path)
    assert result.returncode == 1 and "there is no loss 'hubert'; did you mean huber?" in result.stderr and not (tmp_path/"runs").exists()
    assert subprocess.run([sys.executable, "-c", "import colorize.cli, sys; sys.exit('torch' in sys.modules)"]).returncode == 0
