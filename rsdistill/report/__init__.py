"""The report of a run: one HTML file, and the figures in it for use in notebooks.

Names are imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
