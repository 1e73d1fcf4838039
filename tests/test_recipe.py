"""A training in stages: interrupted anywhere, it ends where an uninterrupted one does."""
import shutil
import subprocess
import sys
from pathlib import Path

import nursery
import pytest
from safetensors.torch import load_file

from colorize.generators import create_generator
from colorize.models.store import load_config, load_generator, save_generator
from colorize.pictures.folders import sample_photos
from colorize.recipe import follow, publish, read_recipe

RECIPE = """
arch: colorize_net
arch_args: {width: 16, depth: 2}
seed: 3
stages:
- {name: first, kind: pretrain, size: 32, bs: 4, epochs: 3, lr: 0.003, preview_every: 0}
- {name: second, kind: pretrain, size: 48, bs: 4, epochs: 2, lr: 0.001, preview_every: 0}
- {name: third, kind: adversarial, size: 32, bs: 4, epochs: 1, choose_every: 2, preview_every: 0}
"""


@pytest.fixture
def place(tmp_path):
    for part, files in (("train", sample_photos("train")[:12]), ("valid", sample_photos("valid")[:4])):
        (tmp_path/"photos"/part).mkdir(parents=True)
        for file in files: shutil.copy(file, tmp_path/"photos"/part)
    (tmp_path/"recipe.yaml").write_text(RECIPE)
    return tmp_path


def weights(folder): return load_file(folder/"model.safetensors")


def test_interrupted_in_every_stage_it_ends_the_same(place):
    whole, finished = follow(place/"recipe.yaml", place/"photos", place/"whole", progress=False)
    assert finished and whole == place/"whole"/"third"
    steps, done, calls = [], False, 0
    while not done:
        model, done = follow(place/"recipe.yaml", place/"photos", place/"pieces", max_minutes=1e-4, progress=False)
        steps.append(model and model.name)
        assert (calls := calls + 1) < 100
    assert calls > 3 and list(dict.fromkeys(steps)) == [None, "first", "second", "third"], steps
    for key, value in weights(whole).items(): assert (weights(model)[key] - value).abs().max() < 1e-5, key


def test_a_stage_may_change_the_network_and_keeps_its_weights(place):
    (place/"recipe.yaml").write_text("""
arch: lite_unet
stages:
- {name: sharp, kind: pretrain, size: 32, bs: 4, epochs: 1, preview_every: 0}
- {name: blurred, kind: pretrain, size: 32, bs: 4, epochs: 1, preview_every: 0, body_rate: 0, arch_args: {blur: true}}
""")
    last, finished = follow(place/"recipe.yaml", place/"photos", place/"run", progress=False)
    sharp, blurred = weights(place/"run"/"sharp"), weights(last)
    assert finished and load_config(place/"run"/"sharp")["arch_args"] == {} and load_config(last)["arch_args"] == {"blur": True}
    assert all(up.blur for up in load_generator(last)[0].ups[2:]) and not any(up.blur for up in load_generator(last)[0].ups[:2])
    assert all((blurred[k] == sharp[k]).all() for k in sharp if k.startswith("body.")) and not (blurred["last.weight"] == sharp["last.weight"]).all()


def test_a_split_is_made_where_there_is_none(place):
    for file in (place/"photos"/"valid").iterdir(): file.rename(place/"photos"/file.name)
    shutil.rmtree(place/"photos"/"valid")
    _, finished = follow(read_recipe(place/"recipe.yaml") | dict(stages=read_recipe(place/"recipe.yaml")["stages"][:1]), place/"photos", place/"run", progress=False)
    assert finished and load_config(place/"run"/"first")["training"]["photos"] == 13


@pytest.mark.parametrize("text, sentence", [
    ("stages: [", "not readable as YAML"), ("7", "needs stages"), ("stages: []", "needs stages"), ("stages: [7]", "needs a name, a kind and a size"),
    ("stages: [{name: ../x, kind: pretrain, size: 32}]", "no name for a folder"), ("colour: red\nstages: [{name: x, kind: pretrain, size: 32}]", "has no 'colour'"),
    ("stages: [{name: x, kind: pretrain, size: 32, arch_args: 7}]", "arch_args"), ("stages: [{name: x, kind: pretrain, size: 32, arch_args: {wide: 1}}]", "wide"),
    ("arch: vgg\nstages: [{name: x, kind: pretrain, size: 32}]", "no generator 'vgg'"), ("stages: [{name: x, kind: pretrain, size: 32, run: elsewhere}]", "has no 'run'"),
    ("stages: [{name: x, kind: pretrain, size: 32, tolerance: 1}]", "has no 'tolerance'"), ("!!python/object/apply:os.system [echo]", "not readable as YAML")])
def test_recipes_that_are_none_get_a_sentence(tmp_path, text, sentence):
    (tmp_path/"wrong.yaml").write_text(text)
    with pytest.raises(ValueError, match=sentence) as error: read_recipe(tmp_path/"wrong.yaml")
    assert "wrong.yaml" in str(error.value) and "\n" not in str(error.value)


def test_the_recipes_of_the_project_can_be_read():
    files = list((Path(__file__).parent.parent/"recipes").glob("*.yaml"))
    assert files
    for file in files: read_recipe(file)


def test_the_command(place):
    command = [str(Path(sys.executable).with_name("colorize-recipe")), place/"recipe.yaml", place/"photos", "--run", place/"run"]
    stopped = nursery.run([*command, "--max-minutes", "0"], text=True, capture_output=True)
    assert stopped.returncode == 0 and "the same command goes on" in stopped.stdout, stopped.stderr
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0 and f"the model is in {place/'run'/'third'}" in done.stdout, done.stderr
    wrong = nursery.run([command[0], place/"no.yaml", place/"photos"], text=True, capture_output=True)
    assert wrong.returncode == 1 and "no such recipe" in wrong.stderr and "Traceback" not in wrong.stderr
    publish(place/"run"/"third", place/"box", size=96)
    assert load_config(place/"box")["size"] == 96 and load_generator(place/"box")


def test_what_publish_does_not_know_is_refused(tmp_path):
    file = tmp_path/"recipe.yaml"
    file.write_text("stages: [{name: a, kind: pretrain, size: 64}]\npublish: {saturation: 2}\n")
    with pytest.raises(ValueError, match="publish has no 'saturation'"): read_recipe(file)


def test_publish_with_8_bits(tmp_path):
    net = create_generator("scaled_unet", complexity=32)
    save_generator(tmp_path/"trained", net, dict(arch="scaled_unet", arch_args=dict(complexity=32), size=64))
    apart = [publish(tmp_path/"trained", tmp_path/f"{bits}", bits=bits) for bits in (32, 16, 8)]
    sizes = [(tmp_path/f"{bits}"/"model.safetensors").stat().st_size for bits in (32, 16, 8)]
    assert apart[0] == 0 and apart[0] < apart[1] < apart[2] < .2
    assert sizes[1] < .55*sizes[0] and sizes[2] < .32*sizes[0]
    assert [load_config(tmp_path/f"{bits}").get("weights") for bits in (32, 16, 8)] == [None, {"bits": 16}, {"bits": 8}]


@pytest.mark.parametrize("bits", [4, "8", 8.5, [8]])
def test_bits_that_publish_does_not_know_are_refused(tmp_path, bits):
    file = tmp_path/"recipe.yaml"
    file.write_text(f"stages: [{{name: a, kind: pretrain, size: 64}}]\npublish: {{bits: {bits!r}}}\n")
    with pytest.raises(ValueError, match="publish: weights are stored with 8, 16, 32 bits, and not with"): read_recipe(file)
