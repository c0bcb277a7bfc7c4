"""A small random LLaVA."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vlm(tmp_path_factory) -> Path:
    """A directory with a random model of the embedded one's kind: 3 language layers, 64 wide."""
    import torch

    from digiq.vlm.tiny.architecture import build_model, build_processor, save

    torch.manual_seed(0)
    processor = build_processor()
    path = tmp_path_factory.mktemp("vlm")
    model = build_model(processor.tokenizer, hidden_size=64, vision_layers=1, text_layers=3)
    save(model, processor, path)
    return path


@pytest.fixture(scope="module")
def one_torch_thread():
    """On a busy machine a second thread costs torch more than it gives; for modules that run the VLM."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
