"""What is common to all runs of a study, and how they are run."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from deqbilevel import learning
from deqbilevel.lanes import Lanes
from deqbilevel.models import Model
from deqbilevel.settings import Setting
from deqbilevel.studies import grids
from deqbilevel.studies.storage import Lane
from deqbilevel.types import Params


class Study(NamedTuple):
    """What is common to all lanes of a study, and how they are run.

    >>> study = studies.Study(settings.SETTINGS["fast"], 2, 100, 1e-3, seed=0, lanes=lanes.lanes())
    >>> print(study.over({0: {}}), study.over({0: {}, 1: {}, 2: {}}))  # at the last epoch
    False True
    """

    setting: Setting
    epochs: int
    batch_size: int
    learning_rate: float
    """Of a lane without an axis of that name; likewise the seed."""
    seed: int
    lanes: Lanes
    pictures: int = 5
    keep: Literal["none", "best", "all"] = "none"
    """Whose final parameters stay on disk: nobody's, the best of each task, model and noise, or
    everybody's."""
    hours: float | None = None
    """Of training and evaluation, after which a run ends with the epoch that it is in."""

    def over(self, records: Mapping[int, Mapping[str, Any]]) -> bool:
        """Whether a run with these records, by epoch, is at its last one or has used its time."""
        if self.epochs in records or self.hours is None:
            return self.epochs in records
        spent = sum(r["seconds"] + r["evaluation_seconds"] for r in records.values())
        return bool(spent >= 3600 * self.hours)

    def hyperparameters(self, lane: Lane) -> Params:
        """The scalars of a lane. Raises: ValueError, see `grids.scalars`."""
        return grids.scalars({"learning_rate": self.learning_rate} | lane)

    def of(self, model: Model, lanes: Sequence[Lane]) -> tuple[Model, "Study"]:
        """Model and study as the lanes of a group run them, whose window is the same for all; where
        all are linear by `learning.directly`."""
        window = lanes[0].get("window", self.setting.window)
        only = "identity" if all(map(grids.linear, lanes)) else None
        study = self._replace(setting=self.setting._replace(window=window))
        return learning.directly(model, study.setting, only, self.batch_size), study

    def keys(self, lane: Lane) -> Any:
        """The random keys of a lane: initial weights, order and noise of training, pictures (whose
        noise `run_group` takes from the study's own seed, so that all runs show the same)."""
        return learning.keys(lane.get("seed", self.seed))
