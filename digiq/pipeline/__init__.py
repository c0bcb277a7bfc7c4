"""What runs stages: their table, recipes and the graph that one makes, the scheduler and its processes."""
