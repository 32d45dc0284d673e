"""The report of a run as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rsdistill.bands import NATURAL_COLOUR
from rsdistill.datasets.base import SceneData
from rsdistill.distilled import DistilledSet
from rsdistill.errors import StorageError
from rsdistill.evaluation import results
from rsdistill.evaluation.leakage import aligned
from rsdistill.evaluation.results import EvaluationReport, Row
from rsdistill.evaluation.spectral import AGREEMENT_CHIPS
from rsdistill.imaging.composites import COMPOSITES
from rsdistill.imaging.spectral_indices import SpectralIndex, available, get_index
from rsdistill.report.figures import accuracy_against_leakage, contact_sheet, shared_limits, training_curves
from rsdistill.report.spectra import class_spectra, index_histograms, over_wavelength, spectral_agreement
from rsdistill.training.callbacks import Curve
from rsdistill.utils.io import complete_file
from rsdistill.utils.options import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_THOUSAND = 1000


percent = partial(results.percent, missing="–")


def storage(count: float) -> str:
    """A number of bytes in decimal units, such as ``1.23 MB``."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < _THOUSAND or unit == "TB":
            break
        count /= _THOUSAND
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"


def duration(seconds: float) -> str:
    """Seconds as ``4.2 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def figure_text(value: Any) -> str:
    """One figure of a stage: numbers to four digits, whole numbers with their thousands apart."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def yaml_text(value: Any) -> str:
    """Options or a manifest as YAML; dataclasses become mappings, paths their text."""
    import yaml

    simple = json.loads(json.dumps(plain(value), default=str))
    return str(yaml.safe_dump(simple, sort_keys=False, allow_unicode=True, width=110))


# Classes a picture, so that a sheet fits a printed page.
_CLASSES_A_SHEET = 10
_CLASSES_A_PLOT = 25


@dataclass(frozen=True)
class Picture:
    """A figure as it lies in the page.

    Attributes:
        source: The PNG as a ``data:`` address.
        alt: What it shows, for those who do not see it.
        width: Pixels on the screen.
    """

    source: str
    alt: str
    width: int

    @classmethod
    def of(cls, figure: Figure, alt: str) -> Picture:
        """Render a figure; equal figures give equal pictures."""
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
        return cls(f"data:image/png;base64,{encoded}", alt, round(96 * figure.get_figwidth()))


def write_report(
    path: str | Path,
    *,
    title: str,
    config: Mapping[str, Any],
    data: SceneData,
    tiles: DistilledSet,
    evaluation: EvaluationReport | None,
    stages: Sequence[Mapping[str, Any]],
    show_real: bool = True,
    columns: int = 5,
    training: Mapping[str, Mapping[str, Curve]] | None = None,
) -> Path:
    """Write the report of a run as one self-contained HTML file, complete or not at all.

    Args:
        path: The file; one that is there is replaced.
        title: Heading of the page.
        config: Options of the run, shown as YAML.
        data: The dataset that the set was made from.
        tiles: The distilled set.
        evaluation: Accuracies and leakage; None if they were not measured.
        stages: ``{"name": str, "seconds": float, "figures": {name: value}}`` of each stage, in order.
        show_real: Whether real chips may be seen; False leaves out all pictures with real pixels, those
            of the set itself if it was selected from real chips.
        columns: Pictures of each class and kind on the contact sheets.
        training: Training logs by stage, see :func:`rsdistill.training.callbacks.training_log`; None leaves them out.

    Returns:
        The file.

    Raises:
        StorageError: If the file cannot be written.
        OptionError: If there is no column.
        BandError: If set and dataset differ in bands.
        UnknownNameError: If the set has a class that the dataset lacks.
    """
    path, tiles = Path(path), aligned(tiles, data)
    visible = show_real or tiles.is_synthetic
    page = render(
        "template.html.j2",
        title=title,
        data=data,
        tiles=tiles,
        evaluation=evaluation,
        stages=stages,
        config=yaml_text(config),
        manifest=yaml_text(tiles.manifest),
        recipe=None if evaluation is None else yaml_text(evaluation.recipe),
        sizes=_sizes(data, tiles),
        cards=_cards(data, tiles, evaluation),
        real_shown=show_real,
        comparison=_comparison(evaluation),
        sheets=list(_sheets(data, tiles, columns, show_real)) if visible else [],
        prompts=_prompts(tiles) if "captions" in tiles.manifest else [],
        index=_page_index(data),
        **_spectral_plots(data, tiles),
        spectrum_chips=AGREEMENT_CHIPS,
        curves=_curves(training or {}),
    )
    write_page(path, page)
    return path


