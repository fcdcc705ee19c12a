"""`metrics.csv` and TensorBoard events, one row a round."""

import asyncio
import csv
import os
import pathlib
import shutil
from collections.abc import Mapping

import tensorflow_federated as tff

_KEY = "round"


class _PromptTensorBoard(tff.program.TensorBoardReleaseManager):
    """Writes events at once; TensorFlow would hold them back for two minutes."""

    async def release(self, value, key):
        await super().release(value, key)
        self._summary_writer.flush()


def read_rounds(csv_path: pathlib.Path) -> list[int]:
    """The rounds that a file of metrics has, in its order.

    Raises:
      OSError: if it is not there.
      ValueError, KeyError: if it is no such file.
    """
    with open(csv_path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, strict=True)
        if _KEY not in (reader.fieldnames or ()):
            raise KeyError(_KEY)
        try:
            return [int(row[_KEY] or "") for row in reader]
        except csv.Error as error:
            raise ValueError(f"{csv_path}: {error}") from error


class MetricsLog:
    """Releases metrics to a CSV file and to TensorBoard.

    The CSV file is replaced atomically each round, so it holds whole rows only. The
    columns of a round are in alphabetical order; a metric that first appears in a
    later round gets a column at the end.
    """

    def __init__(self, csv_path: pathlib.Path, tensorboard: pathlib.Path):
        """Releases to the file `csv_path` and the directory `tensorboard`."""
        for leftover in csv_path.parent.glob(f"{csv_path.name}_temp*"):
            leftover.unlink()
        self._csv_path = csv_path
        self._csv = tff.program.CSVFileReleaseManager(
            csv_path, save_mode=tff.program.CSVSaveMode.WRITE, key_fieldname=_KEY
        )
        shutil.rmtree(tensorboard, ignore_errors=True)
        self._tensorboard = _PromptTensorBoard(tensorboard)

    async def replay(self, last_round: int) -> None:
        """Gives TensorBoard the rows of the CSV file up to `last_round`.

        A resumed run starts its events anew from them: TensorBoard would show the
        rounds that are run again twice. The rows after `last_round` disappear with
        the next `release`.
        """
        with open(self._csv_path, newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            round_num = int(row.pop(_KEY))
            if round_num <= last_round:
                metrics = {name: float(text) for name, text in row.items() if text}
                await self._tensorboard.release(metrics, round_num)

    async def release(self, metrics: Mapping[str, float], round_num: int) -> None:
        """Writes the row of `round_num` in place of it and of all later rows."""
        values = dict(metrics)
        await asyncio.gather(
            self._csv.release(values, round_num),
            self._tensorboard.release(values, round_num),
        )
        # States are, too: rows must not be lost where a state is not.
        with open(self._csv_path, "rb") as file:
            os.fsync(file.fileno())
