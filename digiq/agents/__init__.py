"""Agents that propose, score and choose actions; batched rollouts; collection of episodes."""
