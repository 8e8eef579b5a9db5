"""Training: one loop for every model, its moving average, its checkpoints and its logs.
What is trained stands in `recipes/`.
"""

from dalle2_edu.training.checkpoints import (
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
)
from dalle2_edu.training.ema import EMA, ema_decay
from dalle2_edu.training.loop import train
from dalle2_edu.training.task import Task, TrainConfig, learning_rate

__all__ = [
    "EMA",
    "Checkpoint",
    "Task",
    "TrainConfig",
    "ema_decay",
    "latest_checkpoint",
    "learning_rate",
    "load_checkpoint",
    "train",
]
