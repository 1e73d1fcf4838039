"""Code of others: the examples of CONTRIBUTING.md, as they stand there, in a folder that knows nothing of the repository; and what is refused."""
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastcore.script import anno_parser
from PIL import Image
from torch import nn

from colorize import settings
from colorize.adversarial import train_gan
from colorize.batches import photo_dls
from colorize.colorizer import Colorizer
from colorize.generators import GENERATORS, register_generator
from colorize.models.store import load_config, load_generator
from colorize.losses import LOSSES, register_loss
from colorize.metrics import MEASURES, register_metric
from colorize.names import REGISTERED, run_code
from colorize.pictures.folders import sample_photos
from colorize.pretraining import pretrain
from colorize.settings import GanSettings, MoodSettings, PretrainSettings, takes

ROOT = Path(__file__).parent.parent
SECTION = (ROOT/"CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Code of your own")[2].partition("\n## ")[0]
FILES = {re.match(r"# (\w+\.py)", code)[1]: code for code in re.findall(r"^```python\n(.*?)^```", SECTION, re.M | re.S)}
COMMANDS = "".join(re.findall(r"^```sh\n(.*?)^```", SECTION, re.M | re.S)).splitlines()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    "A folder of somebody else's, with photographs and with the files of the examples"
    home = tmp_path_factory.mktemp("elsewhere")
    (home/"photos").mkdir()
    for i, file in enumerate(sample_photos("train")[:10]): shutil.copy(file, home/"photos"/(f"{i}.jpg" if i else "one.jpg"))
    for name, code in FILES.items(): (home/name).write_text(code)
    return home


@pytest.fixture(autouse=True)
def as_before():
    "What a test registers is gone after it"
    tables = [LOSSES, GENERATORS, MEASURES, REGISTERED, settings.SETTINGS_OF]
    kept = [dict(table) for table in tables]
    yield
    for table, before in zip(tables, kept): table.clear(), table.update(before)
    for name in FILES: sys.modules.pop(name.removesuffix(".py"), None)


@pytest.fixture(scope="module")
def dls():
    files = sample_photos("train")
    return photo_dls((files[:8], files[8:12]), size=32, bs=4, progress=False, device="cpu")


QUIET = dict(preview_every=0, progress=False)


def test_the_section_has_an_example_of_each():
    assert list(FILES) == ["my_colours.py", "my_training.py", "my_photos.py"] and len(COMMANDS) == 4
    assert {"register_loss", "register_generator", "register_metric"} <= {*re.findall(r"\w+", FILES["my_colours.py"])}


