"""The oracle's task: fresh scenes that depend on their indices alone, lightly
disturbed.
"""

import torch

from dalle2_edu.data.shapes import FACTORS
from dalle2_edu.evaluation.oracle import OracleConfig
from dalle2_edu.recipes.evaluation import OracleTask, disturb
from dalle2_edu.training.task import TrainConfig


def test_batches_repeat_with_their_indices_and_differ_otherwise() -> None:
    task = OracleTask(
        "oracle",
        None,
        TrainConfig(steps=1),
        OracleConfig(image_size=32, channels=(8, 8), width=8),
    )
    first, again, other = (
        task.batch(torch.tensor(i)) for i in ([3, 4, 5, 6], [3, 4, 5, 6], [3, 4, 5, 7])
    )
    assert torch.equal(first["images"], again["images"])
    assert not torch.equal(first["images"], other["images"])
    assert set(first) == {"images", *FACTORS}
    loss, _ = task.loss(task.model, first, torch.Generator().manual_seed(0))
    assert loss.isfinite()


def test_disturbs_a_little_and_repeatably() -> None:
    images = OracleTask("oracle", None, TrainConfig(steps=1)).batch(torch.arange(16))[
        "images"
    ]
    off = disturb(images, torch.Generator().manual_seed(0)) - images
    assert 0.02 < off.std() < 0.15
    assert torch.equal(off, disturb(images, torch.Generator().manual_seed(0)) - images)
