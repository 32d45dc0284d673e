"""From a distilled set to a folder of tiles: in parallel, complete or not at all, resumable."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rsdistill.distilled import DistilledSet
from rsdistill.errors import OptionError, StorageError, storage_errors
from rsdistill.export.formats import check_formats, write_formats
from rsdistill.export.georef import GeoRef
from rsdistill.export.geotiff import Written, describe_written, quiet_gdal, write_geotiff
from rsdistill.export.metadata import CITATION, FORMAT, MANIFEST, README, Facts, Tile, gather_facts, list_tiles
from rsdistill.export.overview import tile_frame, write_index, write_mosaics
from rsdistill.export.qgis import write_project
from rsdistill.export.qgis_style import Composite, choose_composites, raster_style
from rsdistill.export.release import BlockedTilesWarning, Gate, citation_text, pass_gate, readme_text
from rsdistill.export.stac import item_path, write_catalog, write_item
from rsdistill.utils.io import PARTIAL, write_json
from rsdistill.utils.provenance import digest, file_digest

_STATE = ".export.json"
# A batch is what a worker is sent at once: enough to hide the cost of sending, little enough to hold twice.
_BATCH_BYTES, _BATCH_TILES = 8 << 20, 64


@dataclass(frozen=True)
class _Job:
    """What every worker needs besides its tiles."""

    folder: Path
    facts: Facts
    composites: tuple[Composite, ...]
    created: str
    style: str


def export_tiles(
    tiles: DistilledSet,
    folder: Path | str,
    *,
    georef: GeoRef | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    workers: int = 1,
    progress: bool = True,
    geoparquet: bool = False,
    formats: Sequence[str] = (),
    allow_blocked: bool = False,
) -> Path:
    """Write a distilled set as georeferenced tiles with index, mosaics, catalog and QGIS project.

    The folder appears when it is complete. It holds relative paths only.

    Args:
        tiles: The set.
        folder: The folder to make.
        georef: How tiles are laid out; None for a grid that is not a place on Earth.
        dtype: ``uint8``, ``uint16`` or ``float32``; None keeps that of the set.
        overwrite: Replace an exported folder that is there.
        resume: Go on where an export of the same set with the same options was cut off,
            and keep what was written if this one is.
        workers: Processes that write tiles.
        progress: Show a progress bar.
        geoparquet: Also write the index as GeoParquet; the same as the format ``geoparquet``.
        formats: Further formats to write, by the names in ``EXPORT_FORMATS``.
        allow_blocked: Also write generated tiles that the audit blocked; they are left out otherwise. The manifest,
            the README and every tile say how many there were and what was done.

    Returns:
        The folder.

    Raises:
        ExportError: If the set, the layout or the folder does not allow it, or the audit blocked all tiles.
        OptionError: If ``workers`` is below 1, or pyarrow is missing for GeoParquet.
        UnknownNameError: If a format is unknown.
        StorageError: If the folder exists, or cannot be written.
    """
    folder = Path(folder)
    if workers < 1:
        raise OptionError(f"workers is {workers}; give 1 or more processes")
    formats = check_formats([*(["geoparquet"] if geoparquet else []), *formats])
    georef = georef or GeoRef()
    tiles, gate = pass_gate(tiles, allow_blocked)
    if gate.notice is not None:
        warnings.warn(gate.notice, BlockedTilesWarning, stacklevel=2)
    facts, listed = gather_facts(tiles, georef, dtype, gate.notice), list_tiles(tiles, georef)
    composites = choose_composites(tiles)
    options = {
        "georef": asdict(georef),
        "geoparquet": "geoparquet" in formats,
        "formats": list(formats),
        "stretch": [asdict(c) for c in composites],
    }
    key = digest([FORMAT, facts.document, options])
    if _is_done(folder, key, overwrite, resume):
        return folder
    staging = folder.parent / f".{folder.name}.partial"
    with storage_errors(folder):
        try:
            created = _open_staging(staging, key, resume)
            job = _Job(staging, facts, composites, created, raster_style(composites[0]))
            written = _write_tiles(job, listed, tiles.image, workers, progress)
            _write_rest(job, tiles, listed, written, options, key, gate)
            _move_into_place(staging, folder)
        except BaseException:
            if not resume:
                shutil.rmtree(staging, ignore_errors=True)
            raise
    return folder


def _is_done(folder: Path, key: str, overwrite: bool, resume: bool) -> bool:
    """Whether the folder already holds this export; refuses one that may not be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not folder.is_dir():
        raise StorageError(f"{folder} is a file; name a folder")
    found = _exported_key(folder)
    if resume and found == key:
        return True
    if not overwrite:
        hint = "it holds another export; " if resume else ""
        raise StorageError(f"{folder} exists; {hint}choose another name, or replace it with overwrite (--overwrite)")
    if found is None:
        raise StorageError(f"{folder} is not an exported folder and will not be overwritten; choose another name")
    return False


