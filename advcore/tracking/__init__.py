"""Adapters that send a run's numbers to experiment trackers; offline unless the run file says otherwise."""

from advcore.tracking.base import Tracker
from advcore.tracking.mlflow import MLflow
from advcore.tracking.tensorboard import TensorBoard
from advcore.tracking.wandb import WandB

TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
# Other common names of trackers, with their names in the table (`errors.suggest_nearest`).
ALIASES = {"tb": "tensorboard", "wb": "wandb", "weightsandbiases": "wandb"}


def find_tracker_name(tracker: Tracker) -> str:
    """Return a tracker's name in the table. Raises KeyError for a class that is not in it."""
    names = {cls: name for name, cls in TRACKERS.items()}
    return names[type(tracker)]
