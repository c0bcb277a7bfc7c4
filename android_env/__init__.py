"""Phones as environments: actions, devices, tasks, evaluators. Knows nothing of learning."""
