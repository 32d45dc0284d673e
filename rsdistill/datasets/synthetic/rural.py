"""Scenes of land and water: forest, cropland, centre pivots, rivers, beaches."""

from __future__ import annotations

import math

import numpy as np

from rsdistill.datasets.synthetic.canvas import HALF, Array, Scene
from rsdistill.datasets.synthetic.ground import (
    SOILS,
    clutter,
    crop,
    crowns,
    draw_species,
    draw_water,
    lay_cover,
    lay_field,
    lay_ground,
    pick_stage,
    road,
)


def forest(scene: Scene) -> None:
    """Closed or open canopy over litter, at times with a clearing or a track."""
    rng, canvas = scene.rng, scene.canvas
    lay_cover(scene, str(rng.choice(("scrub", "steppe", "meadow"))), np.ones((canvas.size, canvas.size), np.float32))
    if rng.random() < 0.3:
        _, across = canvas.full.turned(rng.uniform(-50, 50), rng.uniform(-50, 50), rng.uniform(0, math.pi))
        road(scene, np.abs(across + 5 * scene.noise((3,))), rng.uniform(3, 6), "soil_pale")
    clearing = scene.noise((2, 4)) + rng.uniform(0.6, 2.2)
    density = rng.uniform(0.75, 1.0)
    kind, species = draw_species(scene)
    cover = crowns(scene, canvas.inside(-10 * clearing), density, species)
    if rng.random() < 0.5:
        cover = np.maximum(cover, crowns(scene, canvas.inside(8 * scene.noise((3, 6))), 0.5 * density))
    scene.attributes |= {"trees": kind, "canopy_cover": float(cover.mean())}


def cropland(scene: Scene) -> None:
    """A mosaic of parcels in one or two directions, each with its crop and its rows."""
    rng, canvas = scene.rng, scene.canvas
    lay_ground(scene)
    angle, skew = rng.uniform(0, math.pi), rng.uniform(-0.25, 0.25)
    along, across = canvas.full.turned(rng.uniform(-20, 20), rng.uniform(-20, 20), angle)
    along = along + skew * across
    gap, reach, stages = rng.uniform(0.5, 5.0), 1.5 * HALF, []
    left = -reach
    while left < reach:
        right = left + rng.uniform(35, 95)
        low = -reach
        while low < reach:
            high = low + rng.uniform(45, 150)
            outside = np.maximum(np.abs(along - (left + right) / 2) - (right - left - gap) / 2,
                                 np.abs(across - (low + high) / 2) - (high - low - gap) / 2)  # fmt: skip
            alpha = canvas.inside(outside)
            stage = pick_stage(scene)
            if alpha.any():
                lay_field(scene, alpha, angle + rng.choice((0.0, math.pi / 2)), stage)
                stages.append((float(alpha.mean()), stage))
            low = high
        left = right
    clutter(scene, 0.5)
    scene.attributes |= {"fields": float(len(stages)), "crop_stage": max(stages)[1]}


