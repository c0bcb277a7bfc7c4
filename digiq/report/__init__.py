"""Reports on finished runs, made from their artefacts alone."""
