"""Drawing: figures, strips of screens, and pages made of them. Knows no artefacts."""
