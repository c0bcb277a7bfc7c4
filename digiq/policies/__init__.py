"""Policies: what proposes actions from a screenshot and a goal."""
