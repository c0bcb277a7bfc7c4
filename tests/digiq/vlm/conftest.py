"""A small random LLaVA, and one thread for torch: on a busy machine a second one costs more than it gives."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_torch_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A directory with a random model of the embedded one's kind: 2 language layers, 64 wide."""
    import torch

    from digiq.vlm.tiny.architecture import build_model, build_processor, save

    torch.manual_seed(0)
    processor = build_processor()
    path = tmp_path_factory.mktemp("tiny")
    save(build_model(processor.tokenizer, hidden_size=64, vision_layers=1, text_layers=2), processor, path)
    return path
