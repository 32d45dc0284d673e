"""Check an exported folder: everything that the export promises, without torch, and without writing."""

from __future__ import annotations

from pathlib import Path

from rsdistill.errors import ArtifactError
from rsdistill.export.check_folder import check_catalog, check_files, check_index, check_mosaics, check_project
from rsdistill.export.check_tiles import check_tile
from rsdistill.export.faults import Fault, read_expected
from rsdistill.export.geotiff import quiet_gdal
from rsdistill.export.layout import MANIFEST


def validate_folder(folder: Path | str, *, progress: bool = False) -> list[Fault]:
    """Find everything that is wrong with an exported folder; repairs nothing.

    Args:
        folder: The exported folder.
        progress: Show a progress bar.

    Returns:
        The faults, sorted by file; none in a good folder.

    Raises:
        ArtifactError: If the folder is missing.
    """
    from tqdm.auto import tqdm

    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder; name one made by rsdistill export")
    try:
        expected, faults = read_expected(folder)
    except ArtifactError as error:
        return [Fault(MANIFEST, str(error))]
    with quiet_gdal():
        for listing in tqdm(expected.tiles, desc="checking", unit="tile", disable=not progress):
            faults.extend(check_tile(folder, listing, expected))
    for check in (check_files, check_index, check_mosaics, check_catalog, check_project):
        faults.extend(check(folder, expected))
    return sorted(set(faults))
