"""``python -m digiq.cli`` is the ``digiq`` command."""

from digiq.cli import main

main()