def _exported_key(folder: Path) -> str | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return None
    return str(manifest.get("key"))


def _open_staging(staging: Path, key: str, resume: bool) -> str:
    """Make or take over the folder being written; returns the time that the export began."""
    state = staging / _STATE
    if resume and state.exists():
        begun = json.loads(state.read_text(encoding="utf-8"))
        if begun["key"] == key:
            for leftover in staging.rglob(PARTIAL + "*"):
                leftover.unlink()
            return str(begun["created"])
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    write_json(state, {"key": key, "created": created})
    return created


def _write_tiles(
    job: _Job, listed: Sequence[Tile], images: NDArray[Any], workers: int, progress: bool
) -> list[Written]:
    """Write every tile; the results are in the tiles' order."""
    from tqdm.auto import tqdm

    parents = {path.rsplit("/", 1)[0] for tile in listed for path in (tile.path, item_path(tile))}
    for parent in sorted(parents):
        (job.folder / parent).mkdir(parents=True, exist_ok=True)
    written: list[Written] = []
    with tqdm(total=len(listed), desc="tiles", unit="tile", disable=not progress) as bar:
        for batch in _run(job, listed, images, workers):
            written.extend(batch)
            bar.update(len(batch))
    return written


def _run(job: _Job, listed: Sequence[Tile], images: NDArray[Any], workers: int) -> Iterator[list[Written]]:
    size = max(1, min(_BATCH_TILES, _BATCH_BYTES // max(1, images[0].nbytes)))
    cuts = range(0, len(listed), size)
    if workers == 1:
        yield from (_write_batch(job, listed[cut : cut + size], images[cut : cut + size]) for cut in cuts)
        return
    from joblib import Parallel, delayed

    calls = (delayed(_write_batch)(job, listed[cut : cut + size], images[cut : cut + size]) for cut in cuts)
    # One batch at work and one on the way for each process bounds the memory.
    yield from Parallel(n_jobs=workers, return_as="generator", max_nbytes=None, batch_size=1, pre_dispatch=2 * workers)(
        calls
    )


def _write_batch(job: _Job, listed: Sequence[Tile], images: NDArray[Any]) -> list[Written]:
    with quiet_gdal():
        return [_write_one(job, tile, pixels) for tile, pixels in zip(listed, images, strict=True)]


def _write_one(job: _Job, tile: Tile, pixels: NDArray[Any]) -> Written:
    """Write a tile and what stands beside it; a tile that is already there is complete."""
    path = job.folder / tile.path
    if path.exists():
        written = describe_written(path, pixels, job.facts)
    else:
        written = write_geotiff(path, pixels, tile, job.facts)
    path.with_suffix(".qml").write_text(job.style, encoding="utf-8")
    write_item(job.folder, tile, job.facts, written, job.created)
    # The statistics are in the tile and its item now; kept for thousands of tiles they would fill the memory.
    return replace(written, statistics=())


def _write_rest(
    job: _Job,
    tiles: DistilledSet,
    listed: Sequence[Tile],
    written: Sequence[Written],
    options: dict[str, Any],
    key: str,
    gate: Gate,
) -> None:
    folder, facts = job.folder, job.facts
    mosaics = write_mosaics(folder, listed, facts)
    write_project(folder, listed, facts, mosaics, job.composites)
    write_index(folder, tile_frame(listed, written, facts))
    write_catalog(folder, listed, facts, job.created)
    (folder / README).write_text(readme_text(listed, facts, bool(mosaics)), encoding="utf-8")
    (folder / CITATION).write_text(citation_text(facts), encoding="utf-8")
    further = write_formats(options["formats"], tiles, folder)
    systems = list(dict.fromkeys(tile.spot.wkt for tile in listed))
    manifest = {
        "format": FORMAT,
        "key": key,
        "created": job.created,
        "facts": facts.document,
        "options": options,
        "audit": gate.to_dict(),
        "classes": [asdict(info) for info in tiles.classes],
        "crs": systems,
        "mosaics": [mosaic.path for mosaic in mosaics],
        "tiles": [
            {**_listing(tile, item), "crs": systems.index(tile.spot.wkt)}
            for tile, item in zip(listed, written, strict=True)
        ],
        "files": {name: file_digest(folder / name) for name in (README, CITATION, *further)},
    }
    write_json(folder / MANIFEST, {**manifest, "seal": digest(manifest)})


def _listing(tile: Tile, written: Written) -> dict[str, Any]:
    return {
        "name": tile.name,
        "path": tile.path,
        "class": tile.class_key,
        "label": tile.label,
        "slot": tile.slot,
        "transform": list(tile.spot.transform),
        "sha256": written.sha256,
        "size": written.size,
        "pixels_sha256": written.pixels,
    }


def _move_into_place(staging: Path, folder: Path) -> None:
    """Give the complete folder its name; an old one goes only then."""
    (staging / _STATE).unlink()
    old = folder.parent / f".{folder.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(staging, folder)
    shutil.rmtree(old, ignore_errors=True)
