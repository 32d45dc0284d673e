"""The QGIS project as XML, made without QGIS: relative paths, index on top, a group a class, a layout."""

from __future__ import annotations

import uuid
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from rsdistill.export.georef import ENGINEERING, ENGINEERING_NAME, REAL_PLACE
from rsdistill.export.metadata import ALL, INDEX, INDEX_LAYER, PROJECT, Facts, Tile
from rsdistill.export.overview import Mosaic, needs_mask
from rsdistill.export.qgis_style import QGIS_VERSION, Composite, add_footprint_style, add_raster_pipe, to_text
from rsdistill.utils.io import complete_file

Box = tuple[float, float, float, float]

# QGIS's numbers for the kinds of layout items.
_PAGE, _MAP, _LABEL, _LEGEND, _SCALE_BAR = "65638", "65639", "65641", "65642", "65646"
_PAGE_SIZE = (297.0, 210.0)
_MAP_FRAME = (10.0, 24.0, 207.0, 160.0)
_SPACE = uuid.UUID("5b0f3a0e-6f0c-4a43-9e0d-2f5b7a1c4d10")


def add_layout(
    parent: ET.Element,
    name: str,
    title: str,
    notices: Sequence[str],
    box: Box,
    legend: tuple[str, str],
) -> None:
    """Add a landscape A4 sheet to a project.

    Args:
        parent: The project.
        name: Name of the layout.
        title: Heading of the sheet.
        notices: Sentences below the map.
        box: Left, bottom, right, top of what the map shows, in the project's CRS.
        legend: Id and name of the layer that the legend explains.
    """
    layouts = ET.SubElement(parent, "Layouts")
    layout = ET.SubElement(layouts, "Layout", name=name, units="mm", printResolution="200", worldFileMap="")
    pages = ET.SubElement(layout, "PageCollection")
    _item(pages, _PAGE, (0.0, 0.0, *_PAGE_SIZE), background="true")
    _map(layout, box)
    _label(layout, title, (10.0, 8.0, 277.0, 12.0), size=16)
    _label(layout, " ".join(notices), (10.0, 187.0, 207.0, 18.0), size=8)
    _legend(layout, legend)
    _scale_bar(layout)


def _item(parent: ET.Element, kind: str, place: Box, z: int = 0, **attributes: str) -> ET.Element:
    x, y, width, height = place
    common = {
        "type": kind,
        "uuid": _identity(kind, place),
        "position": f"{x:g},{y:g},mm",
        "positionOnPage": f"{x:g},{y:g},mm",
        "size": f"{width:g},{height:g},mm",
        "zValue": str(z),
        "visibility": "1",
        "opacity": "1",
        "referencePoint": "0",
    }
    return ET.SubElement(parent, "LayoutItem", {**common, **attributes})


def _identity(kind: str, place: Box) -> str:
    """The same identity for the same item each time, so that a project is reproducible."""
    return f"{{{uuid.uuid5(_SPACE, f'{kind}{place}')}}}"


def _map(layout: ET.Element, box: Box) -> None:
    left, bottom, right, top = _fit(box, _MAP_FRAME[2] / _MAP_FRAME[3])
    element = _item(layout, _MAP, _MAP_FRAME, z=1, frame="true", background="true", keepLayerSet="false")
    ET.SubElement(element, "Extent", xmin=repr(left), ymin=repr(bottom), xmax=repr(right), ymax=repr(top))


def _fit(box: Box, aspect: float) -> Box:
    """A box of this aspect (width over height) around another, with a little air."""
    left, bottom, right, top = box
    width, height = 1.04 * (right - left), 1.04 * (top - bottom)
    width, height = max(width, height * aspect), max(height, width / aspect)
    x, y = (left + right) / 2, (bottom + top) / 2
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _label(layout: ET.Element, text: str, frame: Box, size: int) -> None:
    element = _item(layout, _LABEL, frame, z=2, labelText=text, htmlState="0", halign="1", valign="32")
    ET.SubElement(element, "LabelFont", description=f"Sans Serif,{size},-1,5,50,0,0,0,0,0", style="")
    ET.SubElement(element, "FontColor", red="0", green="0", blue="0", alpha="255")


def _legend(layout: ET.Element, layer: tuple[str, str]) -> None:
    identity, name = layer
    frame = (220.0, 24.0, 67.0, 150.0)
    element = _item(
        layout, _LEGEND, frame, z=3, title="", map_uuid=_identity(_MAP, _MAP_FRAME), resizeToContents="1",
        columnCount="1", symbolWidth="7", symbolHeight="4", background="true", fontColor="#000000",
    )  # fmt: skip
    styles = ET.SubElement(element, "styles")
    for kind, size in (("title", 12), ("group", 11), ("subgroup", 10), ("symbol", 9), ("symbolLabel", 9)):
        style = ET.SubElement(styles, "style", name=kind, alignment="1", marginTop="2", marginLeft="2")
        ET.SubElement(style, "styleFont", description=f"Sans Serif,{size},-1,5,50,0,0,0,0,0", style="")
    tree = ET.SubElement(element, "layer-tree-group")
    ET.SubElement(tree, "layer-tree-layer", id=identity, name=name, checked="Qt::Checked", expanded="1")


