"""Sources of candidate actions for logged observations, one file each.

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
"""Name of each source, which is also its file's name, and its class there (:class:`digiq.proposals.base.Source`)."""

__all__ = ["CANDIDATES"]
