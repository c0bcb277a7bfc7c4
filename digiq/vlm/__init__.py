"""Vision-language models: the embedded tiny LLaVA, loading Hugging Face models, prompts, actionability tuning."""

from pathlib import Path

TINY_VLM_PATH = Path(__file__).parent / "tiny" / "weights"
"""The embedded tiny LLaVA."""
