"""The print layout of the QGIS project: map, title, legend, scale bar and what a reader must know."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from xml.etree import ElementTree as ET

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
