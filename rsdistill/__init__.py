"""Distil remote-sensing scene datasets into small synthetic ones.

Names are imported when first used, so that ``import rsdistill`` loads no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
