"""A small dataset, set and evaluation with known content for the tests of the report."""

import numpy as np

from rsdistill.bands import get_bands
from rsdistill.classes import ClassInfo
from rsdistill.datasets.base import SceneData, SceneSource, SceneView
from rsdistill.distilled import DistilledSet
from rsdistill.evaluation.results import EvaluationReport, Row
from rsdistill.utils.provenance import SYNTHETIC

REAL_METHOD = "random"
PER_CLASS, SIDE = 10, 16


class TrialSource(SceneSource):
    """Three classes of known mean: 1000, 2000 and 3000 in the first band, doubled in the second, and so on."""

    name = "trial"
    classes = (ClassInfo("river", "river"), ClassInfo("solar_farm", "solar farm"), ClassInfo("forest", "forest"))
    gsd = 3.0
    licence, citation = "CC0-1.0", "Nobody (2026), Trial."

    def __init__(self, sensor="bgrn", reverse=False):
        self.bands = get_bands(sensor)
        self.labels = np.repeat(np.arange(3), PER_CLASS)
        self.chip_ids = [f"chip{n}" for n in range(len(self.labels))]
        self._reverse = reverse

    def read(self, index):
        low, high = self.bands.valid_range
        level = (self.labels[index] + 1) * 0.1 * np.linspace(1, 2, len(self.bands))[:, None, None]
        noise = np.random.default_rng(index).normal(0, 0.02, (len(self.bands), SIDE, SIDE))
        chip = (low + (high - low) * np.clip(level + noise - noise.mean((1, 2), keepdims=True), 0, 1)).round()
        chip = chip.astype(self.bands.dtype)
        return chip[:, ::-1, ::-1] if self._reverse else chip


def make_data(sensor="bgrn"):
    source = TrialSource(sensor)
    slot = np.arange(len(source)) % PER_CLASS
    train, val, test = (np.flatnonzero(m) for m in (slot < 8, slot == 8, slot == 9))
    return SceneData(source, SceneView(source, train), SceneView(source, val), SceneView(source, test))


def make_tiles(data, per_class=2, **manifest):
    """The first chips of each class, upside down."""
    chosen = np.concatenate([np.flatnonzero(data.train.labels == k)[:per_class] for k in range(len(data.classes))])
    return DistilledSet(
        image=data.train.images(chosen)[:, :, ::-1],
        label=data.train.labels[chosen],
        classes=data.classes,
        bands=data.bands,
        gsd=data.gsd,
        manifest={
            "method": "dpd",
            "seed": 7,
            "ipc": per_class,
            "dataset": {"name": data.name, "licence": data.licence, "citation": data.citation},
            "digital_source_type": SYNTHETIC,
            "versions": {"numpy": "2.0"},
            **manifest,
        },
    )


def make_row(method, oa, null, *, synthetic=True, ipc=2, label_type="hard", std=0.02):
    rate, low, high = null or (None, None, None)
    kappa = None if std is None else 0.03
    return Row(
        method, ipc, "convnet", label_type, synthetic, oa, std, oa - 0.01, std, oa - 0.195, kappa,
        rate, low, high, None if rate is None else float(not synthetic), 2, 4, 12336,
    )  # fmt: skip


def make_evaluation():
    rows = (
        make_row("dpd", 0.61, (0.55, 0.43, 0.67)),
        make_row(REAL_METHOD, 0.58, (1.0, 0.94, 1.0), synthetic=False),
        make_row("full", 0.9, None, synthetic=False, ipc=None),
    )
    return EvaluationReport("trial", {"student": "convnet", "steps": 60}, (0, 1), 3, rows)
