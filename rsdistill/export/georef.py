"""Where a tile that shows no place on Earth is drawn: a grid in an engineering CRS, or as the user asks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsdistill.errors import ExportError

if TYPE_CHECKING:
    from pyproj import CRS

Transform = tuple[float, float, float, float, float, float]

ENGINEERING, ANCHOR, REAL_PLACE = "engineering", "anchor", "real"
ENGINEERING_NAME = "rsdistill tile grid (not a place on Earth)"
ENGINEERING_WKT = (
    f'ENGCRS["{ENGINEERING_NAME}",EDATUM["Drawing sheet of generated tiles, not a place on Earth"],'
    'CS[Cartesian,2],AXIS["(X)",east,ORDER[1],LENGTHUNIT["metre",1]],AXIS["(Y)",north,ORDER[2],LENGTHUNIT["metre",1]]]'
)
_PLANE_AXES = 2
_EDGE_POINTS = 21


@dataclass(frozen=True)
class Place:
    """Where a real chip was taken.

    Attributes:
        crs: What pyproj reads as a CRS, such as ``"EPSG:32632"``.
        transform: Affine pixel-to-CRS coefficients a, b, c, d, e, f as of ``affine.Affine``.
    """

    crs: str
    transform: Transform


@dataclass(frozen=True)
class Spot:
    """Where one tile is drawn.

    Attributes:
        wkt: The CRS as WKT2.
        transform: Affine pixel-to-CRS coefficients a, b, c, d, e, f.
    """

    wkt: str
    transform: Transform


@dataclass(frozen=True)
class GeoRef:
    """How tiles are laid out on the map.

    By default they lie on a spaced grid, a row a class, in an engineering CRS in
    metres that says it is not a place on Earth and cannot be turned into one.

    Attributes:
        gsd: Metres a pixel; None for that of the set.
        epsg: Code of a projected CRS in metres to lay the grid out in instead.
            The tiles are then drawn at a place that they do not show.
        origin: Upper left corner of the grid, in metres.
        gap: Space between tiles as a fraction of a tile's longer side.
        places: Real places of real chips, one a tile; only for sets of real chips.
    """

    gsd: float | None = None
    epsg: int | None = None
    origin: tuple[float, float] = (0.0, 0.0)
    gap: float = 0.125
    places: Sequence[Place] | None = None

    def __post_init__(self) -> None:
        """Refuse values that no map can be drawn with."""
        if self.gsd is not None and not (math.isfinite(self.gsd) and self.gsd > 0):
            raise ExportError(f"gsd {self.gsd} is not a pixel size; give metres a pixel above 0")
        if not (math.isfinite(self.gap) and self.gap >= 0):
            raise ExportError(f"gap {self.gap} is not a fraction of a tile's side; give 0 or more")
        if not all(math.isfinite(value) for value in self.origin):
            raise ExportError(f"origin {self.origin} is not a point; give two numbers in metres")
        if self.epsg is not None and self.places is not None:
            raise ExportError("epsg and places exclude each other; real places bring their own CRS")

    @property
    def kind(self) -> str:
        """``engineering``, ``anchor`` or ``real``."""
        if self.places is not None:
            return REAL_PLACE
        return ENGINEERING if self.epsg is None else ANCHOR

    def spots(
        self, rows: Sequence[int], columns: Sequence[int], size: tuple[int, int], gsd: float, synthetic: bool
    ) -> list[Spot]:
        """Where each tile goes.

        Args:
            rows: Row of the grid of each tile: its class.
            columns: Column of the grid of each tile: its slot.
            size: Height and width of every tile in pixels.
            gsd: Metres a pixel of the set, used where ``self.gsd`` is None.
            synthetic: Whether the images were generated.

        Raises:
            ExportError: If the CRS is unsuitable, the grid leaves it, or generated images are to get real places.
        """
        if self.places is not None:
            return _real_spots(self.places, len(rows), synthetic)
        metres = self.gsd or gsd
        if not (math.isfinite(metres) and metres > 0):
            raise ExportError(f"the set's gsd {metres} is not a pixel size; pass gsd in metres a pixel")
        # Whole pixels from tile to tile, so that a mosaic shows every pixel as it is.
        pitch = math.ceil(max(size) * (1.0 + self.gap)) * metres
        left, top = self.origin
        if self.epsg is None:
            wkt = ENGINEERING_WKT
        else:
            crs = _anchor(self.epsg)
            across, down = max(columns, default=0) + 1, max(rows, default=0) + 1
            _check_inside(crs, self.epsg, (left, top - down * pitch, left + across * pitch, top))
            wkt = crs.to_wkt()
        return [
            Spot(wkt, (metres, 0.0, left + column * pitch, 0.0, -metres, top - row * pitch))
            for row, column in zip(rows, columns, strict=True)
        ]


def footprint(spot: Spot, size: tuple[int, int]) -> list[tuple[float, float]]:
    """The four corners of a tile in its CRS, from the upper left clockwise.

    Args:
        spot: Where the tile is drawn.
        size: Height and width in pixels.
    """
    a, b, c, d, e, f = spot.transform
    height, width = size
    return [(c + a * x + b * y, f + d * x + e * y) for x, y in ((0, 0), (width, 0), (width, height), (0, height))]


def _real_spots(places: Sequence[Place], count: int, synthetic: bool) -> list[Spot]:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    if synthetic:
        raise ExportError("generated tiles show no place and never get real coordinates; leave out places")
    if len(places) != count:
        raise ExportError(f"{len(places)} places do not fit {count} tiles; give one for each")
    texts: dict[str, str] = {}
    for place in places:
        if place.crs not in texts:
            try:
                texts[place.crs] = CRS.from_user_input(place.crs).to_wkt()
            except CRSError as error:
                raise ExportError(f"CRS '{place.crs}' of a place is unknown; give an EPSG code or WKT") from error
    return [Spot(texts[place.crs], place.transform) for place in places]


def _anchor(epsg: int) -> CRS:
    """The projected CRS of a code, in metres."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        crs = CRS.from_epsg(epsg)
    except CRSError as error:
        raise ExportError(f"EPSG:{epsg} is unknown; give a projected CRS in metres, such as 32632") from error
    metric = len(crs.axis_info) == _PLANE_AXES and all(axis.unit_name in ("metre", "meter") for axis in crs.axis_info)
    if not (crs.is_projected and metric):
        raise ExportError(
            f"EPSG:{epsg} ({crs.name}) is not a projected CRS in metres; give one such as a UTM zone (32632)"
        )
    return crs


def _check_inside(crs: CRS, epsg: int, box: tuple[float, float, float, float]) -> None:
    """Refuse a grid that leaves the area for which its CRS is made."""
    import numpy as np
    from pyproj import Transformer

    area = crs.area_of_use
    if area is None:
        return
    west, south, east, north = box
    along = np.linspace(0.0, 1.0, _EDGE_POINTS)
    x, y = np.meshgrid(west + along * (east - west), south + along * (north - south))
    lon, lat = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(x.ravel(), y.ravel())
    # An area across the antimeridian has its western edge east of the eastern one.
    lon_inside = (
        (lon >= area.west) & (lon <= area.east) if area.west <= area.east else (lon >= area.west) | (lon <= area.east)
    )
    if not np.all(lon_inside & (lat >= area.south) & (lat <= area.north)):
        raise ExportError(
            f"the grid ({west:.0f} {south:.0f} to {east:.0f} {north:.0f} m) leaves the area of EPSG:{epsg} "
            f"({area.name}: {area.west}..{area.east}° E, {area.south}..{area.north}° N); choose another origin or CRS"
        )
