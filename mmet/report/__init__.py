"""The report on a run: a page and a picture of what was trained, how well it finds people and where it fails.

    python -m mmet.report --run outputs/demo/model --results outputs/demo/eval/results.json \\
        --data market1501=data/market cuhk_pedes=data/pedes --training_data finegpr=data/source --output outputs/report
"""

from __future__ import annotations

from mmet.report.builder import ReportRequest, build_report

__all__ = ["ReportRequest", "build_report"]
