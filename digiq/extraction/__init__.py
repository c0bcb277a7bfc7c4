"""From values to a policy, one file an objective."""