def centre_pivot(scene: Scene) -> None:
    """Round fields under a turning sprinkler: one large, or several side by side."""
    rng = scene.rng
    lay_ground(scene)
    clutter(scene, 0.5)
    radius = rng.uniform(38, 88)
    spacing, angle = 2 * radius + rng.uniform(2, 14), rng.uniform(0, math.pi / 2)
    shift = rng.uniform(-0.35, 0.35, 2) * min(spacing, 110)
    cos, sin = math.cos(angle), math.sin(angle)
    count, stages = 0, []
    for column in (-1, 0, 1):
        for row in (-1, 0, 1):
            x, y = float(shift[0]), float(shift[1])
            x, y = x + spacing * (column * cos - row * sin), y + spacing * (column * sin + row * cos)
            # The one in the middle is always there; neighbours may have been left dry.
            if max(abs(x), abs(y)) > HALF + 0.6 * radius or ((column or row) and rng.random() < 0.35):
                continue
            stages.append(_pivot(scene, x, y, radius))
            count += 1
    scene.attributes |= {"pivots": float(count), "pivot_radius_m": radius, "crop_stage": stages[len(stages) // 2]}


def _pivot(scene: Scene, x: float, y: float, radius: float) -> str:
    """One irrigated circle in one to three sectors; returns the stage of the first."""
    rng, canvas = scene.rng, scene.canvas
    at = canvas.around(x, y, radius)
    if at is None:
        return "bare"
    along, across = at.turned(x, y, rng.uniform(0, 2 * math.pi))
    distance = np.hypot(along, across)
    bearing = np.arctan2(across, along) + math.pi
    period = rng.uniform(11, 18)
    rings = canvas.stripes(distance, period, rng.uniform(0.2, 0.35) * period)
    soil, first = str(rng.choice(SOILS)), ""
    start = 0.0
    for part in rng.dirichlet(np.full(rng.integers(1, 4), 4.0)):
        stage = pick_stage(scene)
        first = first or stage
        end = start + 2 * math.pi * float(part)
        sector = canvas.inside(np.maximum(start - bearing, bearing - end) * np.maximum(distance, 1.0))
        tone = rng.uniform(0.85, 1.15) * (1.0 - 0.14 * rings)
        canvas.paint(crop(scene, stage, soil, 0.7 * rings), sector * canvas.inside(distance - radius), at, tone, 0.0)
        start = end
    arm = canvas.line(np.abs(across), 2.0) * canvas.inside(np.maximum(-along, distance - radius))
    canvas.paint("metal", 0.8 * arm, at)
    canvas.paint("gravel", canvas.inside(distance - 3.0), at)
    return first


def river(scene: Scene) -> None:
    """A meandering channel with bars and trees on its banks, at times an island or a bridge."""
    rng, canvas = scene.rng, scene.canvas
    lay_ground(scene)
    clutter(scene)
    angle, middle = rng.uniform(0, 2 * math.pi), float(rng.uniform(-30, 30))
    along, across = canvas.full.turned(-middle * math.sin(angle), middle * math.cos(angle), angle)
    width, period = rng.uniform(12, 46), rng.uniform(110, 260)
    swing, phase = rng.uniform(0.06, 0.16) * period, rng.uniform(0, 2 * math.pi)
    turn = along * (2 * math.pi / period) + phase
    slope = swing * 2 * math.pi / period * np.cos(turn)
    course = swing * np.sin(turn) + 0.15 * swing * np.sin(2.3 * turn)
    # Dividing by the slope's secant keeps the width even around the bends.
    offset = (across - course) / np.sqrt(1.0 + np.square(slope))
    edge = np.abs(offset) - width / 2 * (1.0 + 0.12 * scene.noise((3, 6)))
    crowns(scene, canvas.inside(np.abs(edge - 9.0) - 7.0), rng.uniform(0.0, 0.8))
    bank = str(rng.choice(("sand", "mud", "gravel", "wet_sand")))
    # Bars lie on the inner side of each bend.
    bar = rng.uniform(1.0, 3.0) + rng.uniform(0.0, 7.0) * np.maximum(np.sin(turn) * np.sign(-offset), 0.0)
    canvas.paint(bank, 0.9 * canvas.inside(edge - bar), height=0.0)
    flow = 1.0 + 0.06 * scene.noise((6, 24))
    canvas.paint(draw_water(scene), canvas.inside(edge), tone=flow, height=0.0)
    island = width > 26 and rng.random() < 0.4
    if island:
        # An ellipse along the channel; the factor turns its normalised radius into about metres.
        shape = (np.hypot(offset / (0.16 * width), along / 30.0) - 1.0) * (0.16 * width)
        canvas.paint(bank, canvas.inside(shape), height=0.0)
        crowns(scene, canvas.inside(shape + 2), 0.7)
    bridge = rng.random() < 0.2
    if bridge:
        road(scene, np.abs(along - rng.uniform(-60, 60) + 0.2 * across), rng.uniform(6, 10), "asphalt")
    scene.attributes |= {
        "river_width_m": width,
        "island": "yes" if island else "no",
        "bridge": "yes" if bridge else "no",
    }


def beach(scene: Scene) -> None:
    """Sea, surf, sand and the land behind, along a curved shore."""
    rng, canvas = scene.rng, scene.canvas
    lay_ground(scene)
    clutter(scene)
    angle, middle = rng.uniform(0, 2 * math.pi), float(rng.uniform(-40, 55))
    along, across = canvas.full.turned(-middle * math.sin(angle), middle * math.cos(angle), angle)
    curve = rng.uniform(-0.0018, 0.0018) * np.square(along) + rng.uniform(1, 5) * scene.noise((3, 6, 12))
    # Positive seaward.
    sea = across - curve
    sand = rng.uniform(14, 48)
    inland: Array = -sea - sand + 4.0 * scene.noise((4, 8))
    dunes = canvas.inside(np.maximum(inland - 18, -inland - 2))
    canvas.paint({"sand": 0.6, "dry_grass": 0.4}, 0.7 * dunes, tone=1.0 + 0.08 * scene.noise((16, 32)))
    tone = rng.uniform(0.75, 1.1) * (1.0 + 0.05 * scene.noise((8, 32)))
    material = str(rng.choice(("sand", "gravel", "soil_pale"), p=(0.6, 0.2, 0.2)))
    canvas.paint(material, canvas.inside(inland), tone=tone, height=0.0)
    canvas.paint("wet_sand", 0.85 * canvas.inside(-sea - rng.uniform(2, 9)))
    depth = np.clip(sea / rng.uniform(25, 120), 0.0, 1.0)
    murk = rng.uniform(0, 0.6)
    deep = {"water": depth * (1 - murk), "turbid_water": depth * murk}
    canvas.paint({"shallow_water": (1 - depth) * (1 - murk), "wet_sand": (1 - depth) * murk, **deep},
                 canvas.inside(-sea), tone=1.0 + 0.05 * scene.noise((8, 32)), height=0.0)  # fmt: skip
    swell, broken = rng.uniform(9, 16), np.clip(0.75 + 0.5 * scene.noise((6, 12)), 0.0, 1.0)
    lines = int(rng.integers(1, 4))
    for order in range(lines):
        crest = np.abs(sea - 1.5 - order * swell - 2.0 * scene.noise((4, 8)))
        canvas.paint("foam", broken * (0.9 - 0.2 * order) * canvas.line(crest, 4.0 - 0.7 * order))
    scene.attributes |= {"sand_width_m": sand, "beach_of": material, "lines_of_surf": float(lines)}
