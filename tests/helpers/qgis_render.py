"""Open an exported folder in a headless QGIS and say what it shows; runs under the Python that QGIS belongs to.

Usage: qgis_render.py FOLDER OUT
Writes OUT/result.json, and pictures of the project, of its layout, and of one tile by its own style.
"""

import json
import os
import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsLayoutExporter,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

WIDTH = 1000


def draw(layers, extent, crs, path, width=WIDTH):
    """Draw layers, the first on top, and save the picture; returns it."""
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setDestinationCrs(crs)
    settings.setBackgroundColor(QColor(255, 255, 255))
    settings.setOutputSize(QSize(width, max(1, round(width * extent.height() / extent.width()))))
    settings.setExtent(extent)
    settings.setFlag(QgsMapSettings.Antialiasing, False)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    image = job.renderedImage()
    image.save(str(path))
    return image


def pixels(image, settings):
    """Colours of a picture at fractions of its width and height."""
    width, height = image.width(), image.height()
    found = []
    for x, y in settings:
        colour = image.pixelColor(min(width - 1, int(x * width)), min(height - 1, int(y * height)))
        found.append([colour.red(), colour.green(), colour.blue()])
    return found


def main(folder, out):
    """Open, check and draw."""
    request = json.loads((out / "request.json").read_text())
    project = QgsProject.instance()
    result = {"opened": project.read(str(folder / "project.qgz"))}
    layers = project.mapLayers()
    result["layers"] = {
        layer.name(): {
            "valid": layer.isValid(),
            "crs": layer.crs().description(),
            "crs_valid": layer.crs().isValid(),
            "inside": str(folder.resolve()) in layer.source(),
        }
        for layer in layers.values()
    }
    index = layers["rsdistill_tile_index"]
    result["categories"] = [category.label() for category in index.renderer().categories()]
    result["labels"] = index.labelsEnabled() and index.labeling().settings().fieldName
    result["groups"] = [group.name() for group in project.layerTreeRoot().findGroups(True)]
    crs = project.crs()
    result["crs"] = crs.description()
    views = {name: [layers[identity] for identity in ids] for name, ids in request["views"].items()}
    for name, shown in views.items():
        image = draw(shown, shown[-1].extent(), crs, out / f"{name}.png")
        result[name] = pixels(image, request["pixels"].get(name, []))
    alone = QgsVectorLayer(f"{folder / 'index.gpkg'}|layername=tiles", "alone", "ogr")
    result["index_alone"] = {
        "valid": alone.isValid(),
        "renderer": alone.renderer().type(),
        "labels": alone.labelsEnabled(),
    }
    for name, (path, points) in request["tiles"].items():
        tile = QgsRasterLayer(str(folder / path), name)
        result[f"tile {name}"] = {
            "valid": tile.isValid(),
            "bands": [tile.bandName(number + 1) for number in range(tile.bandCount())],
            "pixels": pixels(draw([tile], tile.extent(), tile.crs(), out / f"{name}.png", 256), points),
        }
    layout = project.layoutManager().layoutByName("Contact sheet")
    settings = QgsLayoutExporter.ImageExportSettings()
    settings.dpi = 100
    exported = QgsLayoutExporter(layout).exportToImage(str(out / "layout.png"), settings)
    result["layout"] = exported == QgsLayoutExporter.Success
    (out / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    application = QgsApplication([], False)
    application.initQgis()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
    # Leaving through exitQgis() with layers alive aborts.
    sys.stdout.flush()
    os._exit(0)
