"""Evaluation: outcomes, none of which is dropped, statistics with intervals, tables and self-contained reports."""
