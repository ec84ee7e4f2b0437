"""TensorBoard, through torch's writer."""

from types import ModuleType

from advcore.settings import settings
from advcore.tracking.base import Opening, Sink, Tracker, Values, flatten, import_quietly


@settings
class TensorBoard(Tracker):
    """Event files in the run's folder: `tensorboard --logdir RUN/tracking/tensorboard`."""

    def load(self) -> ModuleType:
        with import_quietly("tensorboard", "track"):
            from torch.utils import tensorboard
        return tensorboard

    def open(self, opening: Opening) -> Sink:
        return _Events(self.load().SummaryWriter, opening)


class _Events(Sink):
    """Event files. Epochs that a killed run wrote but did not count are purged, so that none is stored twice."""

    def __init__(self, writer: type, opening: Opening) -> None:
        super().__init__(opening.epochs_logged)
        self.writer = writer(str(opening.folder), purge_step=opening.epochs_logged or None)
        self.settings = flatten(opening.config)
        self.settings |= {key: str(value) for key, value in self.settings.items() if value in (None, [], {})}
        if not opening.epochs_logged:
            self.writer.add_text(
                "settings", "\n".join(f"    {key}: {value}" for key, value in self.settings.items()), 0
            )

    def log(self, epoch: int, values: Values) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def close(self, final: Values | None) -> None:
        if final is not None:
            self.writer.add_hparams(self.settings, final, run_name=".", global_step=self.epochs_logged)
        self.writer.close()
