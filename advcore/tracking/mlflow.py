"""MLflow, through its client: no global state of it is set."""

import time
from types import ModuleType

from advcore.tracking.base import Opening, Sink, Tracker, Values, flat, importing
from advcore.types import settings

_MOST = 100  # parameters that a server takes at once
_LONGEST = 500  # characters of one


@settings
class MLflow(Tracker):
    """A run of MLflow.

    Parameters
    ----------
    uri : of the tracking server or database, such as http://127.0.0.1:5000 or sqlite:///mlflow.db; null for a database
        in the run's folder.
    experiment : that the run belongs to; made if it is not there.
    """

    uri: str | None = None
    experiment: str = "advcore"

    def load(self) -> ModuleType:
        with importing("mlflow", "mlflow"):
            import mlflow
            import mlflow.entities
        return mlflow

    def open(self, opening: Opening) -> Sink:
        return _Client(self, opening)


class _Client(Sink):
    """What the server holds of a run says how many epochs it was told."""

    def __init__(self, tracker: MLflow, opening: Opening):
        mlflow = tracker.load()
        self.entities = mlflow.entities
        opening.folder.mkdir(parents=True, exist_ok=True)
        uri = tracker.uri or f"sqlite:///{opening.folder.resolve() / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        known = opening.kept.get("id") if opening.kept.get("uri") == tracker.uri else None
        self.id = known or self._created(tracker, opening)
        super().__init__(self._last("loss") + 1, {"id": self.id, "uri": tracker.uri})
        self.client.update_run(self.id, status="RUNNING")

    def _created(self, tracker: MLflow, opening: Opening) -> str:
        found = self.client.get_experiment_by_name(tracker.experiment)
        where = {} if tracker.uri else {"artifact_location": (opening.folder.resolve() / "artifacts").as_uri()}
        experiment = found.experiment_id if found else self.client.create_experiment(tracker.experiment, **where)
        made = self.client.create_run(experiment, run_name=opening.name).info.run_id
        params = [self.entities.Param(key, str(value)[:_LONGEST]) for key, value in flat(opening.config).items()]
        for start in range(0, len(params), _MOST):
            self.client.log_batch(made, params=params[start : start + _MOST])
        return made

    def _last(self, metric: str) -> int:
        return max((one.step for one in self.client.get_metric_history(self.id, metric)), default=-1)

    def _log(self, step: int, values: Values) -> None:
        now = int(1000 * time.time())
        self.client.log_batch(self.id, [self.entities.Metric(name, value, now, step) for name, value in values.items()])

    def log(self, epoch: int, values: Values) -> None:
        self._log(epoch, values)

    def close(self, final: Values | None) -> None:
        if final and self._last("final/relative_cost") < self.told:
            self._log(self.told, final)
        self.client.set_terminated(self.id, status="KILLED" if final is None else "FINISHED")
