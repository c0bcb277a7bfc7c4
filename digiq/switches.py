"""Switches of every command, by the variables of the environment through which stages in other processes have them too."""

TRUST_CODE = "DIGIQ_TRUST_CODE"
"""``--trust-code``: import also the code that artefacts name, and not only what a recipe or the command line names."""
TRUST_REMOTE_CODE = "DIGIQ_TRUST_REMOTE_CODE"
"""``--trust-remote-code``: run the code that a model directory brings."""
DEBUG = "DIGIQ_DEBUG"
"""``--debug``: show where an error happened."""