def _scale_bar(layout: ET.Element) -> None:
    element = _item(
        layout, _SCALE_BAR, (220.0, 176.0, 67.0, 12.0), z=4, style="Single Box",
        mapUuid=_identity(_MAP, _MAP_FRAME), unitType="meters", unitLabel="m", numMapUnitsPerScaleBarUnit="1",
        numSegments="2", numSegmentsLeft="0", segmentSizeMode="1", minBarWidth="25", maxBarWidth="50", height="3",
        labelBarSpace="2", boxContentSpace="1", outlineWidth="0.3", lineJoinStyle="miter", lineCapStyle="square",
    )  # fmt: skip
    ET.SubElement(element, "text-style", fontFamily="Sans Serif", fontSize="9", fontSizeUnit="Point")


PROJECT_FILE = "project.qgs"
LAYOUT_NAME = "Contact sheet"
# QGIS takes no id of ten characters or fewer.
_INDEX_ID, _INDEX_NAME = "rsdistill_tile_index", "tile index"
_RASTER_ID = "rsdistill_mosaic_{mosaic}_{composite}"
# A fixed time keeps the archive the same for the same content.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class _Layer:
    """One mosaic shown with one composite."""

    identity: str
    mosaic: Mosaic
    composite: Composite
    shown: bool

    @property
    def source(self) -> str:
        return f"./{self.mosaic.path}"

    @property
    def name(self) -> str:
        return f"{self.mosaic.title}, {self.composite.title}"


def write_project(
    folder: Path, tiles: Sequence[Tile], facts: Facts, mosaics: Sequence[Mosaic], composites: Sequence[Composite]
) -> None:
    """Write the project.

    Args:
        folder: The exported folder.
        tiles: The tiles.
        facts: What they share.
        mosaics: From :func:`rsdistill.export.overview.write_mosaics`.
        composites: Natural colour first, then false colour where there is one.

    Raises:
        StorageError: If the folder cannot be written.
    """
    text = to_text(_project(tiles, facts, mosaics, composites))
    with complete_file(folder / PROJECT) as partial, zipfile.ZipFile(partial, "w") as archive:
        entry = zipfile.ZipInfo(PROJECT_FILE, _ZIP_TIME)
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, text)


def _project(
    tiles: Sequence[Tile], facts: Facts, mosaics: Sequence[Mosaic], composites: Sequence[Composite]
) -> ET.Element:
    title = f"{'Synthetic' if facts.synthetic else 'Real'} tiles of {facts.dataset} ({facts.method})"
    layers = _layers(mosaics, composites)
    box = mosaics[-1].box if mosaics else None
    root = ET.Element("qgis", version=QGIS_VERSION, projectname=title)
    ET.SubElement(root, "homePath", path="")
    ET.SubElement(root, "title").text = title
    wkt = tiles[0].spot.wkt if mosaics or facts.georeferencing != REAL_PLACE else "EPSG:4326"
    _crs(ET.SubElement(root, "projectCrs"), wkt, facts)
    _tree(root, layers)
    project_layers = ET.SubElement(root, "projectlayers")
    _index_layer(project_layers, tiles, wkt, facts)
    for layer in layers:
        _raster_layer(project_layers, layer, wkt, facts)
    order = ET.SubElement(root, "layerorder")
    for identity in (_INDEX_ID, *(layer.identity for layer in layers)):
        ET.SubElement(order, "layer", id=identity)
    if box is not None:
        _canvas(root, box, wkt, facts)
        add_layout(root, LAYOUT_NAME, title, facts.notices, box, (_INDEX_ID, _INDEX_NAME))
    properties = ET.SubElement(root, "properties")
    ET.SubElement(ET.SubElement(properties, "Paths"), "Absolute", type="bool").text = "false"
    # Without this QGIS leaves the project's CRS aside.
    enabled = ET.SubElement(ET.SubElement(properties, "SpatialRefSys"), "ProjectionsEnabled", type="int")
    enabled.text = "1"
    return root


def _layers(mosaics: Sequence[Mosaic], composites: Sequence[Composite]) -> list[_Layer]:
    """Every mosaic in every composite; at first only all tiles in natural colour are switched on."""
    return [
        _Layer(
            _RASTER_ID.format(mosaic=mosaic.name, composite=composite.name),
            mosaic,
            composite,
            mosaic.name == ALL and number == 0,
        )
        for mosaic in mosaics
        for number, composite in enumerate(composites)
    ]


