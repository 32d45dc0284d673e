"""The screen for what comes out: generated tiles that look like an excluded class are held back and replaced.

Names are imported when first used, so that options and reports load no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
