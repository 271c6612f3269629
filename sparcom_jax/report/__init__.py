"""The report: all results of a directory in one HTML page."""
