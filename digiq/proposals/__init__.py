"""Candidate actions for logged observations, one file a source.

To add a source: write its file, and add its line to :data:`CANDIDATES`.
"""

from digiq.tables import Table

CANDIDATES = Table(
    "source",
    __name__,
    policy="PolicySamples",
    logged="Logged",
    recorded="Recorded",
    elements="Elements",
    perturbed="Perturbed",
    endpoint="EndpointSamples",
    vlm="VlmSamples",
    mix="Mix",
)
"""Name of a source, which is its file's, and the class in there (:class:`digiq.proposals.base.Source`)."""

__all__ = ["CANDIDATES"]
