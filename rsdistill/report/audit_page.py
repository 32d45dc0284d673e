"""The audit of a set as one HTML file that needs nothing beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rsdistill.audit.audit_report import AuditReport
from rsdistill.audit.similarity_tests import ImageProcessor, measure
from rsdistill.datasets.base import SceneData
from rsdistill.distilled import DistilledSet
from rsdistill.errors import AuditError
from rsdistill.evaluation.leakage import aligned
from rsdistill.report.figures import nearest_sheet
from rsdistill.report.html import Picture, render, write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_PAIRS = 8


def write_audit(
    path: str | Path,
    *,
    report: AuditReport,
    data: SceneData,
    tiles: DistilledSet,
    show_real: bool = True,
) -> Path:
    """Write an audit as one self-contained HTML file, complete or not at all.

    Args:
        path: The file; one that is there is replaced.
        report: What the audit found.
        data: The dataset audited against.
        tiles: The set audited.
        show_real: Whether real chips may be seen; False leaves out the figure of suspicious pairs.

    Returns:
        The file.

    Raises:
        AuditError: If the report is of another set.
        StorageError: If the file cannot be written.
    """
    path = Path(path)
    pairs = None
    if show_real:
        figure = suspicious_pairs(data, tiles, report)
        pairs = Picture.of(figure, "The most suspicious tiles beside the training chip that each is likest to.")
    flagged = sorted((tile for tile in report.tiles if tile.verdict != "pass"), key=lambda tile: -tile.rarity)
    write_page(path, render("audit.html.j2", report=report, flagged=flagged, pairs=pairs))
    return path


def suspicious_pairs(data: SceneData, tiles: DistilledSet, report: AuditReport, most: int = _PAIRS) -> Figure:
    """The most suspicious tiles, flagged or not, beside the training chip that each is likest to.

    It shows real chips: keep it where these may be seen.

    Args:
        data: The dataset audited against.
        tiles: The set audited.
        report: What the audit found.
        most: Number of pairs.

    Raises:
        AuditError: If the report is of another set.
    """
    if len(report.tiles) != len(tiles):
        raise AuditError(f"the audit report is of {len(report.tiles)} tiles, the set has {len(tiles)}; audit this set")
    positions = report.most_suspicious(most)
    ours = aligned(tiles, data).subset(np.array(positions))
    found = measure(ours.image, ours.label, data, ImageProcessor.fit(data, "descriptors"))
    # A tile flagged for its quadrants is likest to a chip by that one's windows, any other as a whole.
    by_patch = [report.tiles[position].detector == "patches" for position in positions]
    return nearest_sheet(data, ours, np.where(by_patch, found.nearest_patch, found.nearest), most)
