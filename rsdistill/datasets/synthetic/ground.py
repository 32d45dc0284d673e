"""What scenes of every class share: land cover, trees, fields, and things that lie about.

All classes draw their surroundings from these functions with the same odds, so colour
alone tells little about the class.
"""

from __future__ import annotations

import math

import numpy as np

from rsdistill.datasets.synthetic.canvas import HALF, Array, Mix, Scene, Window

SOILS = ("soil_brown", "soil_red", "soil_pale")
CROP_STAGES = ("bare", "emerging", "green", "ripe", "stubble")
_COVERS = ("meadow", "steppe", "soil", "field", "scrub", "wood")
_CARS = ("white_paint", "car_dark", "car_red", "car_blue", "metal")


def turf(scene: Scene, vary: float | Array = 0.0) -> Mix:
    """Grass as green as the season has it; ``vary`` shifts the greenness from place to place."""
    green = np.clip(scene.green + vary, 0.0, 1.0)
    return {"grass": green, "dry_grass": 1.0 - green}


def crop(scene: Scene, stage: str, soil: str, rows: Array) -> Mix:
    """A crop at a stage of growth.

    Args:
        scene: The scene.
        stage: One of :data:`CROP_STAGES`.
        soil: Soil between the plants.
        rows: Share of wheel tracks and gaps (h, w).
    """
    cover = {"bare": 0.0, "emerging": 0.35, "green": 0.93, "ripe": 0.9, "stubble": 0.6}[stage]
    plants = cover * (1.0 - 0.75 * rows)
    plant = "straw" if stage in ("ripe", "stubble") else "crop"
    return {plant: plants, soil: 1.0 - plants}


def pick_stage(scene: Scene) -> str:
    """A crop stage, any of them in any season (climates differ)."""
    return str(scene.rng.choice(CROP_STAGES))


def lay_field(scene: Scene, alpha: Array, angle: float, stage: str) -> None:
    """Cover an area with one field, its rows along an angle in radians."""
    rng, canvas = scene.rng, scene.canvas
    _, across = canvas.full.turned(0.0, 0.0, angle)
    period = rng.uniform(10.0, 22.0)
    rows = canvas.stripes(across + rng.uniform(0, period), period, rng.uniform(0.2, 0.45) * period)
    texture = scene.noise((6, 24))
    tone = rng.uniform(0.82, 1.18) * (1.0 + 0.06 * texture) * (1.0 - 0.16 * rows)
    patchy = np.clip(rows * rng.uniform(0.3, 1.0) + 0.18 * np.maximum(texture, 0.0), 0.0, 1.0)
    canvas.paint(crop(scene, stage, str(rng.choice(SOILS)), patchy), alpha, tone=tone, height=0.0)


def lay_cover(scene: Scene, kind: str, alpha: Array) -> None:
    """Cover an area with one kind of land."""
    rng = scene.rng
    if kind == "field":
        lay_field(scene, alpha, rng.uniform(0, math.pi), pick_stage(scene))
        return
    coarse, fine = scene.noise((3, 6, 12)), scene.noise((24, 48))
    tone = 1.0 + rng.uniform(0.04, 0.10) * coarse + rng.uniform(0.03, 0.07) * fine
    soil = str(rng.choice(SOILS))
    bare = {"meadow": 0.03, "steppe": 0.40, "soil": 0.93, "scrub": 0.35, "wood": 0.25}[kind]
    share = np.clip(bare + rng.uniform(0.05, 0.22) * coarse, 0.0, 1.0)
    mix = {name: weight * (1.0 - share) for name, weight in turf(scene, 0.18 * fine).items()}
    scene.canvas.paint({**mix, soil: share}, alpha, tone=rng.uniform(0.85, 1.15) * tone, height=0.0)
    if kind in ("scrub", "wood"):
        crowns(scene, alpha, density=0.35 if kind == "scrub" else rng.uniform(0.7, 0.95))


def lay_ground(scene: Scene) -> None:
    """Cover the whole chip with one to three kinds of land."""
    rng, canvas = scene.rng, scene.canvas
    everywhere: Array = np.ones((canvas.size, canvas.size), np.float32)
    kinds = rng.choice(_COVERS, size=rng.integers(1, 4), p=(0.30, 0.20, 0.10, 0.15, 0.15, 0.10))
    lay_cover(scene, str(kinds[0]) if kinds[0] != "field" else "meadow", everywhere)
    for kind in kinds[1:]:
        if rng.random() < 0.5:
            along, _ = canvas.full.turned(rng.uniform(-60, 60), rng.uniform(-60, 60), rng.uniform(0, 2 * math.pi))
            edge = along + 3.0 * scene.noise((4, 8))
        else:
            edge = 14.0 * (scene.noise((2, 4, 8, 16), 0.5) + rng.uniform(-0.3, 0.8))
        lay_cover(scene, str(kind), canvas.inside(edge))


