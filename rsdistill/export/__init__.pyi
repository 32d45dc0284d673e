from .formats import EXPORT_FORMATS as EXPORT_FORMATS
from .georef import GeoRef as GeoRef
from .georef import Place as Place
from .tile_validation import Fault as Fault
from .validation import validate_folder as validate_folder
from .writer import export_tiles as export_tiles
