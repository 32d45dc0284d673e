"""SyntheticScenes: scenes rendered from geometry and material reflectance spectra."""

from rsdistill.datasets.synthetic.dataset import SYNTHETIC_CLASSES, SyntheticScenes

__all__ = ["SYNTHETIC_CLASSES", "SyntheticScenes"]
