"""Measure the paper's tables with one command: train, evaluate, resume, and tabulate.

    python -m mmet.ablate --tables 1 2 --seeds 3 --data synthetic
    python -m mmet.ablate --tables 1 --seeds 3 --data finegpr=data/FineGPR market1501=data/Market-1501

`experiments` defines the rows of the tables, `runs` trains and evaluates them, `tables` shows means and standard
deviations beside the paper's figures, `worlds` draws the synthetic data.
"""

from mmet.ablate.experiments import TABLES, Table, TableRow, TrainingStage
from mmet.ablate.runs import Runner
from mmet.ablate.tables import TableResult, collect_table, format_tables

__all__ = ["TABLES", "Runner", "Table", "TableResult", "TableRow", "TrainingStage", "collect_table", "format_tables"]
