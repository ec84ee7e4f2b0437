"""Where a run's numbers go beside its own files: adapters to trackers, offline unless the run file says otherwise."""

from advcore.tracking.mlflow import MLflow
from advcore.tracking.tensorboard import TensorBoard
from advcore.tracking.wandb import WandB

TRACKERS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}
