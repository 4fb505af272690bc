"""A trained model and its cells as one self-contained HTML page; used through ``SCSiameseClu.report``."""

from scsiameseclu.report._concerns import Concern
from scsiameseclu.report._page import Report, build_report

__all__ = ["Concern", "Report", "build_report"]
