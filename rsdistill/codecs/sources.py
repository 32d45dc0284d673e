"""Where pretrained Stable Diffusion pipelines come from: the Hugging Face hub at a fixed revision, or a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rsdistill.errors import ModelError, UnknownNameError
from rsdistill.utils.provenance import digest, file_digest

INDEX = "model_index.json"
# Part of the pipeline to the classes that can stand for it; any scheduler will do, its noise schedule counts.
_CLASSES: dict[str, tuple[str, ...]] = {
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "unet": ("UNet2DConditionModel",),
    "scheduler": (),
}
# Parts that a pipeline may have beside those, none of which is loaded.
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
_WEIGHTS = ("diffusion_pytorch_model", "model")
HUB_ID = re.compile(r"(?P<id>[\w-][\w.-]*/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError)


@dataclass(frozen=True)
class KnownPipeline:
    """A pipeline on the hub that has a name of its own here.

    Attributes:
        name: The name.
        summary: One line for listings.
        source: Its paper.
        hub: Hub id.
        revision: Commit; a hub id alone would follow whatever its owner uploads next.
        weights: Weights of UNet, text encoder and autoencoder together.
        factor: How many times smaller latents are than pictures along each side.
        channels: Channels of the latents.
        halvings: How often the UNet halves latents.
    """

    name: str
    summary: str
    source: str
    hub: str
    revision: str
    weights: int
    factor: int = 8
    channels: int = 4
    halvings: int = 3


def _known_pipelines() -> dict[str, KnownPipeline]:
    text = (resources.files(__package__) / "pipelines.json").read_text(encoding="utf-8")
    return {name: KnownPipeline(name, **values) for name, values in json.loads(text).items()}


KNOWN = _known_pipelines()


@dataclass(frozen=True)
class Source:
    """A pretrained pipeline in diffusers' format, which is loaded part by part, from safetensors alone.

    Attributes:
        name: What the user called it.
        place: Folder, or hub id.
        on_hub: Whether it is a hub id.
        revision: Branch, tag or commit on the hub; None for the newest.
    """

    name: str
    place: str
    on_hub: bool
    revision: str | None = None

    @classmethod
    def of(cls, name: str, others: Iterable[str] = ()) -> Source:
        """The pipeline that a name stands for: a known one, a folder, or a hub id with or without ``@revision``.

        Args:
            name: The name.
            others: Names that would be valid too, for the message.

        Raises:
            UnknownNameError: If it is none of these.
            ModelError: If it is a folder that does not exist.
        """
        if name in KNOWN:
            return cls(name, KNOWN[name].hub, True, KNOWN[name].revision)
        if "/" not in name and "\\" not in name and not Path(name).is_dir():
            raise UnknownNameError("diffusion preset", name, [*KNOWN, *others])
        if Path(name).expanduser().is_dir():
            return cls(name, name, False)
        found = HUB_ID.fullmatch(name)
        if found is None:
            raise ModelError(
                f"folder '{name}' does not exist; name one in diffusers' format, or one of {', '.join(KNOWN)}"
            )
        return cls(name, found["id"], True, found["revision"])

    @property
    def title(self) -> str:
        """What to call it where the path of a folder is nobody's business."""
        return self.name if self.on_hub else Path(self.place).expanduser().resolve().name

    @property
    def where(self) -> str:
        """Place for messages."""
        revision = f" at revision '{self.revision}'" if self.revision else ""
        return f"'{self.place}' on the hub{revision}" if self.on_hub else f"folder '{self.place}'"

    @property
    def known(self) -> KnownPipeline | None:
        """What is known of it without looking."""
        return KNOWN.get(self.name)

    @property
    def size(self) -> float:
        """Bytes of the weights in single precision, without a download; 0 where that is not known."""
        if self.known is not None:
            return 4.0 * self.known.weights
        folder = Path(self.place).expanduser()
        files = [] if self.on_hub else [p for part in _CLASSES for n in _weight_files(part) for p in folder.glob(n)]
        return float(sum(path.stat().st_size for path in files))

    def config(self, part: str) -> dict[str, Any]:
        """Configuration of a part.

        Raises:
            ModelError: If it cannot be read.
        """
        name = {"scheduler": "scheduler/scheduler_config.json"}.get(part, f"{part}/config.json")
        return self._read_json(self._files([name]) / name)

    def check(self) -> None:
        """Refuse what is no Stable Diffusion pipeline before anything large is read.

        Raises:
            ModelError: If a part is missing or of another kind, or the pipeline has others beside.
        """
        folder = self._files([INDEX])
        if not (folder / INDEX).exists():
            raise ModelError(
                f"{self.where} holds no pipeline in diffusers' format ({INDEX} is missing); a checkpoint in one file "
                f"becomes one with diffusers: StableDiffusionPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
            )
        index = self._read_json(folder / INDEX)
        parts = {name: str(value[1]) for name, value in index.items() if isinstance(value, list) and value[-1]}
        strange = sorted(parts.keys() - _CLASSES.keys() - set(_UNUSED))
        wrong = sorted(
            f"{part} is a {parts[part]}"
            for part, kinds in _CLASSES.items()
            if kinds and part in parts and parts[part] not in kinds
        )
        if strange or wrong:
            raise ModelError(
                f"{self.where} is a {index.get('_class_name')}, not of Stable Diffusion's layout "
                f"({', '.join([*wrong, *(f'it has a {name}' for name in strange)])}); choose one with vae, "
                f"text_encoder, tokenizer, unet and scheduler, such as {', '.join(KNOWN)}"
            )
        missing = [part for part in _CLASSES if part not in parts]
        if not self.on_hub:
            missing += [part for part in _CLASSES if part in parts and not (folder / part).is_dir()]
        if missing:
            raise ModelError(f"{self.where} lacks {', '.join(missing)}; download or save the whole pipeline again")

    def load(self, part: str, kind: Any) -> Any:
        """A part of the pipeline, in single precision.

        Args:
            part: Name of the part, such as ``unet``.
            kind: Class of diffusers or transformers that loads it.

        Raises:
            ModelError: If it is missing, damaged, incomplete or not in safetensors.
        """
        folder = self._files([*_weight_files(part), f"{part}/*.json", f"{part}/*.txt"]) / part
        if part == "tokenizer":
            return self._loaded(part, lambda: kind.from_pretrained(folder, local_files_only=True))
        model, found = self._loaded(
            part,
            lambda: kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, output_loading_info=True),
        )
        if found["missing_keys"]:
            absent = sorted(found["missing_keys"])
            raise ModelError(
                f"{part} of {self.where} lacks {len(absent)} weights, the first is {absent[0]}; download it again"
            )
        return model.float()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What a model was made from: its place, the commit on the hub, and a digest of the weights.

        The digest is of UNet and text encoder. A folder's path is left out: it says something of one machine alone.
        """
        folder = self._files([pattern for part in ("unet", "text_encoder") for pattern in _weight_files(part)])
        files = sorted(p for part in ("unet", "text_encoder") for n in _weight_files(part) for p in folder.glob(n))
        weights = digest([[path.relative_to(folder).as_posix(), file_digest(path)] for path in files])
        place = {"hub": self.place, "revision": folder.name} if self.on_hub else {"folder": self.title}
        return {**place, "weights": weights}

    def _files(self, patterns: list[str]) -> Path:
        """Folder that holds these files, downloaded where they are not at hand."""
        if not self.on_hub:
            return Path(self.place).expanduser()
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(self.place, revision=self.revision, allow_patterns=patterns))
        except Exception as error:  # Every way that a network, a proxy or the hub can fail, in several classes.
            raise ModelError(
                f"{self.where} cannot be downloaded and is not in the cache ({_one_line(error)}), nor is there such a "
                f"folder; check the id and the network, or download it where there is one and name its folder instead"
            ) from error

    def _read_json(self, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = self._loaded(path.parent.name, lambda: json.loads(path.read_text(encoding="utf-8")))
        return values

    def _loaded(self, part: str, load: Any) -> Any:
        try:
            return load()
        except _LOADING_ERRORS as error:
            raise ModelError(
                f"{part} of {self.where} cannot be read ({_one_line(error)}); it has to be a whole pipeline in "
                f"diffusers' format with weights in safetensors, as save_pretrained writes it"
            ) from error


def _weight_files(part: str) -> list[str]:
    """Patterns of the weights of a part, whole or in shards, but not of variants such as fp16."""
    return [f"{part}/{name}{shard}.safetensors" for name in _WEIGHTS for shard in ("", "-*-of-*")]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
