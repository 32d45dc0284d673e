from .bands import Band as Band
from .bands import BandSet as BandSet
from .bands import get_bands as get_bands
from .captions import Captions as Captions
from .captions import create_captioner as create_captioner
from .captions import list_captioners as list_captioners
from .classes import ClassInfo as ClassInfo
from .codecs import (
    LatentStore as LatentStore,
)
from .codecs import (
    create_codec as create_codec,
)
from .codecs import (
    encode as encode,
)
from .codecs import (
    list_codecs as list_codecs,
)
from .datasets import list_datasets as list_datasets
from .datasets import load_dataset as load_dataset
from .distilled import DistilledSet as DistilledSet
from .distillers import create_distiller as create_distiller
from .distillers import list_distillers as list_distillers
from .evaluation import evaluate as evaluate
from .export import export_tiles as export_tiles
from .utils.provenance import __version__ as __version__
