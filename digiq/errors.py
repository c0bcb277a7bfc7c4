"""The errors that a user can fix."""


class DigiQError(Exception):
    """Bad input or state that a user can fix.

    The message is a sentence or two that names the file, the field and the fix. The command line prints it without a
    traceback and exits with status 2.
    """


class ConfigError(DigiQError):
    """A configuration with an unknown key or a value outside its range."""


class ArtifactError(DigiQError):
    """An artefact that is missing, unfinished, damaged or of another stage."""


class ArtifactMismatch(ArtifactError):
    """A directory that already holds an artefact made from another configuration or other inputs."""
