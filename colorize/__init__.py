"""colorize: a notebook course on image colorization, and the library that its notebooks export.

`from colorize import Colorizer` (or any other public function or class) imports the module that it lives in at that
moment, and not before: `import colorize` alone loads neither torch nor fastai nor matplotlib.
"""
import warnings

__version__ = "0.1.0"
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")  # raised by fastai's import, of no use to ours


def __getattr__(name):
    import importlib

    from ._modidx import d
    for module, symbols in d["syms"].items():
        if f"{module}.{name}" in symbols and not name.startswith("_"): return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    from ._modidx import d
    public = {key.removeprefix(f"{module}.") for module, symbols in d["syms"].items() for key in symbols}
    return sorted(set(globals()) | {name for name in public if "." not in name and not name.startswith("_")})
