"""Hands the metadata of settings.ini to setuptools (pyproject.toml declares every field but the name as dynamic)."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(HERE / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]


def lines(name):
    return [line.strip() for line in cfg[name].splitlines() if line.strip()]


pythons = [f"3.{minor}" for minor in range(int(cfg["min_python"].split(".")[1]), 14)]
setup(
    version=cfg["version"],
    description=cfg["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=cfg["author"],
    license=cfg["license"],
    keywords=cfg["keywords"],
    python_requires=f">={cfg['min_python']}",
    classifiers=[
        f"Development Status :: {cfg['status']}",
        "Intended Audience :: Education",
        "Intended Audience :: Developers",
        f"Natural Language :: {cfg['language']}",
        "Topic :: Scientific/Engineering :: Image Processing",
        *(f"Programming Language :: Python :: {version}" for version in pythons),
    ],
    packages=find_packages(HERE, include=[cfg["lib_path"], f"{cfg['lib_path']}.*"]),
    package_data={cfg["lib_path"]: ["*.pyi", "pretrained/*", "pretrained/*/*/*"]},
    install_requires=lines("requirements"),
    extras_require={name: lines(f"{name}_requirements") for name in lines("extras")},
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
)
