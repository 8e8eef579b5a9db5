"""What a run leaves for you to look at: one row of numbers every few steps, and grids
of pictures.

    out/log.csv                     step, minutes, learning rate, loss, ...: open it in anything
    out/tensorboard/                the same numbers, if you asked for logger="tensorboard"
    out/samples/step-00000500.png   what the averaged weights drew at that step

The numbers survive a crash as the checkpoints do: each row is on the disk before the
checkpoint of its step, and a resumed run first drops the rows beyond the step it goes
on from. So no row is lost or doubled.

Chapter 08 plots such a file.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from dalle2_edu.errors import Dalle2EduError
from dalle2_edu.training.checkpoints import disk_errors

LOGGERS = ("csv", "tensorboard")


class Logs:
    """The log of one run: CSV always, TensorBoard too if asked. `step`: where the run
    goes on from, or 0.
    """

    def __init__(self, out: Path, logger: str, step: int) -> None:
        self.file = out / "log.csv"
        with disk_errors(str(self.file)):
            out.mkdir(parents=True, exist_ok=True)
            self.columns = cut_csv(self.file, step)
        self.board: Any = None
        if logger == "tensorboard":
            self.board = _tensorboard(out / "tensorboard", step)

    def write(self, row: dict[str, float]) -> None:
        """Append one row; its first entry is the step. The names must be those of the
        first row.
        """
        self.columns = self.columns or list(row)
        if self.columns != list(row):
            raise Dalle2EduError(
                f"{self.file} has the columns {self.columns}, the new row {list(row)}: log the"
                " same names."
            )
        with disk_errors(str(self.file)):
            _append(self.file, row)
        if self.board:
            for name, value in row.items():
                self.board.add_scalar(name, value, int(row["step"]))
            self.board.flush()  # a killed run keeps what it wrote

    def close(self) -> None:
        if self.board:
            self.board.close()


def _append(file: Path, row: dict[str, float]) -> None:
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if new:
            writer.writerow(row)
        cells = [
            f"{value:.6g}" if isinstance(value, float) else value
            for value in row.values()
        ]
        writer.writerow(cells)
        stream.flush()
        os.fsync(stream.fileno())  # on the disk before the checkpoint of its step


def cut_csv(file: Path, step: int) -> list[str]:
    """Drop the rows of `file` beyond `step`, and a last line that a crash cut off;
    return the column names.

    With nothing to keep the file is removed and the list is empty.
    """
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    header, *rows = text.splitlines(keepends=True) or [""]
    # a crash may cut the last one off
    whole = [row for row in rows if row.endswith("\n")]
    kept = [row for row in whole if int(row.split(",")[0]) <= step]
    if not kept:
        file.unlink(missing_ok=True)
        return []
    if kept != rows:
        shorter = file.with_suffix(".csv.unfinished")
        shorter.write_text("".join([header, *kept]), encoding="utf-8", newline="")
        shorter.replace(file)  # atomic, as with checkpoints
    return header.strip().split(",")


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise Dalle2EduError(
            'TensorBoard is missing: pip install tensorboard, or use logger="csv".'
        ) from error
    # purge_step hides what a killed run logged beyond `step`
    return SummaryWriter(str(folder), purge_step=step + 1)


def save_grid(pictures: Tensor, file: Path) -> None:
    """Write pictures, float (N, 3, H, W) in [-1, 1], as one PNG, eight in a row."""
    from torchvision.utils import save_image

    with disk_errors(str(file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"unfinished-{file.name}")
        save_image(
            pictures.float().cpu(),
            unfinished,
            nrow=8,
            normalize=True,
            value_range=(-1, 1),
        )
        unfinished.replace(file)
