"""Vision-language models: the embedded tiny LLaVA, loading any Hugging Face one, prompts, actionability tuning."""

from pathlib import Path

TINY_VLM_PATH = Path(__file__).parent / "tiny" / "weights"
"""The embedded tiny LLaVA."""