def test_the_examples_in_python_run_outside_the_repository(home):
    code = "import runpy\nfor name in ('my_training.py', 'my_photos.py'): last = runpy.run_path(name, run_name='__main__')\nprint([tuple(x.shape) for x in last['dls'].one_batch()])"
    done = subprocess.run([sys.executable, "-c", code], cwd=home, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[(8, 1, 32, 32), (8, 2, 32, 32)]"
    assert Image.open(home/"python.png").size == Image.open(home/"photos"/"one.jpg").size
    config = load_config(home/"runs"/"python")
    assert (config["arch"], config["training"]["loss"], config["training"]["callbacks"]) == ("__main__:MyNet", "__main__:worst_pixel", ["steps"])


def test_the_examples_of_commands_run_outside_the_repository(home):
    for line in COMMANDS:
        command, *rest = shlex.split(line)
        done = subprocess.run([str(Path(sys.executable).with_name(command)), *rest], cwd=home, text=True, capture_output=True)
        assert done.returncode == 0, (line, done.stderr)
        if command == "colorize-evaluate": assert "too_grey" in done.stdout
    mine, further = (load_config(home/"runs"/run) for run in ("mine", "further"))
    assert (mine["arch"], mine["training"]["loss"]) == ("three_layers", "charbonnier") and Image.open(home/"one.png").mode == "RGB"
    box = load_config(ROOT/"colorize"/"pretrained")
    assert {k: further[k] for k in ("arch", "arch_args", "scale")} == {k: box[k] for k in ("arch", "arch_args", "scale")}
    assert further["training"]["start"] == "pretrained"
    unknown = subprocess.run([str(Path(sys.executable).with_name("colorize")), "photos/one.jpg", "--model", "runs/mine"], cwd=home, text=True, capture_output=True)
    assert unknown.returncode == 1 and "there is no generator 'three_layers'" in unknown.stderr and "--code" in unknown.stderr and "Traceback" not in unknown.stderr


def test_recipes_and_sweeps_know_what_is_registered(home, tmp_path):
    from colorize.experiments import ConfigError, Sweep
    from colorize.recipe import read_recipe
    recipe = tmp_path/"mine.yaml"
    recipe.write_text("arch: three_layers\narch_args: {width: 4}\nstages: [{name: one, kind: pretrain, size: 32, loss: charbonnier}]")
    with pytest.raises(ValueError, match="there is no generator 'three_layers'"): read_recipe(recipe)
    base = {"pretrain.epochs": 1, "pretrain.arch": "three_layers", "pretrain.arch_args.width": 4, "pretrain.loss": "charbonnier", "data.photos": str(home/"photos"), "data.size": 32, "data.bs": 4}
    with pytest.raises(ConfigError, match="pretrain.loss: there is no 'charbonnier'"): Sweep("mine", base, {"base": {}}, (1,), tmp_path)
    run_code(home/"my_colours.py")
    assert read_recipe(recipe)["arch"] == "three_layers"
    recipe.write_text(recipe.read_text().replace("charbonnier", "charbonier"))
    with pytest.raises(ValueError, match="did you mean charbonnier"): read_recipe(recipe)
    Sweep("mine", base, {"base": {}}, (1,), tmp_path).run(progress=False)
    assert json.loads((tmp_path/"mine"/"base-1"/"result.json").read_text())["parameters"] == (9*4 + 4) + (9*16 + 4) + (9*8 + 2)


class MyNet(nn.Module):
    def __init__(self, width=4, n_out=2):
        super().__init__()
        self.one, self.two, self.steps = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, n_out, 3, padding=1), torch.tensor(3.)
        self.register_buffer("shift", torch.tensor([.1, .2]).view(1, 2, 1, 1)[:, :n_out], persistent=False)

    def forward(self, L): return self.two(torch.relu(self.one(L))) + self.shift[:, :1]*self.steps


def worst(pred, ab): return (pred - ab).abs().amax((1, 2, 3)).mean()


def test_a_network_is_saved_and_loaded_by_its_class_and_by_itself(dls, tmp_path):
    learn = pretrain(dls, tmp_path/"run", 1, net=MyNet(6), arch_args=dict(width=6), loss=worst, metrics=[nn.functional.mse_loss, "psnr"], **QUIET)
    assert len(learn.recorder.values[-1]) == 4
    net, config = load_generator(tmp_path/"run", net=MyNet)
    L = torch.rand(1, 1, 32, 32)
    with torch.no_grad(): assert torch.allclose(net(L), learn.model.eval()(L), atol=1e-5) and torch.allclose(load_generator(tmp_path/"run", net=MyNet(6))[0](L), net(L), atol=1e-5)
    assert config["training"]["loss"] == "test_open:worst" and config["arch"] == "test_open:MyNet"
    assert Colorizer.from_pretrained(tmp_path/"run", "cpu", net=MyNet)(sample_photos("valid")[0]).mode == "RGB"
    with pytest.raises(ValueError, match="there is no generator 'test_open:MyNet'.*register_generator.*net="): Colorizer.from_pretrained(tmp_path/"run")
    register_generator("my_net")(MyNet)
    pretrain(dls, tmp_path/"named", 1, net=MyNet(), **QUIET)
    assert load_config(tmp_path/"named")["arch"] == "my_net" and load_generator(tmp_path/"named")[0].shift.device.type == "cpu"


def test_it_plays_against_a_discriminator_too(dls, tmp_path):
    train_gan(dls, tmp_path/"run", net=MyNet(), epochs=1, loss=worst, d_args=dict(filters=8, n_down=2), **QUIET)
    config = load_config(tmp_path/"run")
    assert (config["arch"], config["training"]["loss"]) == ("test_open:MyNet", "test_open:worst") and load_generator(tmp_path/"run", net=MyNet)


class Tied(MyNet):
    def __init__(self):
        super().__init__()
        self.three = nn.Conv2d(4, 2, 3)
        self.three.weight = self.two.weight


