"""Scenes that people built: housing, interchanges, runways, tanks, solar farms."""

from __future__ import annotations

import math

import numpy as np

from rsdistill.datasets.synthetic.canvas import HALF, Array, Scene
from rsdistill.datasets.synthetic.ground import (
    clutter,
    crowns,
    lay_cover,
    lay_ground,
    paint_box,
    paint_cars,
    paint_house,
    road,
    turf,
)

_ROOFS = (("tile", "tile", "rust"), ("slate", "slate", "asphalt"), ("tile", "slate", "concrete"), ("metal", "slate"))


def residential(scene: Scene) -> None:
    """Rows of houses on parallel streets with gardens, trees, cars and pools."""
    rng, canvas = scene.rng, scene.canvas
    lay_ground(scene)
    angle, block = rng.uniform(0, math.pi), rng.uniform(46, 64)
    plot, palette = rng.uniform(15, 24), _ROOFS[rng.integers(len(_ROOFS))]
    surface = str(rng.choice(("asphalt", "asphalt", "concrete")))
    x0, y0 = (float(v) for v in rng.uniform(-25, 25, 2))
    along, across = canvas.full.turned(x0, y0, angle)
    canvas.paint(turf(scene, rng.uniform(-0.3, 0.3)), rng.uniform(0.3, 0.8), tone=1.0 + 0.08 * scene.noise((24, 48)))
    street = np.abs(across - np.round(across / block) * block)
    road(scene, street, 7.0, surface)
    road(scene, np.abs(along - rng.uniform(-60, 60)), 7.0, surface)
    leafy = rng.uniform(0.05, 0.45)
    crowns(scene, canvas.inside(9.0 - street), leafy, spacing=(8.0, 11.0))
    built, count = rng.uniform(0.8, 1.0), 0
    cos, sin = math.cos(angle), math.sin(angle)
    lots = int(1.5 * HALF // plot)
    for line in range(-3, 4):
        for side in (-1, 1):
            for lot in range(-lots, lots + 1):
                u, v = lot * plot, line * block + 14.5 * side
                x, y = x0 + u * cos - v * sin, y0 + u * sin + v * cos
                if max(abs(x), abs(y)) > HALF + 8 or rng.random() > built:
                    continue
                size = (rng.uniform(10, min(plot - 2, 17)), rng.uniform(8, 12))
                tilt = angle + (math.pi / 2 if rng.random() < 0.25 else 0.0)
                off_x, off_y = rng.normal(0, 0.9, 2).tolist()
                paint_house(scene, x + off_x, y + off_y, tilt, size, str(rng.choice(palette)), rng.uniform(0.8, 1.2))
                count += 1
                if rng.random() < 0.12:
                    back = side * rng.uniform(9, 11)
                    paint_box(scene, "pool", x - back * sin, y + back * cos, angle, (6.0, 4.0), height=0.0)
        middle = line * block
        paint_cars(scene, x0 - middle * sin, y0 + middle * cos, angle, 2 * HALF, int(rng.integers(0, 5)))
    density = count / (4 * HALF * HALF / 1e4)
    scene.attributes |= {"houses_per_ha": density, "roofs": palette[0], "tree_cover": leafy, "street_spacing_m": block}


def interchange(scene: Scene) -> None:
    """Two dual carriageways that cross on a bridge, joined by loops and slip roads."""
    rng, canvas = scene.rng, scene.canvas
    lay_ground(scene)
    clutter(scene, 0.6)
    angle, skew = rng.uniform(0, math.pi), rng.uniform(-0.25, 0.25)
    x0, y0 = (float(v) for v in rng.uniform(-22, 22, 2))
    along, across = canvas.full.turned(x0, y0, angle)
    along = along + skew * across
    surface = str(rng.choice(("asphalt", "asphalt", "concrete")))
    half = rng.uniform(8, 12)
    _verges(scene, np.minimum(np.abs(along), np.abs(across)) - half - 6)
    loops = 0
    quadrants = [(sx, sy) for sx in (-1, 1) for sy in (-1, 1)]
    radius = rng.uniform(19, 28)
    for order in rng.permutation(4):
        sx, sy = quadrants[order]
        if loops == 0 or rng.random() < 0.55:
            middle = half + radius - 3.0
            ring = np.abs(np.hypot(along - sx * middle, across - sy * middle) - radius)
            road(scene, ring, 6.5, surface)
            loops += 1
        if rng.random() < 0.7:
            wide = rng.uniform(95, 150)
            # The part of a large circle that faces the crossing joins one motorway to the other.
            arc = np.abs(np.hypot(along - sx * wide, across - sy * wide) - (wide - half + 1.0))
            beyond = (sx * along > wide) | (sy * across > wide)
            road(scene, np.where(beyond, np.float32(1e3), arc), 6.5, surface)
    _motorway(scene, across, half, surface, 0.0)
    deck = 6.0 * np.clip((48 - np.abs(across)) / 24, 0.0, 1.0)
    _motorway(scene, along, half, surface, deck)
    for _ in range(4):
        lane = float(rng.choice((-1, 1))) * half * 0.55
        paint_cars(scene, x0 - lane * math.sin(angle), y0 + lane * math.cos(angle), angle, 2 * HALF, 3)
    scene.attributes |= {"loops": float(loops), "motorway_width_m": 2 * half, "surface": surface}


def _motorway(scene: Scene, offset: Array, half: float, surface: str, height: float | Array) -> None:
    """Two carriageways and a planted median, from the signed distance to its middle."""
    canvas, distance = scene.canvas, np.abs(offset)
    tone = scene.rng.uniform(0.85, 1.2)
    canvas.paint("gravel", 0.7 * canvas.line(distance, 2 * half + 3), height=height)
    canvas.paint(surface, canvas.line(distance, 2 * half), tone=tone, height=height)
    canvas.paint(turf(scene), canvas.line(distance, 3.0))
    for lane in (0.5, 0.97):
        canvas.paint("white_paint", 0.55 * canvas.line(np.abs(distance - lane * half), 0.6))


def _verges(scene: Scene, edge: Array) -> None:
    """Mown grass beside roads and runways, out to where ``edge`` turns positive."""
    mown = scene.canvas.inside(edge) * scene.rng.uniform(0.3, 0.95)
    scene.canvas.paint(turf(scene, scene.rng.uniform(-0.3, 0.2)), mown, height=0.0)


def runway(scene: Scene) -> None:
    """A runway with its markings and rubber, often a taxiway beside it."""
    rng, canvas = scene.rng, scene.canvas
    lay_ground(scene)
    clutter(scene, 0.8)
    angle, middle = rng.uniform(0, 2 * math.pi), float(rng.uniform(-35, 35))
    along, across = canvas.full.turned(-middle * math.sin(angle), middle * math.cos(angle), angle)
    width, surface = rng.uniform(24, 44), str(rng.choice(("asphalt", "concrete", "gravel"), p=(0.6, 0.3, 0.1)))
    ends = rng.random() < 0.45
    start = rng.uniform(-70, -10) if ends else -3 * HALF
    _verges(scene, np.abs(across) - width / 2 - rng.uniform(8, 30))
    taxiway = rng.random() < 0.6
    if taxiway:
        side = float(rng.choice((-1, 1))) * (width / 2 + rng.uniform(28, 50))
        road(scene, np.abs(across - side), 12.0, surface)
        link = np.maximum(np.abs(along - rng.uniform(0, 50)) - 5.0, np.abs(across - side / 2) - abs(side) / 2)
        canvas.paint(surface, canvas.inside(link), height=0.0)
    strip = canvas.line(np.abs(across), width) * canvas.inside(start - along)
    slabs = 0.04 * scene.noise((6, 24)) - 0.06 * canvas.stripes(across, width / 4, 1.5)
    canvas.paint(surface, strip, tone=rng.uniform(0.85, 1.25) + slabs, height=0.0)
    wear = np.clip(scene.noise((2, 3)) + 0.3, 0.0, 1.0) * np.exp(-np.square(across / (0.22 * width)))
    canvas.paint("car_dark", 0.45 * wear * strip)
    white = canvas.line(np.abs(across), 1.8) * (canvas.stripes(along, 30.0, 18.0) > 0.5)
    white = white + canvas.line(np.abs(np.abs(across) - 0.46 * width), 1.2)
    if ends:
        keys = canvas.stripes(across + 1.5, 6.0, 3.2) * canvas.inside(np.abs(along - start - 14) - 8)
        white = np.where(along < start + 26, keys, white)
    aim = canvas.inside(np.maximum(np.abs(along - start - 58) - 9, np.abs(np.abs(across) - 0.24 * width) - 2.2))
    marks = np.clip(white + aim, 0.0, 1.0) * canvas.inside(np.abs(across) - 0.48 * width) * strip
    canvas.paint("white_paint", rng.uniform(0.6, 0.95) * marks)
    scene.attributes |= {
        "runway_width_m": width,
        "surface": surface,
        "taxiway": "yes" if taxiway else "no",
        "threshold": "visible" if ends else "outside",
    }


def storage_tanks(scene: Scene) -> None:
    """Round tanks in rows within earth walls, joined by pipes."""
    rng, canvas = scene.rng, scene.canvas
    lay_ground(scene)
    clutter(scene, 0.8)
    angle, radius = rng.uniform(0, math.pi), rng.uniform(9, 24)
    pitch = 2 * radius + rng.uniform(5, 14)
    columns, rows = int(rng.integers(2, 2 + max(int(150 // pitch), 1))), int(rng.integers(1, 4))
    x0, y0 = (float(v) for v in rng.uniform(-28, 28, 2))
    along, across = canvas.full.turned(x0, y0, angle)
    pad = np.maximum(np.abs(along) - columns * pitch / 2, np.abs(across) - rows * pitch / 2)
    floor = str(rng.choice(("gravel", "concrete", "soil_pale", "soil_brown", "dry_grass", "grass")))
    canvas.paint(floor, 0.85 * canvas.inside(pad), tone=1.0 + 0.06 * scene.noise((16, 32)), height=0.0)
    canvas.paint("soil_pale", 0.8 * canvas.line(np.abs(pad - 3.0), 3.0), height=2.0)
    canvas.paint("metal", 0.6 * canvas.line(np.abs(across - pitch / 2), 1.6) * canvas.inside(pad))
    roof = str(rng.choice(("white_paint", "metal", "concrete", "rust", "soil_pale")))
    cos, sin, count = math.cos(angle), math.sin(angle), 0
    for column in range(columns):
        for row in range(rows):
            u, v = (column - (columns - 1) / 2) * pitch, (row - (rows - 1) / 2) * pitch
            x, y = x0 + u * cos - v * sin, y0 + u * sin + v * cos
            inside = max(abs(x), abs(y)) < HALF + 0.3 * radius
            if inside and (count == 0 or rng.random() < 0.88):
                _tank(scene, x, y, radius * rng.uniform(0.75, 1.0), roof)
                count += 1
    scene.attributes |= {"tanks": float(count), "tank_diameter_m": 2 * radius, "roof": roof}


def _tank(scene: Scene, x: float, y: float, radius: float, roof: str) -> None:
    """A tank with a fixed cone roof or a floating one sunk below its rim."""
    rng, canvas = scene.rng, scene.canvas
    at = canvas.around(x, y, radius)
    if at is None:
        return
    distance, tall = at.distance(x, y), rng.uniform(9, 16)
    tone = rng.uniform(0.8, 1.1)
    if rng.random() < 0.5:
        cone = tall + 0.15 * (radius - distance)
        canvas.paint(roof, canvas.inside(distance - radius), at, tone, cone)
        canvas.paint("gravel", 0.7 * canvas.inside(distance - 1.6), at)
        return
    canvas.paint(roof, canvas.inside(distance - radius), at, tone, tall)
    sunk = canvas.inside(distance - radius + 2.0)
    canvas.paint(roof, sunk, at, 0.75 * tone, tall - rng.uniform(1.0, 7.0))


def solar_farm(scene: Scene) -> None:
    """Blocks of panel rows on mown or bare ground, with tracks and inverters between."""
    rng, canvas = scene.rng, scene.canvas
    lay_ground(scene)
    clutter(scene)
    angle = rng.uniform(0, math.pi)
    x0, y0 = (float(v) for v in rng.uniform(-30, 30, 2))
    along, across = canvas.full.turned(x0, y0, angle)
    long, wide = (float(v) for v in rng.uniform(48, 110, 2))
    site = np.maximum(np.abs(along) - long, np.abs(across) - wide)
    fence = canvas.inside(site - 6.0)
    lay_cover(scene, str(rng.choice(("meadow", "steppe", "soil"))), fence)
    canvas.paint("gravel", 0.6 * canvas.line(np.abs(site - 5.0), 3.0), height=0.0)
    period, block = rng.uniform(10, 17), rng.uniform(40, 80)
    share = rng.uniform(0.40, 0.60)
    lane = np.abs(along - np.round(along / block) * block)
    cross = np.abs(across - rng.uniform(-20, 20))
    table = canvas.stripes(across, period, share * period)
    panels = table * canvas.inside(site) * canvas.inside(3.5 - lane) * canvas.inside(4.0 - cross)
    canvas.paint("gravel", 0.5 * canvas.inside(np.maximum(site, cross - 2.5)), height=0.0)
    # Glass frames and the sky they mirror lift the dark silicon a little, more on some sites.
    glint = rng.uniform(0.0, 0.15)
    canvas.paint({"panel": 1.0 - glint, "metal": glint}, panels, tone=rng.uniform(0.8, 1.3), height=1.5)
    cos, sin = math.cos(angle), math.sin(angle)
    for step in range(-1, 2):
        u = step * block
        paint_box(scene, "white_paint", x0 + u * cos, y0 + u * sin, angle, (7.0, 4.0), height=3.0)
    scene.attributes |= {"row_spacing_m": period, "panel_cover": share, "site_ha": 4 * long * wide / 1e4}
