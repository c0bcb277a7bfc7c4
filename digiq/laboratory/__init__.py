"""What needs the simulator's truth: exact values, the metrics held to them, data cards, controls."""
