"""Evaluation of a distilled set: students trained on it, beside random real chips and the full data.

Names are imported when first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
