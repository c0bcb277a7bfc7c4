"""Drawing: figures, strips of screens, and pages made of them. It knows nothing of artefacts."""
