"""Training: one loop for every model, its moving average, its checkpoints and its logs."""

from dalle2_edu.training.checkpoints import Checkpoint, latest_checkpoint, load_checkpoint
from dalle2_edu.training.ema import EMA, ema_decay
from dalle2_edu.training.loop import Task, TrainConfig, train

__all__ = [
    "EMA",
    "Checkpoint",
    "Task",
    "TrainConfig",
    "ema_decay",
    "latest_checkpoint",
    "load_checkpoint",
    "train",
]
