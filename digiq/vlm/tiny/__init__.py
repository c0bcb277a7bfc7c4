"""The embedded tiny LLaVA: its architecture, the screens and questions it is pre-trained on, and its weights."""