def _tree(root: ET.Element, layers: Sequence[_Layer]) -> None:
    tree = ET.SubElement(root, "layer-tree-group")
    _tree_layer(tree, _INDEX_ID, _INDEX_NAME, f"./{INDEX}|layername={INDEX_LAYER}", "ogr", shown=True)
    everything = _group(tree, "all tiles", expanded=True)
    classes = _group(tree, "classes", expanded=True)
    groups: dict[str, ET.Element] = {ALL: everything}
    for layer in layers:
        name = layer.mosaic.name
        if name not in groups:
            groups[name] = _group(classes, layer.mosaic.title, expanded=False)
        _tree_layer(groups[name], layer.identity, layer.name, layer.source, "gdal", layer.shown)


def _group(parent: ET.Element, name: str, expanded: bool) -> ET.Element:
    return ET.SubElement(
        parent, "layer-tree-group", name=name, checked="Qt::Checked", expanded="1" if expanded else "0"
    )


def _tree_layer(parent: ET.Element, identity: str, name: str, source: str, provider: str, shown: bool) -> None:
    checked = "Qt::Checked" if shown else "Qt::Unchecked"
    ET.SubElement(
        parent, "layer-tree-layer", id=identity, name=name, source=source, providerKey=provider, checked=checked,
        expanded="0",
    )  # fmt: skip


def _index_layer(parent: ET.Element, tiles: Sequence[Tile], wkt: str, facts: Facts) -> None:
    layer = ET.SubElement(parent, "maplayer", type="vector", geometry="Polygon", wkbType="Polygon", labelsEnabled="1")
    source = f"./{INDEX}|layername={INDEX_LAYER}"
    _identify(layer, _INDEX_ID, _INDEX_NAME, source, "ogr", wkt, facts)
    names = {tile.label: tile.class_name for tile in tiles}
    add_footprint_style(layer, [names[label] for label in sorted(names)], facts.size[1] * facts.gsd)
    ET.SubElement(layer, "previewExpression").text = '"tile"'
    ET.SubElement(layer, "mapTip").text = '<b>[% "tile" %]</b><br>[% "caption" %]'


def _raster_layer(parent: ET.Element, layer: _Layer, wkt: str, facts: Facts) -> None:
    element = ET.SubElement(parent, "maplayer", type="raster")
    _identify(element, layer.identity, layer.name, layer.source, "gdal", wkt, facts)
    # QGIS shows the mask of a mosaic as a band after the last.
    add_raster_pipe(element, layer.composite, alpha_band=len(facts.bands) + 1 if needs_mask(facts) else None)


def _identify(layer: ET.Element, identity: str, name: str, source: str, provider: str, wkt: str, facts: Facts) -> None:
    ET.SubElement(layer, "id").text = identity
    ET.SubElement(layer, "datasource").text = source
    ET.SubElement(layer, "layername").text = name
    _crs(ET.SubElement(layer, "srs"), wkt, facts)
    ET.SubElement(layer, "provider", encoding="UTF-8" if provider == "ogr" else "").text = provider


def _crs(parent: ET.Element, wkt: str, facts: Facts) -> None:
    """A CRS in QGIS's words: by its text, and by its code where it has one."""
    system = ET.SubElement(parent, "spatialrefsys", nativeFormat="Wkt")
    if facts.georeferencing == ENGINEERING:
        ET.SubElement(system, "wkt").text = wkt
        ET.SubElement(system, "description").text = ENGINEERING_NAME
        ET.SubElement(system, "geographicflag").text = "false"
        return
    from pyproj import CRS

    crs = CRS.from_user_input(wkt)
    ET.SubElement(system, "wkt").text = crs.to_wkt()
    if (code := crs.to_epsg()) is not None:
        ET.SubElement(system, "srid").text = str(code)
        ET.SubElement(system, "authid").text = f"EPSG:{code}"
    ET.SubElement(system, "description").text = crs.name
    ET.SubElement(system, "geographicflag").text = "true" if crs.is_geographic else "false"


def _canvas(root: ET.Element, box: Box, wkt: str, facts: Facts) -> None:
    canvas = ET.SubElement(root, "mapcanvas", name="theMapCanvas", annotationsVisible="1")
    ET.SubElement(canvas, "units").text = "meters"
    extent = ET.SubElement(canvas, "extent")
    for name, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
        ET.SubElement(extent, name).text = repr(value)
    ET.SubElement(canvas, "rotation").text = "0"
    _crs(ET.SubElement(canvas, "destinationsrs"), wkt, facts)