def crowns(
    scene: Scene,
    where: Array,
    density: float,
    species: Mix | None = None,
    spacing: tuple[float, float] = (7.5, 12.0),
) -> Array:
    """Plant trees, a crown a cell of a jittered grid.

    Args:
        scene: The scene.
        where: Share of each pixel that is woodland (size, size); a tree stands where its stem does.
        density: Share of cells with a tree.
        species: Mix of leaf materials; None draws broadleaved or coniferous.
        spacing: Smallest and largest distance of stems in metres.

    Returns:
        Share of each pixel under crowns (size, size).
    """
    rng, canvas = scene.rng, scene.canvas
    cell, angle = rng.uniform(*spacing), rng.uniform(0, math.pi / 2)
    # The grid is turned, so it must reach the corners of the chip.
    reach = math.sqrt(2) * HALF
    count = math.ceil(2 * reach / cell) + 3
    middle = ((np.arange(count) - 1) * cell - reach).astype(np.float32)
    jitter = (rng.uniform(-0.3, 0.3, (2, count, count)) * cell).astype(np.float32)
    stem_u, stem_v = middle[None, :] + jitter[0], middle[:, None] + jitter[1]
    # No crown reaches past 0.7 cells, so the four nearest cells of a pixel hold all that can cover it.
    radius = (rng.uniform(0.38, 0.70, (count, count)) * cell).astype(np.float32)
    light = rng.normal(1.0, 0.13, (count, count)).astype(np.float32)
    stem_x = stem_u * math.cos(angle) - stem_v * math.sin(angle)
    stem_y = stem_u * math.sin(angle) + stem_v * math.cos(angle)
    row, col = (np.clip(((s + HALF) / canvas.pixel).astype(int), 0, canvas.size - 1) for s in (stem_y, stem_x))
    radius[(rng.random((count, count)) >= density) | (where[row, col] < 0.5)] = 0.0

    u, v = canvas.full.turned(0.0, 0.0, angle)
    first_col = np.floor((u + reach) / cell).astype(int) + 1
    first_row = np.floor((v + reach) / cell).astype(int) + 1
    dome: Array = np.zeros((canvas.size, canvas.size), np.float32)
    cover, tone = np.zeros_like(dome), np.ones_like(dome)
    for drow in (0, 1):
        for dcol in (0, 1):
            at = (first_row + drow, first_col + dcol)
            crown = radius[at]
            gap = np.hypot(u - stem_u[at], v - stem_v[at])
            bulge = np.maximum(1.0 - np.square(gap / np.maximum(crown, 0.1)), 0.0) * crown
            tone = np.where(bulge > dome, light[at], tone)
            dome = np.maximum(dome, bulge)
            cover = np.maximum(cover, canvas.inside(gap - crown) * (crown > 0))
    foliage = species if species is not None else draw_species(scene)[1]
    stand = rng.uniform(0.85, 1.1)
    canvas.paint(foliage, cover, tone=stand * tone, height=3.0 + 1.3 * dome)
    return cover


def draw_species(scene: Scene) -> tuple[str, Mix]:
    """Broadleaved, coniferous or mixed trees as the season has them: name and mix of materials."""
    kind = str(scene.rng.choice(("broadleaved", "coniferous", "mixed"), p=(0.5, 0.3, 0.2)))
    share = {"broadleaved": 1.0, "coniferous": 0.0, "mixed": 0.5}[kind]
    leafy, turned = share * scene.leaves, scene.autumn
    return kind, {
        "broadleaf": leafy * (1.0 - turned),
        "autumn_leaf": leafy * turned,
        "litter": share - leafy,
        "conifer": 1.0 - share,
    }


def paint_box(
    scene: Scene, material: str | Mix, x: float, y: float, angle: float, size: tuple[float, float], **look: float
) -> None:
    """Paint a turned rectangle; ``size`` is its length and width in metres, ``look`` tone and height."""
    canvas = scene.canvas
    at = canvas.around(x, y, math.hypot(*size) / 2)
    if at is None:
        return
    along, across = at.turned(x, y, angle)
    alpha = canvas.line(np.abs(along), size[0]) * canvas.line(np.abs(across), size[1])
    canvas.paint(material, alpha, at, **look)


def paint_cars(scene: Scene, x: float, y: float, angle: float, length: float, count: int) -> None:
    """Scatter cars along a straight stretch centred at a point."""
    rng = scene.rng
    for along in rng.uniform(-length / 2, length / 2, count):
        where = (x + along * math.cos(angle), y + along * math.sin(angle))
        paint_box(scene, str(rng.choice(_CARS)), *where, angle, (5.0, 2.4), height=1.5)


