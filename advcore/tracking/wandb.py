"""Weights & Biases; offline by default: `wandb sync` sends what is in the run's folder."""

import uuid
from types import ModuleType

from advcore.errors import check_one_of, require
from advcore.settings import settings
from advcore.tracking.base import Opening, Sink, Tracker, Values, import_quietly

MODES = ("offline", "online")


@settings
class WandB(Tracker):
    """A run of Weights & Biases.

    Parameters
    ----------
    project : that the run belongs to.
    entity : user or team; null for the account's own.
    mode : "offline" writes into the run's folder; "online" sends at once, and needs `wandb login` before.
    """

    project: str = "advcore"
    entity: str | None = None
    mode: str = "offline"

    def __post_init__(self) -> None:
        require(check_one_of("mode", self.mode, MODES))

    def load(self) -> ModuleType:
        with import_quietly("wandb", "wandb"):
            import wandb

            _ = wandb.init  # wandb creates folders named "wandb", which Python imports as empty packages
        return wandb

    def open(self, opening: Opening) -> Sink:
        return _Run(self, opening)


class _Run(Sink):
    """A run with an id that never changes, so that whatever is sent later belongs to the same run."""

    def __init__(self, tracker: WandB, opening: Opening) -> None:
        super().__init__(opening.epochs_logged, {"id": opening.state.get("id") or uuid.uuid4().hex[:12]})
        wandb = tracker.load()
        opening.folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=tracker.project,
            entity=tracker.entity,
            mode=tracker.mode,
            id=self.state["id"],
            resume="allow" if tracker.mode == "online" else None,
            name=opening.name,
            config=opening.config,
            dir=str(opening.folder),
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
        )

    def log(self, epoch: int, values: Values) -> None:
        self.run.log(values, step=epoch)

    def close(self, final: Values | None) -> None:
        self.run.summary.update(final or {})
        self.run.finish(exit_code=int(final is None))
