"""Runs at scale: a grid of settings, as lanes that train at once and go on from what is on disk.

From the bottom up: `logs`, `cubes` and `storage` (the folder of a study), `grids` (its lanes),
`study` (what they share), `keeping` (what stays of them), `running`, and `plans` (what it takes).

`Study`, `parameters` and `run_group` are imported when they are asked for.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
