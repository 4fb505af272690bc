"""Report of a trained model as one self-contained HTML page, which ``SCSiameseClu.report`` writes."""

from scsiameseclu.report._concerns import Concern
from scsiameseclu.report._page import Report, build_report

__all__ = ["Concern", "Report", "build_report"]
