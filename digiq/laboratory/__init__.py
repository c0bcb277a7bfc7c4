"""Tools that need the simulator's truth: exact values, metrics against them, data cards, controls."""
