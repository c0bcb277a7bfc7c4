"""Vision-language models: the embedded tiny LLaVA, loading any Hugging Face one, prompts, actionability tuning."""