def verdict(row: Row) -> str:
    """What the leakage figures of a row say, in words."""
    if row.held_out_null is None:
        return "–"
    if not row.synthetic:
        return "by definition"
    if row.held_out_low is not None and row.held_out_low > 0.5:
        return "shown"
    return "copies flagged" if row.copy_rate else "none shown"


def render(template: str, **values: Any) -> str:
    """A page from one of the templates beside this module; a name that it lacks is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("rsdistill.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": duration,
        "figure_text": figure_text,
        "storage": storage,
    }
    environment.globals |= {"percent": percent, "verdict": verdict}
    return environment.get_template(template).render(**values)


def write_page(path: Path, page: str) -> None:
    """Write a page, complete or not at all.

    Raises:
        StorageError: If the file cannot be written.
    """
    if path.is_dir():
        raise StorageError(f"{path} is a folder; name a file in it, such as {path / 'report.html'}")
    with complete_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _sizes(data: SceneData, tiles: DistilledSet) -> dict[str, float]:
    """Bytes of pixels and labels, uncompressed, of the set and of the training chips."""
    labels = tiles.label if tiles.soft_label is None else tiles.soft_label
    made = tiles.image.nbytes + labels.nbytes
    chip = data.train.images(np.array([0]))
    original = len(data.train) * (chip.nbytes + data.train.labels.itemsize)
    return {"set": made, "train": original, "ratio": original / max(made, 1)}


def _own_row(tiles: DistilledSet, evaluation: EvaluationReport | None) -> Row | None:
    """The evaluation's row of this very set: hard labels before soft ones."""
    method = tiles.manifest.get("method")
    rows = [r for r in evaluation.rows if r.method == method and r.ipc == tiles.ipc] if evaluation else []
    return min(rows, key=lambda row: row.label_type != "hard", default=None)


def _cards(data: SceneData, tiles: DistilledSet, evaluation: EvaluationReport | None) -> list[tuple[str, str]]:
    """Key figures as pairs of figure and words."""
    sizes = _sizes(data, tiles)
    cards = [
        (f"{len(tiles)}", f"images instead of {len(data.train)}"),
        (f"{100 / sizes['ratio']:.2g} %", f"of the storage: {storage(sizes['set'])}"),
    ]
    row = _own_row(tiles, evaluation)
    if row is not None:
        cards.append((f"{percent(row.oa)} %", f"overall accuracy of a {row.student} trained on them"))
        if row.held_out_null is not None:
            words = f"have a training chip as nearest neighbour (50 % without a leak); leakage: {verdict(row)}"
            cards.append((f"{percent(row.held_out_null, digits=0)} %", words))
    if tiles.verdict is not None:
        blocked, review = (sum(verdict == name for verdict in tiles.verdict) for name in ("block", "review"))
        cards.append((f"{blocked}", f"blocked by the audit as likely copies, {review} to be looked at (audit.html)"))
    return cards


def _comparison(evaluation: EvaluationReport | None) -> Picture | None:
    """Accuracy beside leakage, where both were measured."""
    rows = [r for r in evaluation.rows if r.held_out_null is not None] if evaluation else []
    if evaluation is None or not rows:
        return None
    told = "; ".join(
        f"{r.method} {percent(r.oa)} % accuracy, {percent(r.held_out_null, digits=0)} % nearest to a training chip"
        for r in rows
    )
    return Picture.of(accuracy_against_leakage(evaluation), f"Accuracy beside leakage of each method: {told}.")


