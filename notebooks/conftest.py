"""How the notebooks run as tests: `pytest --nbval-lax notebooks` (a part of `make
test`).

Every cell of both languages runs at the smallest tier; a cell tagged
`nbval-check-output` must print what the notebook stores. The settings are for the
kernels only, each of which starts in its notebook's folder.
"""

import os
from collections.abc import Generator
from unittest import mock

import pytest

KERNEL = {
    "DALLE2_EDU_TIER": "smoke",
    "DALLE2_EDU_STATIC": "1",  # no sliders: the code path of the rendered book
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",  # two kernels run at once
    "TQDM_DISABLE": "1",
}
LEFT_TO_THE_KERNEL = (
    "DALLE2_EDU_LANG",
    "MPLBACKEND",
)  # the language is found from the folder, figures go into the page


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, None, None]:
    """The first cell's setup starts the kernel, with these variables."""
    with mock.patch.dict(os.environ, KERNEL):
        for name in LEFT_TO_THE_KERNEL:
            os.environ.pop(name, None)
        return (yield)
