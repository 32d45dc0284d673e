"""Bands and band sets: what each plane of a chip measures, and in which units."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import Any

import yaml

from rsdistill.errors import BandError, UnknownNameError, suggestion

# Natural colour as red, green, blue; colour infrared as near infrared, red, green. Micrometres.
NATURAL_COLOUR = (0.665, 0.560, 0.490)
FALSE_COLOUR = (0.842, 0.665, 0.560)
# A band further than this from a wanted wavelength does not stand in for it.
_TOLERANCE = 0.09


@dataclass(frozen=True)
class Band:
    """One spectral band.

    Attributes:
        name: The sensor's name for it, such as ``"B8A"``.
        centre: Centre wavelength in micrometres, None where it is not known.
        width: Full width at half maximum in micrometres, None where it is not known.
        gsd: Native ground sampling distance in metres, None for that of the chips.
        title: What it is called in words, such as ``"near infrared"``.
    """

    name: str
    centre: float | None = None
    width: float | None = None
    gsd: float | None = None
    title: str = ""


@dataclass(frozen=True)
class BandSet:
    """The ordered bands of a chip, with the units that its pixel values are in.

    Physical value = ``scale`` x pixel value + ``offset``, for every band alike.

    Attributes:
        bands: The bands, in the order of the chip's first axis.
        sensor: Name of the sensor, one of :func:`list_sensors` or a user's own.
        dtype: Numpy name of the pixels' type on disk: uint8, uint16, int16 or float32.
        valid_range: Smallest and largest valid pixel value.
        scale: Factor to the physical value (reflectance where the sensor is calibrated).
        offset: Summand to the physical value.
        nodata: Pixel value that means "no measurement", None if there is none.
    """

    bands: tuple[Band, ...]
    sensor: str = "custom"
    dtype: str = "uint8"
    valid_range: tuple[float, float] = (0.0, 255.0)
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None

    def __post_init__(self) -> None:
        """Refuse an empty set and two bands of one name; make the range floats."""
        if not self.bands:
            raise BandError(f"band set of sensor '{self.sensor}' has no bands; name at least one")
        seen: set[str] = set()
        for band in self.bands:
            key = _folded(band.name)
            if key in seen:
                raise BandError(f"band '{band.name}' appears twice in sensor '{self.sensor}'; name each once")
            seen.add(key)
        # As read back from JSON, so that a set written with whole numbers keeps its seal.
        low, high = self.valid_range
        object.__setattr__(self, "valid_range", (float(low), float(high)))

    def __len__(self) -> int:
        """Number of bands."""
        return len(self.bands)

    def __iter__(self) -> Iterator[Band]:
        """Iterate over the bands in order."""
        return iter(self.bands)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the bands in order."""
        return tuple(band.name for band in self.bands)

    @property
    def centres(self) -> tuple[float | None, ...]:
        """Centre wavelengths in micrometres, in order."""
        return tuple(band.centre for band in self.bands)

    def index(self, name: str) -> int:
        """Position of a band by name, whatever its case or zero padding (B2 is B02).

        Raises:
            UnknownNameError: If no band has that name.
        """
        wanted = _folded(name)
        for position, band in enumerate(self.bands):
            if _folded(band.name) == wanted:
                return position
        raise UnknownNameError(f"band of sensor {self.sensor}:", name, self.names)

    def indices(self, names: Iterable[str]) -> list[int]:
        """Positions of several bands by name, in the order asked for."""
        return [self.index(name) for name in names]

    def select(self, names: Sequence[str]) -> BandSet:
        """The subset with these names, in the order asked for.

        Raises:
            UnknownNameError: If a name is unknown.
        """
        return replace(self, bands=tuple(self.bands[i] for i in self.indices(names)))

    def nearest(self, wavelength: float, tolerance: float = _TOLERANCE) -> int:
        """Position of the band whose centre is nearest to a wavelength in micrometres.

        Raises:
            BandError: If no band lies within the tolerance.
        """
        known = [(abs(b.centre - wavelength), i) for i, b in enumerate(self.bands) if b.centre is not None]
        distance, position = min(known, default=(math.inf, -1))
        if distance > tolerance:
            raise BandError(
                f"no band of sensor '{self.sensor}' ({', '.join(self.names)}) lies within "
                f"{tolerance} µm of {wavelength} µm; choose other bands"
            )
        return position

    def composite(self, wavelengths: Sequence[float] = NATURAL_COLOUR) -> list[int]:
        """Positions of the three bands to show as red, green and blue.

        Sets that lack a wavelength asked for fall back to their first band alone
        (grey) when they have fewer than three bands, else to their first three.
        """
        try:
            return [self.nearest(w) for w in wavelengths]
        except BandError:
            return [0, 1, 2] if len(self) >= 3 else [0, 0, 0]

    def has(self, wavelengths: Iterable[float]) -> bool:
        """Whether there is a band near each of these wavelengths."""
        try:
            return all(self.nearest(w) >= 0 for w in wavelengths)
        except BandError:
            return False

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON and YAML; :meth:`from_dict` reads them back."""
        return {
            "sensor": self.sensor,
            "dtype": self.dtype,
            "valid_range": list(self.valid_range),
            "scale": self.scale,
            "offset": self.offset,
            "nodata": self.nodata,
            "bands": [asdict(band) for band in self.bands],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BandSet:
        """Rebuild a set from :meth:`to_dict`."""
        low, high = data["valid_range"]
        return cls(
            bands=tuple(Band(**band) for band in data["bands"]),
            sensor=data["sensor"],
            dtype=data["dtype"],
            valid_range=(float(low), float(high)),
            scale=data["scale"],
            offset=data["offset"],
            nodata=data["nodata"],
        )


def _folded(name: str) -> str:
    """Spelling-neutral form of a band name: 'B02', 'b2' and 'B 2' are one."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\s_-]", "", name.lower()))


