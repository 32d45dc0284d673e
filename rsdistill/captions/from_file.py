"""Captions that a user already has."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

from rsdistill.captions.base import CAPTIONERS, Captioner, Captions, listed
from rsdistill.captions.caption_files import Sentences, read_captions
from rsdistill.captions.matching import Matches, match_names, match_numbers
from rsdistill.captions.template import TEMPLATE, class_prompts
from rsdistill.datasets.base import SceneData, SceneView
from rsdistill.datasets.prepared import PreparedScenes
from rsdistill.errors import DatasetError, OptionError
from rsdistill.provenance import file_digest
from rsdistill.training import TrainerOptions


class UnusedCaptionsWarning(UserWarning):
    """A captions file describes images that are no chips of the dataset."""


@CAPTIONERS.register("file", summary="captions from CSV, JSON lines, UCM-Captions, RSICD or NWPU-Captions")
class FileCaptioner(Captioner):
    """Sentences read from a file, matched to the chips by name.

    Folder, suffix and case of a name do not matter; where chips of two classes share a name, the class
    folder has to stand before it. Several sentences of a chip are all kept.

    Args:
        path: The file; must be given. See :func:`rsdistill.captions.caption_files.read_captions` for its formats.
        match: ``name``, or ``number`` where the names are running numbers over the dataset's chips in order of
            class and name, from 1 on, as in UCM-Captions.
        missing: What becomes of chips without captions: ``error``, or ``template``.
        template: What ``template`` writes; ``{name}`` stands for the readable class name.

    Raises:
        OptionError: If no path is given.
    """

    name = "file"
    needs_names = True

    def __init__(
        self,
        path: str | None = None,
        match: Literal["name", "number"] = "name",
        missing: Literal["error", "template"] = "error",
        template: str = TEMPLATE,
    ) -> None:
        if not path:
            raise OptionError("captioner 'file' needs option path: a file of captions (.csv, .jsonl or .json)")
        self.path, self.match, self.missing, self.template = path, match, missing, template

    def input_digest(self) -> str:
        """Digest of the captions file; empty while there is none."""
        path = Path(self.path).expanduser()
        return f"sha256:{file_digest(path)}" if path.is_file() else ""

    def _caption(
        self, data: SceneData, view: SceneView, split: str, folder: Path | None, trainer: TrainerOptions
    ) -> Captions:
        if isinstance(data.source, PreparedScenes):
            raise DatasetError(
                f"a prepared dataset keeps no names to match captions of {self.path} by; caption the dataset as loaded"
            )
        path = Path(self.path).expanduser()
        prompts = class_prompts(data.classes, self.template)
        sentences = read_captions(path)
        matches = self._match(sentences, data)
        named = [matches.chips[index] for index in view.indices]
        self._check_words(sentences, [name for name in matches.chips if name is not None])
        lacking = [chip for chip, name in zip(view.chip_ids, named, strict=True) if name is None]
        if lacking and self.missing == "error":
            raise DatasetError(
                f"captions file {path} has nothing on {len(lacking)} of the {len(view)} {split} chips: "
                f"{listed(lacking)}; add them, or set option missing to 'template'"
            )
        texts = tuple(
            (prompts[label],) if name is None else sentences[name]
            for name, label in zip(named, view.labels, strict=True)
        )
        figures = {"unused": len(matches.unused), "fallbacks": len(lacking), "sentences": sum(map(len, texts))}
        return Captions(texts, split, self.name, self.input_digest(), figures=figures)

    def _match(self, sentences: Sentences, data: SceneData) -> Matches:
        if self.match == "number":
            return match_numbers(sentences, len(data.source))
        matches = match_names(sentences, data.source.chip_ids)
        if len(matches.unused) == len(sentences):
            numbers = all(Path(name).stem.isdecimal() for name in sentences)
            some = "" if data.policy else f" ({listed(list(sentences), 3)})"
            hint = "set option match to 'number' if they count the chips in order, or " if numbers else ""
            raise DatasetError(
                f"no name in captions file {self.path}{some} is that of a chip of "
                f"'{data.name}' ({listed(list(data.source.chip_ids), 3)}); {hint}correct the names"
            )
        if matches.unused:
            warnings.warn(
                f"captions file {self.path} describes {len(sentences)} images; {len(matches.unused)} of them are no "
                # Under a policy they may be those of excluded chips, whose names go into no log.
                f"chips of '{data.name}' and are left out" + (f": {listed(matches.unused)}" if not data.policy else ""),
                UnusedCaptionsWarning,
                stacklevel=2,
            )
        return matches

    def _check_words(self, sentences: Sentences, names: list[str]) -> None:
        empty = [name for name in names if not sentences[name]]
        if empty:
            raise DatasetError(
                f"captions file {self.path} has {len(empty)} image(s) without words: {listed(empty)}; "
                "write a caption for each or take them out"
            )
