"""The window of the inference logs that a monitor asks for, as an MLTable. Runs in the Spark of Azure ML, and nowhere else.

A monitor compares what such components hand it; they are told when its window begins and ends.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime


def main(arguments: Sequence[str] | None = None) -> None:
    """Keeps the verdicts of the window, and of them the columns asked for. Raises ValueError where there is none."""
    parser = argparse.ArgumentParser()
    for name in ("data_window_start", "data_window_end", "input_data", "preprocessed_input_data", "columns"):
        parser.add_argument(f"--{name}", required=True)
    asked = parser.parse_args(arguments)

    from pyspark.sql import SparkSession

    logged = SparkSession.builder.getOrCreate().read.parquet(asked.input_data)
    # A point that a batch judged is in the log of the history too.
    own = logged.where(within(asked.data_window_start, asked.data_window_end))
    chosen = own.dropDuplicates(["table_id", "column", "timestamp"]).select(*asked.columns.split(","))
    if chosen.limit(1).count() == 0:
        raise ValueError(f"There is no verdict from {asked.data_window_start} to {asked.data_window_end}.")
    chosen.write.option("output_format", "parquet").option("overwrite", True).mltable(asked.preprocessed_input_data)


def within(start: str, end: str) -> str:
    """The condition, in SQL, that a verdict's time is from `start` on and before `end`; ISO 8601, UTC unless they tell.

    The days come first: of the others no file is opened.
    """
    first, last = (_utc(text) for text in (start, end))
    return (f"`date` >= '{first:%Y-%m-%d}' AND `date` <= '{last:%Y-%m-%d}' AND "
            f"`timestamp` >= TIMESTAMP '{first:%Y-%m-%d %H:%M:%S}+00:00' AND "
            f"`timestamp` < TIMESTAMP '{last:%Y-%m-%d %H:%M:%S}+00:00'")


def _utc(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


if __name__ == "__main__":
    main()
