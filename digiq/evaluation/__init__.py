"""Evaluation: outcomes that are never dropped, statistics with intervals, tables and self-contained reports."""