def paint_house(
    scene: Scene, x: float, y: float, angle: float, size: tuple[float, float], roof: str, tone: float = 1.0
) -> None:
    """A house with a ridge along its length: the relief shades its two slopes."""
    canvas = scene.canvas
    at = canvas.around(x, y, math.hypot(*size) / 2)
    if at is None:
        return
    along, across = at.turned(x, y, angle)
    alpha = canvas.line(np.abs(along), size[0]) * canvas.line(np.abs(across), size[1])
    pitched = 4.0 + 0.55 * (size[1] / 2 - np.abs(across))
    sides: Array = np.where(across > 0, np.float32(0.88), np.float32(1.12))
    canvas.paint(roof, alpha, at, tone=tone * sides, height=np.maximum(pitched, 3.0))


def road(scene: Scene, distance: Array, width: float, surface: str, at: Window | None = None) -> None:
    """A road from the distance to its middle line; shoulders in gravel tone."""
    canvas, texture = scene.canvas, scene.rng.uniform(0.85, 1.2)
    canvas.paint("gravel", 0.5 * canvas.line(distance, width + 3.0), at)
    canvas.paint(surface, canvas.line(distance, width), at, tone=texture, height=0.0)


def clutter(scene: Scene, busy: float = 1.0) -> None:
    """Things found anywhere: a lane, a pond, a patch of field, a hedge, lone trees, a farm.

    Args:
        scene: The scene.
        busy: Factor of their odds.
    """
    rng = scene.rng
    if rng.random() < 0.30 * busy:
        _patch(scene)
    if rng.random() < 0.35 * busy:
        _lane(scene)
    if rng.random() < 0.25 * busy:
        _pond(scene)
    if rng.random() < 0.30 * busy:
        _hedge(scene)
    if rng.random() < 0.25 * busy:
        _farm(scene)
    if rng.random() < 0.40 * busy:
        crowns(scene, scene.canvas.inside(scene.noise((3,)) - 0.5), density=rng.uniform(0.1, 0.6))


def _somewhere(scene: Scene) -> tuple[float, float]:
    x, y = scene.rng.uniform(-HALF, HALF, 2)
    return float(x), float(y)


def _patch(scene: Scene) -> None:
    angle, (x, y) = scene.rng.uniform(0, math.pi), _somewhere(scene)
    along, across = scene.canvas.full.turned(x, y, angle)
    long, wide = scene.rng.uniform(20, 45, 2)
    edge = np.maximum(np.abs(along) - float(long), np.abs(across) - float(wide))
    lay_field(scene, scene.canvas.inside(edge), angle, pick_stage(scene))


def _lane(scene: Scene) -> None:
    along, across = scene.canvas.full.turned(*_somewhere(scene), scene.rng.uniform(0, math.pi))
    bend, period = scene.rng.uniform(0, 8), scene.rng.uniform(90, 200)
    distance = np.abs(across + bend * np.sin(along * (2 * math.pi / period)))
    surface = str(scene.rng.choice(("asphalt", "gravel", "soil_pale", "soil_brown")))
    road(scene, distance, scene.rng.uniform(3.0, 6.5), surface)


def _pond(scene: Scene) -> None:
    (x, y), radius = _somewhere(scene), scene.rng.uniform(6, 18)
    at = scene.canvas.around(x, y, 2 * radius)
    if at is None:
        return
    along, across = at.turned(x, y, scene.rng.uniform(0, math.pi))
    lobes = 1.0 + 0.25 * np.sin(np.arctan2(across, along) * 3 + scene.rng.uniform(0, 6))
    edge = np.hypot(along, across * scene.rng.uniform(1.1, 1.8)) - radius * lobes
    scene.canvas.paint("mud", 0.7 * scene.canvas.inside(edge - 2.5), at)
    scene.canvas.paint(draw_water(scene), scene.canvas.inside(edge), at, height=0.0)


def draw_water(scene: Scene) -> Mix:
    """Water between clear and laden with silt."""
    turbid = scene.rng.uniform(0.0, 1.0) ** 1.5
    return {"water": 1.0 - turbid, "turbid_water": turbid}


def _hedge(scene: Scene) -> None:
    _, across = scene.canvas.full.turned(*_somewhere(scene), scene.rng.uniform(0, math.pi))
    crowns(scene, scene.canvas.line(np.abs(across), 9.0), scene.rng.uniform(0.5, 0.95), spacing=(6.0, 8.0))


def _farm(scene: Scene) -> None:
    rng = scene.rng
    (x, y), angle = _somewhere(scene), rng.uniform(0, math.pi)
    for _ in range(rng.integers(1, 4)):
        size = (rng.uniform(10, 26), rng.uniform(7, 12))
        roof = str(rng.choice(("tile", "slate", "metal", "rust")))
        near = (x + rng.uniform(-22, 22), y + rng.uniform(-22, 22))
        paint_house(scene, *near, angle + rng.choice((0.0, math.pi / 2)), size, roof)