def _curves(training: Mapping[str, Mapping[str, Curve]]) -> Picture | None:
    """How training went, where a log says so."""
    stages = [stage for stage, curves in training.items() if curves]
    alt = f"Losses and accuracies over the optimiser steps of stages {', '.join(stages)}."
    return Picture.of(training_curves(training), alt) if stages else None


def _sheets(
    data: SceneData, tiles: DistilledSet, columns: int, show_real: bool
) -> Iterator[tuple[str, Sequence[Picture]]]:
    """Contact sheets by colour: a caption and its pictures, some classes each."""
    natural = "Natural colour" if data.bands.has(NATURAL_COLOUR) else "First bands"
    captions = {"natural": natural, "false": "False colour: near infrared, red and green shown as red, green and blue"}
    for colour, wavelengths in COMPOSITES.items():
        if colour != "natural" and not data.bands.has(wavelengths):
            continue
        limits = shared_limits(data, colour)
        pictures = []
        for keys in _parts(_class_keys(tiles), _CLASSES_A_SHEET):
            sheet = contact_sheet(data, tiles, keys, columns, colour, show_real=show_real, limits=limits)
            kinds = "Original training chips beside distilled images" if show_real else "Distilled images"
            pictures.append(
                Picture.of(sheet, f"{kinds} in {captions[colour].lower()}, a row a class: {', '.join(keys)}.")
            )
        yield captions[colour], pictures


def _plots(tiles: DistilledSet, draw: Callable[[Sequence[str]], Figure], alt: str) -> Iterator[Picture]:
    """Plots of all classes of the set, some classes each; their names end the text ``alt``."""
    for keys in _parts(_class_keys(tiles), _CLASSES_A_PLOT):
        yield Picture.of(draw(keys), f"{alt}: {', '.join(keys)}.")


def _spectral_plots(data: SceneData, tiles: DistilledSet) -> dict[str, list[Picture]]:
    """Mean spectra; their agreement as numbers, where there are spectra (three bands have colours); an index."""
    each, index = "one small plot a class", _page_index(data)
    alt = f"Mean value by band of original and distilled images, {each}"
    plots = {"spectra": list(_plots(tiles, lambda keys: class_spectra(data, tiles, keys), alt))}
    plots["agreement"], plots["histograms"] = [], []
    if over_wavelength(data.bands):
        alt = "Correlation and distance of the mean spectra and distance of spectral indices"
        plots["agreement"] = list(_plots(tiles, lambda keys: spectral_agreement(data, tiles, keys), alt))
    if index is not None:
        alt = f"Distribution of {index.title} in original and distilled images, {each}"
        plots["histograms"] = list(_plots(tiles, lambda keys: index_histograms(data, tiles, index.name, keys), alt))
    return plots


def _page_index(data: SceneData) -> SpectralIndex | None:
    """The first index that the bands allow, NDVI where there is near infrared; None where they allow none."""
    names = available(data.bands)
    return get_index(names[0]) if names else None


def _prompts(tiles: DistilledSet) -> list[tuple[str, list[str]]]:
    """Readable name and prompts of each class, in the order of its images."""
    return [
        (tiles.classes[label].name, [tiles.caption[i] for i in np.flatnonzero(tiles.label == label).tolist()])
        for label in np.unique(tiles.label)
    ]


def _class_keys(tiles: DistilledSet) -> list[str]:
    return [tiles.classes[label].key for label in np.unique(tiles.label)]


def _parts(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Runs of about equal length, none longer than ``size``."""
    for part in np.array_split(np.arange(len(keys)), -(-len(keys) // size)):
        yield [keys[i] for i in part]
