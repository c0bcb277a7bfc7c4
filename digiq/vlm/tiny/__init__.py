"""The embedded tiny LLaVA: its architecture, the screens and questions of its pre-training, and its weights."""
