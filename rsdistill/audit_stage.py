"""What an audit leaves in a folder: within a run, and of sets that were made elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rsdistill.audit import Auditor, AuditReport, apply
from rsdistill.config import RunConfig
from rsdistill.datasets import SceneData
from rsdistill.distilled import DistilledSet
from rsdistill.provenance import write_json
from rsdistill.report import write_audit

AUDIT, PAGE, SET = "audit.json", "audit.html", "distilled.nc"


def write_audits(
    sets: Sequence[DistilledSet], data: SceneData, config: RunConfig, folder: Path, checkpoint: Path | None = None
) -> list[AuditReport]:
    """Audit sets, and write what was found beside the sets with their verdicts.

    Args:
        sets: The sets; the page is of the first one.
        data: The dataset that they were made from.
        config: Its groups ``audit``, ``evaluation`` and ``report`` count.
        folder: Gets ``audit.json`` and ``distilled.nc``, of further sets with their number, and ``audit.html``.
        checkpoint: Where finished students of the membership attack are kept; None keeps none.
    """
    auditor = Auditor(data, config.audit)
    reports = [_with_membership(auditor.audit(tiles), tiles, data, config, checkpoint) for tiles in sets]
    for number, (tiles, report) in enumerate(zip(sets, reports, strict=True)):
        write_json(folder / numbered(AUDIT, number), report.to_dict())
        apply(tiles, report).save(folder / numbered(SET, number))
    show_real = config.report.show_real
    write_audit(folder / PAGE, report=reports[0], data=data, tiles=sets[0], show_real=show_real)
    return reports


def numbered(name: str, number: int) -> str:
    """Name of the file of a set; the first one's bears no number."""
    stem, dot, suffix = name.partition(".")
    return name if number == 0 else f"{stem}_{number + 1}{dot}{suffix}"


def _with_membership(
    report: AuditReport, tiles: DistilledSet, data: SceneData, config: RunConfig, checkpoint: Path | None
) -> AuditReport:
    """The report with the figures of the membership attack, where one is asked for."""
    shadows = config.audit.membership
    if shadows is None:
        return report
    from rsdistill.audit.membership import membership

    options = {"shadows": shadows}
    return report.with_membership(
        membership(tiles, data, config.evaluation.recipe, options, checkpoint, config.trainer)
    )
