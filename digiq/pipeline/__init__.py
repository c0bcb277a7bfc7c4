"""Runs stages: the table of stages, recipes and their graphs, the scheduler and its processes."""
