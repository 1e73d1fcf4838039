"""colorize: a notebook course on image colorization, and the library that its notebooks export.

The names in `__init__.pyi`, about forty, are imported from here; everything else by its module, such as
`colorize.lab.chroma`. A module is loaded at the first use: `import colorize` alone loads neither torch nor fastai.
"""
import warnings

import lazy_loader

__version__ = "0.1.0"
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")  # raised by fastai's import, of no use to ours

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
