"""Which training chips the most suspicious tiles resemble. Real chips: for the eyes of those who may see them."""

from __future__ import annotations

from dataclasses import dataclass

from rsdistill.audit.alignment import aligned
from rsdistill.audit.features import create_features
from rsdistill.audit.findings import AuditReport
from rsdistill.audit.measuring import Lens, measure
from rsdistill.datasets.base import SceneData
from rsdistill.distilled import DistilledSet
from rsdistill.errors import AuditError


@dataclass(frozen=True)
class Suspects:
    """The most suspicious tiles, the first one most.

    Attributes:
        tiles: Their positions in the set.
        chips: Position in ``data.train`` of the chip that each is likest to: by its windows where the tile was
            flagged for its quadrants, as a whole otherwise.
    """

    tiles: tuple[int, ...]
    chips: tuple[int, ...]


def find_suspects(tiles: DistilledSet, data: SceneData, report: AuditReport, most: int = 8) -> Suspects:
    """Find the chips that the most suspicious tiles resemble.

    Args:
        tiles: The set that the report is of.
        data: The dataset that it was audited against.
        report: The audit's report.
        most: Number of tiles.

    Raises:
        AuditError: If the report is of another set.
    """
    if len(report.tiles) != len(tiles):
        raise AuditError(f"the audit report is of {len(report.tiles)} tiles, the set has {len(tiles)}; audit this set")
    positions = report.most_suspicious(most)
    ours = aligned(tiles, data)
    normalisation = Lens.normalise(data)
    lens = Lens(data.bands, normalisation, create_features("descriptors", data, normalisation))
    found = measure(ours.image[positions], ours.label[positions], data, lens)
    by_patch = [report.tiles[position].detector == "patches" for position in positions]
    chips = [
        int(patch if flagged else whole)
        for flagged, patch, whole in zip(by_patch, found.nearest_patch, found.nearest, strict=True)
    ]
    return Suspects(tuple(positions), tuple(chips))
