"""Agents: propose, score, choose; batched roll-outs; collection of episodes."""
