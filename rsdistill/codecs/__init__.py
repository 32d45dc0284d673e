"""Codecs between chips and latents, and the store that keeps latents."""

from rsdistill.codecs import kl as _kl  # noqa: F401 - registers the codec
from rsdistill.codecs import pretrained as _pretrained  # noqa: F401 - registers two codecs
from rsdistill.codecs import spectral as _spectral  # noqa: F401 - registers the codec
from rsdistill.codecs import tiny as _tiny  # noqa: F401 - registers the codec
from rsdistill.codecs.base import CODECS, Codec, create_codec, list_codecs, load_codec
from rsdistill.codecs.store import LatentBatch, LatentStore, encode
from rsdistill.imaging.pixels import dihedral

__all__ = [
    "CODECS",
    "Codec",
    "LatentBatch",
    "LatentStore",
    "create_codec",
    "dihedral",
    "encode",
    "list_codecs",
    "load_codec",
]
