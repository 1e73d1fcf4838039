# What `from colorize import …` has, for editors and for lazy_loader: one line a room, from the pixels to the commands.
from . import (
    adversarial as adversarial,
    batches as batches,
    colorizer as colorizer,
    discriminators as discriminators,
    experiments as experiments,
    generators as generators,
    hints as hints,
    jobs as jobs,
    lab as lab,
    losses as losses,
    metrics as metrics,
    models as models,
    mood as mood,
    photos as photos,
    pictures as pictures,
    pretraining as pretraining,
    recipe as recipe,
    runs as runs,
    widgets as widgets,
)
from .adversarial import train_colorizer as train_colorizer, train_gan as train_gan
from .batches import photo_dls as photo_dls, train_crops as train_crops
from .colorizer import Colorizer as Colorizer
from .discriminators import DISCRIMINATORS as DISCRIMINATORS, create_discriminator as create_discriminator
from .experiments import Sweep as Sweep, run_experiment as run_experiment
from .generators import (
    GENERATORS as GENERATORS,
    LiteUnet as LiteUnet,
    create_generator as create_generator,
    resnet_unet as resnet_unet,
)
from .hints import Hint as Hint
from .lab import LabScale as LabScale, lab_to_rgb as lab_to_rgb, rgb_to_lab as rgb_to_lab, show_images as show_images, to_gamut as to_gamut
from .losses import LOSSES as LOSSES, FeatureLoss as FeatureLoss, GANLoss as GANLoss, pixel_loss as pixel_loss
from .metrics import MEASURES as MEASURES, as_metric as as_metric, evaluate as evaluate
from .models.store import load_generator as load_generator, save_generator as save_generator
from .mood import Mood as Mood
from .photos import split_photos as split_photos
from .pictures.folders import find_photos as find_photos, sample_photos as sample_photos
from .pictures.formats import PhotoError as PhotoError
from .pictures.read import open_photo as open_photo
from .pictures.write import save_picture as save_picture
from .pretraining import pretrain as pretrain
from .recipe import read_recipe as read_recipe
from .runs.log import plot_losses as plot_losses
from .runs.previews import show_previews as show_previews
from .runs.stop import stop_run as stop_run
from .widgets import mood_explorer as mood_explorer, training_monitor as training_monitor
