"""MLflow, through its client: none of its global state is set."""

import time
from types import ModuleType

from advcore.settings import settings
from advcore.tracking.base import Opening, Sink, Tracker, Values, flatten, import_quietly

_MOST_PARAMETERS = 100  # that a server accepts at once
_LONGEST = 500  # characters of a parameter


@settings
class MLflow(Tracker):
    """A run of MLflow.

    Parameters
    ----------
    uri : of the tracking server or database, such as http://127.0.0.1:5000 or sqlite:///mlflow.db; null for a database
        in the run's folder.
    experiment : that the run belongs to; created if it does not exist.
    """

    uri: str | None = None
    experiment: str = "advcore"

    def load(self) -> ModuleType:
        with import_quietly("mlflow", "mlflow"):
            import mlflow
            import mlflow.entities
        return mlflow

    def open(self, opening: Opening) -> Sink:
        return _Client(self, opening)


class _Client(Sink):
    """A run on the server, which itself knows how many epochs it holds."""

    def __init__(self, tracker: MLflow, opening: Opening) -> None:
        mlflow = tracker.load()
        self.entities = mlflow.entities
        opening.folder.mkdir(parents=True, exist_ok=True)
        uri = tracker.uri or f"sqlite:///{opening.folder.resolve() / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(tracking_uri=uri)
        is_same_server = opening.state.get("uri") == tracker.uri
        self.id = is_same_server and opening.state.get("id") or self._create_run(tracker, opening)
        super().__init__(self._find_last_step("loss") + 1, {"id": self.id, "uri": tracker.uri})
        self.client.update_run(self.id, status="RUNNING")

    def _create_run(self, tracker: MLflow, opening: Opening) -> str:
        run_id = self.client.create_run(self._ensure_experiment(tracker, opening), run_name=opening.name).info.run_id
        params = [self.entities.Param(key, str(value)[:_LONGEST]) for key, value in flatten(opening.config).items()]
        for start in range(0, len(params), _MOST_PARAMETERS):
            self.client.log_batch(run_id, params=params[start : start + _MOST_PARAMETERS])
        return run_id

    def _ensure_experiment(self, tracker: MLflow, opening: Opening) -> str:
        """Return the id of the experiment, which is created if it does not exist."""
        experiment = self.client.get_experiment_by_name(tracker.experiment)
        if experiment:
            return experiment.experiment_id
        artifacts = None if tracker.uri else (opening.folder.resolve() / "artifacts").as_uri()
        return self.client.create_experiment(tracker.experiment, artifact_location=artifacts)

    def _find_last_step(self, metric: str) -> int:
        """Return the last step for which the server holds that metric, -1 without any."""
        return max((entry.step for entry in self.client.get_metric_history(self.id, metric)), default=-1)

    def log(self, epoch: int, values: Values) -> None:
        now = int(1000 * time.time())
        self.client.log_batch(
            self.id, [self.entities.Metric(name, value, now, epoch) for name, value in values.items()]
        )

    def close(self, final: Values | None) -> None:
        if final and self._find_last_step("final/relative_cost") < self.epochs_logged:
            self.log(self.epochs_logged, final)
        self.client.set_terminated(self.id, status="KILLED" if final is None else "FINISHED")