class Keeps(Callback):
    def run_state(self): return dict(what=Path("here"))


@pytest.mark.parametrize("told, sentence", [
    (dict(net=MyNet(n_out=1)), r"become \(1, 1, 32, 32\), and not"), (dict(net=Tied()), "two.weight and three.weight share their memory"),
    (dict(net=MyNet(), arch="lite_unet"), "lite_unet with the arguments it has by default is another network"), (dict(arch_args=dict(act=nn.ReLU)), "arch_args: act is .*can't be written"),
    (dict(loss="huberr"), "did you mean huber"), (dict(loss=3), "loss: a name or a function"), (dict(cbs=[Keeps()]), "the run_state of keeps can't be read back"), (dict(cbs=[worst]), "is no callback"),
    (dict(metrics=["psnrr"]), "did you mean psnr"), (dict(net=MyNet(), start="pretrained"), "not with both"), (dict(start="pretrained", arch="resnet_unet"), "can't become a resnet_unet"),
    (dict(start="pretrained", weights="imagenet"), "has weights already"), (dict(start="no/where/at/all"), "there is no such folder"), (dict(epochs=1.5), "epochs must be a whole number"),
    (dict(lr=-1), "lr must be a number that is not negative")])
def test_what_could_not_be_kept_is_refused_before_the_training(dls, tmp_path, told, sentence, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as error: pretrain(dls, tmp_path/"run", **told, **QUIET)
    assert not (tmp_path/"run").exists() and "\n" not in str(error.value)


def test_a_run_goes_on_only_with_the_same_loss_and_callbacks(dls, tmp_path):
    class Counts(Callback):
        n = 0
        def after_batch(self): self.n += 1
        def run_state(self): return dict(n=self.n)
        def load_run_state(self, state): self.n = state["n"]
    told = dict(epochs=2, net=MyNet(), arch="test_open:MyNet", loss=worst, **QUIET)
    pretrain(dls, tmp_path/"run", cbs=[Counts()], max_minutes=0, **told)
    with pytest.raises(ValueError, match="callbacks was \\['counts'\\], now None"): pretrain(dls, tmp_path/"run", resume=True, **told)
    with pytest.raises(ValueError, match="loss was 'test_open:worst', now 'mae'"): pretrain(dls, tmp_path/"run", resume=True, cbs=[Counts()], **told | dict(loss="mae"))
    learn = pretrain(dls, tmp_path/"run", resume=True, cbs=[Counts()], **told)
    assert learn.counts.n == 2*3 - 1 + 1 and learn.checkpoint.finished


@pytest.mark.parametrize("register, table", [(register_loss, LOSSES), (register_generator, GENERATORS), (register_metric, MEASURES)])
def test_names_are_given_once(register, table):
    first = next(iter(table))
    with pytest.raises(ValueError, match=f"'{first}' already"): register(first)(worst)
    assert register("mine")(worst) is worst and "mine" in table
    assert register("mine")(worst) is worst, "a cell that is run again"
    with pytest.raises(ValueError, match="'mine' already"): register("mine")(lambda pred, ab: 0)
    for name in ("", "two words", "a:b", None, worst):
        with pytest.raises(ValueError, match="letters, digits"): register(name)


def test_code_that_cannot_be_run_gets_a_sentence(tmp_path):
    (tmp_path/"torn_code.py").write_text("import nowhere_at_all")
    done = subprocess.run([str(Path(sys.executable).with_name("colorize-train")), "photos", "--code", "torn_code.py"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 1 and "torn_code.py: this code can't be run (ModuleNotFoundError: No module named 'nowhere_at_all')" in done.stderr and "Traceback" not in done.stderr


class Squares(torch.utils.data.Dataset):
    def __init__(self, item, n=6): self.item, self.n = item, n
    def __len__(self): return self.n
    def __getitem__(self, i): return self.item


RED = Image.new("RGB", (40, 30), "red")


@pytest.mark.parametrize("item", [RED, (RED, 3), torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 30, 40), np.array(RED)])
def test_data_sets_of_all_kinds_give_the_same_batches(item):
    dls = photo_dls(Squares(item), valid=2, size=16, bs=4, device="cpu")
    assert (len(dls.train_ds), len(dls.valid_ds)) == (4, 2)
    L, ab = dls.one_batch()
    assert torch.allclose(L, torch.full((4, 1, 16, 16), 53.24/50 - 1), atol=.01) and torch.allclose(ab.mean((0, 2, 3)), torch.tensor([80.09, 67.2])/110, atol=.01)
    pair = photo_dls((Squares(item, 4), Squares(item, 2)), size=16, bs=4, device="cpu")
    assert torch.equal(pair.one_batch()[1], ab)


@pytest.mark.parametrize("data, sentence", [(Squares(torch.rand(3, 8, 8)), "item 0 of the data set is a Tensor of torch.float32"), (Squares("one.jpg"), "is a str; expected are RGB"),
                                            (Squares(RED, 1), "some must remain on either side"), ((Squares(RED, 0), Squares(RED)), "nothing in the data set")])
def test_data_sets_of_something_else_get_a_sentence(data, sentence):
    with pytest.raises(ValueError, match=sentence): photo_dls(data, size=16, device="cpu")


# settings, declared once

@dataclass
class Sharper(PretrainSettings):
    "With one field more"
    sharpness:float=0. # how sharp outlines are to be


@dataclass(frozen=True)
class Older(MoodSettings):
    sepia:float=0. # 0..1, how brown it is to be


def test_a_new_setting_is_found_in_help_recipe_and_saved_model(dls, tmp_path):
    from colorize.recipe import read_recipe
    command = takes(Older)(takes(Sharper)(lambda **kwargs: kwargs))
    command.__doc__ = "A command"
    text = " ".join(anno_parser(command).format_help().split())
    assert "--sharpness (float) how sharp outlines are to be (default: 0.0)" in text and "--sepia (float) 0..1, how brown" in text and "--warmth (float)" in text
    recipe = tmp_path/"sharp.yaml"
    recipe.write_text("stages: [{name: one, kind: pretrain, size: 32, sharpness: 2}]")
    with pytest.raises(ValueError, match="pretrain has no 'sharpness'"): read_recipe(recipe)
    settings.SETTINGS_OF["pretrain"] = Sharper
    assert read_recipe(recipe)["stages"][0]["sharpness"] == 2
    recipe.write_text("stages: [{name: one, kind: pretrain, size: 32, sharpnes: 2}]")
    with pytest.raises(ValueError, match="did you mean sharpness"): read_recipe(recipe)
    pretrain(dls, tmp_path/"run", 1, net=MyNet(), sharpness=2, **QUIET)
    assert load_config(tmp_path/"run")["training"]["sharpness"] == 2
    pretrain(dls, tmp_path/"usual", 1, net=MyNet(), **QUIET)
    assert "sharpness" not in load_config(tmp_path/"usual")["training"]


def test_choices_are_those_of_the_tables():
    from colorize.discriminators import DISCRIMINATORS
    from colorize.losses import GAN_LOSSES
    choices = {name: known.get("choices") for name, (_, known) in settings._hints(GanSettings).items()}
    assert list(choices["discriminator"]) == list(DISCRIMINATORS) and choices["gan_loss"] == GAN_LOSSES


@pytest.mark.parametrize("cls", [PretrainSettings, GanSettings, MoodSettings, settings.OutputOptions, settings.PhotoOptions, settings.RunOptions])
def test_every_field_says_what_it_means_and_takes_its_default(cls):
    assert all(settings.comments(cls).values())
    assert cls(**dict(cls())) == cls() and not cls().changed()


def test_what_older_runs_wrote_down_is_what_is_written_now(dls):
    assert PretrainSettings(4).to_dict() == dict(epochs=4, lr=1e-3, loss="mae", weight_decay=.01, arch="resnet_unet", arch_args={}, seed=42)
    assert GanSettings().to_dict() == dict(epochs=5, lr=2e-4, d_lr=2e-4, l1_weight=100., gan_weight=1., gan_loss="bce", label_smoothing=0., d_every=1, d_epochs=0, discriminator="patch",
                                           d_args={}, betas=[.5, .999], ema=None, decay="none", decay_epochs=10, choose_every=50, tolerance=.1, loss="mae", seed=42)
    assert PretrainSettings(body_rate=.1, ema=.9, decay="flat_cosine").to_dict().keys() - PretrainSettings().to_dict().keys() == {"body_rate", "ema", "decay"}
