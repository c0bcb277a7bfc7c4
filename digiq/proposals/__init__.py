"""Candidate actions for every observation."""
