"""Tables and figures of a study, written to `figures/<profile>/` with their provenance."""

from s2llib.report.report import Report

__all__ = ["Report"]
