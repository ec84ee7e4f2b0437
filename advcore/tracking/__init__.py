"""Where a run's numbers go beside its own files: adapters to trackers, offline unless the run file says otherwise."""

from advcore.tracking.base import Tracker
from advcore.tracking.mlflow import MLflow
from advcore.tracking.tensorboard import TensorBoard
from advcore.tracking.wandb import WandB

TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
ALIASES = {"tb": "tensorboard", "wb": "wandb", "weightsandbiases": "wandb"}
"""What the field calls them, to their names here (`errors.nearest`)."""
_NAMES = {cls: name for name, cls in TRACKERS.items()}


def tracker_name(tracker: Tracker) -> str:
    """Its name in the table. Raises KeyError for what is no tracker of it."""
    return _NAMES[type(tracker)]
