"""colorize: a notebook course on image colorization, and the library that its notebooks export.

`from colorize import Colorizer` (or any other public function or class) imports the module that it lives in at that
moment, and not before: `import colorize` alone loads neither torch nor fastai nor matplotlib.
"""
import warnings

__version__ = "0.1.0"
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")  # raised by fastai's import, of no use to ours



def _homes():
    "{public name: its module}, as the `__all__` of the modules say, without importing them; {module: itself} for the modules at the top"
    import ast
    import re
    from pathlib import Path
    homes = {}
    for path in sorted(Path(__file__).parent.rglob("[a-z]*.py")):
        module = ".".join(path.relative_to(Path(__file__).parent).with_suffix("").parts)
        listed = re.search(r"^__all__ = (\[.*?\])", path.read_text(encoding="utf-8"), re.M | re.S)
        homes |= dict.fromkeys(ast.literal_eval(listed[1]) if listed else [], module)
    return homes


def __getattr__(name):
    import importlib
    import importlib.util
    if name.startswith("_"): raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if importlib.util.find_spec(f"{__name__}.{name}"): return importlib.import_module(f"{__name__}.{name}")
    if not globals().get("_known"): globals()["_known"] = _homes()
    if home := _known.get(name): return getattr(importlib.import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__(): return sorted({*(name for name in globals() if not name.startswith("_")), *_homes()})
