"""Damaged recordings of every format: each is imported, or refused in a sentence, and never anything else.

``DIGIQ_FUZZ=5000`` damages so many files a format, which is the slow lane; a few are damaged always.
"""

from __future__ import annotations

import gzip
import os
import random
import shutil

import pytest
import torch

from digiq.config import load
from digiq.data.import_episodes import ImportConfig
from digiq.data.importers import IMPORTERS, BadEpisode
from digiq.errors import DigiQError
from digiq.features.given import ImportFeaturesConfig
from digiq.features.given import run as import_features
from tests.digiq.data.test_aitw import framed
from tests.digiq.data.test_importers import SOURCES
from tests.digiq.features.test_given import trajectories

COUNT = int(os.environ.get("DIGIQ_FUZZ", "40"))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Cut off, with bytes changed, left out, doubled or put in."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at, size = rng.randrange(len(found) + 1), rng.choice((1, 1, 4, 60))
        match rng.randrange(5):
            case 0:
                del found[at:]
            case 1:
                found[at : at + size] = rng.randbytes(size)
            case 2:
                del found[at : at + size]
            case 3:
                found[at:at] = found[at : at + size]
            case _:
                found[at:at] = rng.choice(
                    (b"{", b'"', b"null", b"-1e999", b"\xff\xfe", b"\x00" * 9, b"[" * 99)
                )
        if not found:
            break
    return bytes(found)


def inside(data: bytes, rng: random.Random) -> bytes:
    """Damage below checksums, which would otherwise find everything: the records are framed again."""
    plain = gzip.decompress(data)
    size = int.from_bytes(plain[:8], "little")
    return gzip.compress(framed(damaged(plain[12 : 12 + size], rng)) + plain[16 + size :])


@pytest.mark.parametrize("name", IMPORTERS)
def test_damage_is_a_sentence_and_nothing_else(name, tmp_path):
    settings = SOURCES[name](tmp_path / "source", ("a",), "")
    files = [f for f in (tmp_path / "source").rglob("*") if f.is_file()]
    whole = {file: file.read_bytes() for file in files}
    importer = load(ImportConfig, {"format": name, name: settings}).chosen
    good = 0
    for number in range(COUNT):
        rng = random.Random(f"{name} {number}")
        file = rng.choice(files)
        zipped = whole[file].startswith(b"\x1f\x8b")
        file.write_bytes((inside if zipped and rng.random() < 0.8 else damaged)(whole[file], rng))
        try:
            for part in importer.find().parts:
                for entry in importer.read(part):
                    if isinstance(entry, BadEpisode):
                        assert "on_bad: skip" in str(entry)
                        continue
                    entry.make()
                    good += 1
        except DigiQError as error:
            assert str(error)
        file.write_bytes(whole[file])
    # Some damage does not matter, such as to a field that nobody reads.
    assert good < COUNT or COUNT < 10


def test_damaged_features_of_others_are_a_sentence_and_nothing_else(tmp_path):
    """Upstream's precomputed features, which are read beside the trajectories; a tenth as many, as each is a whole import."""
    torch.save(trajectories(), tmp_path / "t.pt")
    whole, good = (tmp_path / "t.pt").read_bytes(), 0
    count = COUNT // 10
    config = load(ImportFeaturesConfig, {"digirl": {"source": str(tmp_path / "t.pt"), "blank": True}})
    for number in range(count):
        (tmp_path / "t.pt").write_bytes(damaged(whole, random.Random(f"features {number}")))
        try:
            import_features(config, out=tmp_path / f"{number}" / "features")
            good += 1
        except DigiQError as error:
            assert str(error)
        shutil.rmtree(tmp_path / f"{number}", ignore_errors=True)
    assert good < count