def _read_sensors() -> dict[str, BandSet]:
    text = (resources.files("rsdistill") / "sensors.yaml").read_text("utf-8")
    return {
        name: BandSet(**{**told, "sensor": name, "bands": tuple(Band(**band) for band in told["bands"])})
        for name, told in yaml.safe_load(text).items()
    }


_SENSORS = _read_sensors()


def list_sensors() -> list[str]:
    """Names of the sensors whose bands are known."""
    return sorted(_SENSORS)


def get_bands(sensor: str, names: Sequence[str] | None = None) -> BandSet:
    """The bands of a known sensor, or some of them.

    Args:
        sensor: One of :func:`list_sensors`.
        names: Band names in the order wanted; None for all.

    Raises:
        UnknownNameError: If the sensor or a band is unknown.
    """
    if sensor not in _SENSORS:
        raise UnknownNameError("sensor", sensor, _SENSORS)
    bands = _SENSORS[sensor]
    return bands if names is None else bands.select(names)


def find_bands(names: Sequence[str], dtype: str) -> BandSet:
    """Bands by name alone, of a sensor that has them all.

    Args:
        names: Band names in the order wanted.
        dtype: Type of the pixels; among several such sensors one of this type is taken.

    Raises:
        UnknownNameError: If no sensor has all of them; a name that none has is named.
    """
    sensors = sorted((get_bands(name) for name in list_sensors()), key=lambda bands: bands.dtype != dtype)
    for bands in sensors:
        try:
            return bands.select(names)
        except UnknownNameError:
            continue
    known = sorted({name for bands in sensors for name in bands.names})
    folded = {_folded(name) for name in known}
    strange = next((name for name in names if _folded(name) not in folded), ", ".join(names))
    raise UnknownNameError("band", strange, known)


def check_count(image_bands: int, bands: BandSet, where: str) -> None:
    """Refuse a chip whose number of planes differs from its band set.

    Raises:
        BandError: Naming the chip and both counts.
    """
    if image_bands != len(bands):
        raise BandError(
            f"{where} has {image_bands} band(s), but sensor '{bands.sensor}' has {len(bands)} "
            f"({', '.join(bands.names)}); fix the file or name its bands"
        )


def parse_bands(spec: str | Sequence[str] | dict[str, Any], default: BandSet) -> BandSet:
    """Read a user's choice of bands: a sensor's name, band names of the default, or a full description.

    Args:
        spec: ``"sentinel2"``, ``["B04", "B03", "B02"]`` or a mapping as of :meth:`BandSet.to_dict`.
        default: The set that band names refer to; names that it lacks are those of the sensor that has them all.

    Raises:
        UnknownNameError: If a sensor or band is unknown.
        BandError: If a mapping lacks a key.
    """
    if isinstance(spec, str):
        return get_bands(spec)
    if not isinstance(spec, dict):
        try:
            return default.select(list(spec))
        except UnknownNameError:
            return find_bands(list(spec), default.dtype)
    try:
        return BandSet.from_dict({**default.to_dict(), **spec})
    except (KeyError, TypeError) as error:
        keys = ("name", "centre", "width", "gsd", "title")
        raise BandError(f"description of bands is not valid ({error}): {suggestion(str(error), keys)}") from error
