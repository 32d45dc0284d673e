"""The audit of a distilled set: calibrated on held-out chips, with a verdict for each tile."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdistill.audit.audit_report import AuditReport, Evidence, compile_report
from rsdistill.audit.calibration import AuditOptions, Calibration
from rsdistill.audit.similarity_tests import (
    ImageProcessor,
    Measurements,
    measure,
    measure_beside_held_out,
)
from rsdistill.datasets.base import SceneData
from rsdistill.datasets.splits import split_digest
from rsdistill.distilled import DistilledSet
from rsdistill.errors import AuditError
from rsdistill.evaluation.leakage import aligned, require_chips
from rsdistill.imaging.pixels import spread


class Auditor:
    """Audits of one dataset: features and thresholds are set once and serve any number of sets.

    Args:
        data: The dataset, with the split that the sets were made from.
        options: How to audit.
        protected: Keys of classes held to tightened thresholds; None for those that the dataset names.

    Raises:
        AuditError: If the dataset has no held-out chip, or a held-out chip's class has no training chip.
        OptionError: If the features asked for are not at hand.
    """

    def __init__(
        self, data: SceneData, options: AuditOptions | None = None, protected: Collection[str] | None = None
    ) -> None:
        self.data, self.options = data, options or AuditOptions()
        self.protected = frozenset(getattr(data, "protected", ()) if protected is None else protected)
        self._processor = ImageProcessor.fit(data, self.options.features)
        images, labels = _honest_images(data, self.options.calibration)
        self._honest: Measurements = measure(images, labels, data, self._processor)
        self._calibration = Calibration.fit(self._honest, labels, len(data.classes), self.options)

    def audit(self, tiles: DistilledSet) -> AuditReport:
        """Audit one set.

        Args:
            tiles: The set.

        Raises:
            AuditError: If the set is empty, was made from another dataset or split, or a class of it has no
                training or no held-out chip.
            BandError: If the bands differ.
            UnknownNameError: If the set has a class that the dataset lacks.
        """
        ours, checked = _checked(tiles, self.data)
        require_chips(self.data, ours.label)
        measured, held_out = measure_beside_held_out(ours.image, ours.label, self.data, self._processor)
        evidence = Evidence(
            measured=measured,
            held_out=held_out,
            honest=self._honest,
            calibration=self._calibration,
            features=self._processor.features.name,
            split_checked=checked,
        )
        return compile_report(ours, self.data, evidence, self.options, self.protected, tiles.content_digest())


def audit(
    tiles: DistilledSet,
    data: SceneData,
    options: AuditOptions | None = None,
    protected: Collection[str] | None = None,
) -> AuditReport:
    """Ask of every tile whether it repeats training chips; see :class:`Auditor` for several sets of one dataset.

    Training chips are read in blocks, so that memory does not grow with the dataset. Arguments and errors as of
    :class:`Auditor` and :meth:`Auditor.audit`.
    """
    # What does not belong together is refused before any time is spent.
    _checked(tiles, data)
    return Auditor(data, options, protected).audit(tiles)


def apply(tiles: DistilledSet, report: AuditReport) -> DistilledSet:
    """The set with its verdicts, and what was found in its manifest under ``audit``.

    Raises:
        AuditError: If the report is of another set.
    """
    bare = replace(tiles, verdict=None)
    if report.set_digest not in (bare.content_digest(), tiles.content_digest()):
        raise AuditError("the audit report is of another set; audit this one")
    return replace(tiles, verdict=report.verdicts, manifest={**tiles.manifest, "audit": report.summary()})


def _checked(tiles: DistilledSet, data: SceneData) -> tuple[DistilledSet, bool]:
    """The set with the classes of the dataset, and whether its split was checked."""
    if not len(tiles):
        raise AuditError("the distilled set is empty; there is nothing to audit")
    return aligned(tiles, data), check_origin(tiles, data)


def check_origin(tiles: DistilledSet, data: SceneData) -> bool:
    """Whether set and dataset were found to belong together; False where the set does not say what it was made from.

    Raises:
        AuditError: If the set was made from another dataset or another split.
    """
    described: Any = tiles.manifest.get("dataset")
    name = described.get("name") if isinstance(described, dict) else described
    if name is not None and name != data.name:
        raise AuditError(f"the set was made from dataset '{name}', not '{data.name}'; audit it against that one")
    stated = tiles.manifest.get("split")
    if stated is None:
        return False
    keys = [info.key for info in tiles.classes]
    if stated != split_digest(data, keys):
        raise AuditError(
            f"the set was made from another split of '{data.name}': its train chips are not those given here, and "
            "copies of chips that count as held-out here would pass; give the scheme, shares and seed of its run "
            "(config.yaml of the run, group data)"
        )
    return True


def _honest_images(data: SceneData, most: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Held-out chips and their classes, spread over the classes and over both views."""
    labels = np.concatenate([data.val.labels, data.test.labels])
    if not len(labels):
        raise AuditError(f"dataset '{data.name}' has no held-out chip to set thresholds by; choose a split with some")
    # Of each class the same share, of each view too, since the order within a class is that of the views.
    by_class = np.argsort(labels, kind="stable")
    chosen = np.sort(by_class[spread(len(labels), most)])
    first, rest = chosen[chosen < len(data.val)], chosen[chosen >= len(data.val)] - len(data.val)
    parts = [view.images(part) for view, part in ((data.val, first), (data.test, rest)) if len(part)]
    return np.concatenate(parts), labels[chosen]
