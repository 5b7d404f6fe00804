"""Figures, as matplotlib objects that are returned and never shown.

What there is stands in `__init__.pyi`; matplotlib is imported with the first that is asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
