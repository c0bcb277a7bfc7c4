"""Model directories from outside: no code of theirs runs, and none with holes in it is used."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from digiq.switches import TRUST_REMOTE_CODE
from digiq.vlm.backbone import load_backbone
from digiq.vlm.families import BackboneError

pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (self.mark,))


def pickled(path, mark):
    (path / "model.safetensors").unlink()
    (path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil(str(mark))}))


def torch_saved(path, mark):
    (path / "model.safetensors").unlink()
    torch.save({"a": Evil(str(mark))}, path / "pytorch_model.bin")


def rewrite(file, change):
    about = json.loads(file.read_text())
    change(about)
    file.write_text(json.dumps(about))


def brings_code(path, mark):
    (path / "evil.py").write_text(f"import os; os.mkdir({str(mark)!r})\nclass C: pass\nclass M: pass\n")
    auto = {"AutoConfig": "evil.C", "AutoModelForImageTextToText": "evil.M"}
    rewrite(path / "config.json", lambda c: c.update(auto_map=auto, model_type="evilmodel"))


def processor_brings_code(path, mark):
    (path / "evil.py").write_text(f"import os; os.mkdir({str(mark)!r})\nclass P: pass\n")
    rewrite(
        path / "processor_config.json",
        lambda c: c.update(auto_map={"AutoProcessor": "evil.P"}, processor_class="P"),
    )


def of_weights(change):
    def damage(path, mark):
        file = path / "model.safetensors"
        tensors = load_file(file)
        name = next(n for n in tensors if "layers.0" in n and "vision" not in n)
        change(tensors, name)
        save_file(tensors, file, metadata={"format": "pt"})

    return damage


def truncated(path, mark):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


CASES = {
    "pickle": (pickled, "only pytorch_model.bin, which can run code"),
    "torch.save": (torch_saved, "only pytorch_model.bin, which can run code"),
    "auto_map": (brings_code, r"brings code of its own .* --trust-remote-code"),
    "processor's auto_map": (processor_brings_code, "does not open"),
    "a tensor is missing": (of_weights(lambda t, n: t.pop(n)), "its weights lack 1 tensors"),
    "a tensor is NaN": (of_weights(lambda t, n: t.update({n: t[n] * float("nan")})), "holds NaN or Inf"),
    "half a file": (truncated, "does not open"),
    "a list as config": (
        lambda p, m: (p / "config.json").write_text("[1]"),
        r"config\.json: a list where an object",
    ),
    "half a config": (lambda p, m: (p / "config.json").write_text("{"), r"config\.json: not readable"),
    "a negative size": (
        lambda p, m: rewrite(p / "config.json", lambda c: c["text_config"].update(hidden_size=-5)),
        "does not open",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_a_sentence_and_nothing_of_it_runs(vlm, tmp_path, case, monkeypatch):
    monkeypatch.delenv(TRUST_REMOTE_CODE, raising=False)
    damage, message = CASES[case]
    path, mark = tmp_path / "model", tmp_path / "it-ran"
    shutil.copytree(vlm, path)
    load_backbone(path, dtype="float32")
    damage(path, mark)
    with pytest.raises(BackboneError, match=message):
        load_backbone(path, dtype="float32")
    assert not mark.exists()
