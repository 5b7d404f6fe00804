"""Runs at scale: a grid of settings, as lanes that train at once and go on from what is on disk.

From the bottom up: `logs`, `cubes` and `storage` (the folder of a study), `states` (what its
lanes go on from), `grids` (its lanes), `study` (what they share), `keeping` (what stays of them),
`running`, and `plans` (what it takes).

`Study`, `parameters` and `run_group` are imported when they are asked for.

>>> import pathlib, tempfile, xarray
>>> from deqbilevel.studies import grids, storage
>>> axes = {"task": ["denoising"], "model": ["deq"], "noise": [0.1], "tau": [0.5]}
>>> axes |= {"gamma": [0.1], "activation": ["relu"]}
>>> model, u = models.build("denoising", "deq", (1, 2)), np.array([[0.5, -0.5]], np.float32)
>>> options = {"seed": 0, "lanes": lanes.lanes(), "pictures": 1, "keep": "all"}
>>> study = studies.Study(settings.SETTINGS["fast"], 0, 1, 1e-3, **options)  # 0 epochs
>>> shown, some = dict.fromkeys(results.PICTURES, (1, 2)), grids.grid(axes)
>>> with tempfile.TemporaryDirectory() as folder:
...     store = storage.Storage(pathlib.Path(folder), axes, 0, learning.RECORDS, shown)
...     store.create(xarray.Dataset())
...     studies.run_group(model, some, study, u, u, store, storage.nothing(store, some))
...     found, kept = results.read(folder), studies.parameters(folder, model="deq")
...     print(found.test_loss.shape, kept["A"].shape)
(1, 1, 1, 1, 1, 1, 1) (2, 2)
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
