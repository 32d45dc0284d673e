"""``rsdistill init FOLDER``: a commented config to start from."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import yaml

from rsdistill.cli.listing import refuse
from rsdistill.errors import OptionError, StorageError, storage_errors

_OWN_CHIPS = "folder"
_TEMPLATE = """\
# rsdistill run {file}
# Any option can be given on the command line too: --distill.ipc 20. What options there are: rsdistill options
name: {name}
data:
  name: {dataset}            # rsdistill list datasets
  root: {root}
  size: 64                   # side in pixels that chips are brought to
  train: 0.5                 # share of each class to learn from
  val: 0.1                   # share of that to hold back
{own}codec:
  name: kl                   # rsdistill list codecs
  options: {{latent_channels: 16, patch: 8, block_channels: [128], steps: 300, lr: 5.0e-4}}
distill:
  # method: NAME             # rsdistill list distillers; its options: rsdistill options NAME
  ipc: 10                    # images per class
  seeds: [0, 1]              # a set is made with each
evaluation:
  recipe: {{steps: 400, full_steps: 800, size: 32}}
  seeds: [0, 1]
trainer:
  accelerator: auto          # cpu, gpu, mps or another that Lightning knows
"""
_OWN = """\
  # bands: sentinel2         # a sensor, or names as the files describe them; red, green, blue if left out
  options: {gsd: 1.0}        # metres a pixel of the files: change it to what yours have
"""


def starting_config(folder: Path, dataset: str, file: Path) -> str:
    """Text of a config for a folder of chips.

    Args:
        folder: The folder.
        dataset: Registered name of the dataset that it holds.
        file: Where the config is to lie.
    """
    root = yaml.safe_dump(folder.as_posix(), allow_unicode=True, default_style='"', width=10_000).strip()
    name = re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip("-.") or "run"
    own = _OWN if dataset == _OWN_CHIPS else ""
    return _TEMPLATE.format(file=file, name=name, dataset=dataset, root=root, own=own)


def add_init(verbs: Any, plugins: argparse.ArgumentParser) -> None:
    """Add the command to a parser's commands."""
    init = verbs.add_parser(
        "init", help="write a commented config for a folder of chips", parents=[plugins], allow_abbrev=False
    )
    init.add_argument("folder", type=Path, help="folder of the chips: a folder a class, or a dataset as downloaded")
    init.add_argument("--dataset", default=_OWN_CHIPS, help=f"what the folder holds; {_OWN_CHIPS} unless given")
    init.add_argument("--out", type=Path, help="file to write; FOLDER's name and .yaml in the current folder else")
    init.set_defaults(command=_init)


def _init(options: argparse.Namespace, rest: list[str]) -> int:
    refuse(rest, "init")
    folder: Path = options.folder
    if not folder.is_dir():
        raise OptionError(f"{folder} is no folder; name the one that holds the chips")
    from rsdistill.datasets import DATASETS

    DATASETS.get(options.dataset)
    path: Path = options.out or Path(f"{folder.resolve().name or 'run'}.yaml")
    text = starting_config(folder, options.dataset, path)
    if path.exists():
        raise StorageError(f"{path} exists and is not overwritten; choose another name with --out")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # 'x': also what appeared in the meantime is not to be written over.
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    print(f"{path}\nnext: rsdistill run {path} --dry-run")
    return 0
