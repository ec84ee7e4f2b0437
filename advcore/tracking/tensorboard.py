"""TensorBoard, through torch's own writer."""

from types import ModuleType

from advcore.tracking.base import Opening, Sink, Tracker, Values, flat, importing
from advcore.types import settings


@settings
class TensorBoard(Tracker):
    """Event files in the run's folder: `tensorboard --logdir RUN/tracking/tensorboard`."""

    def load(self) -> ModuleType:
        with importing("tensorboard", "track"):
            from torch.utils import tensorboard
        return tensorboard

    def open(self, opening: Opening) -> Sink:
        return _Events(self.load().SummaryWriter, opening)


class _Events(Sink):
    """Epochs that a killed run wrote and did not count are purged, not doubled."""

    def __init__(self, writer: type, opening: Opening):
        super().__init__(opening.told)
        self.writer = writer(str(opening.folder), purge_step=opening.told or None)
        self.settings = {
            key: str(value) if value in (None, [], {}) else value for key, value in flat(opening.config).items()
        }
        if not opening.told:
            lines = "\n".join(f"    {key}: {value}" for key, value in self.settings.items())
            self.writer.add_text("settings", lines, 0)

    def log(self, epoch: int, values: Values) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def close(self, final: Values | None) -> None:
        if final is not None:
            self.writer.add_hparams(self.settings, final, run_name=".", global_step=self.told)
        self.writer.close()
