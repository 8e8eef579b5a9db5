"""Settings for all tests: no network, no screen, the smallest tier, the same random
numbers every time.
"""

import os

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # before open_clip is imported: what ships with the book must be enough
)
os.environ["MPLBACKEND"] = "Agg"
os.environ["DALLE2_EDU_TIER"] = "smoke"

import pytest
import torch


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """A test without a seed of its own still draws the same numbers in every run and in
    any order.
    """
    torch.manual_seed(0)
