"""Names for the pre-training screens: words, sites, apps, people and things not used by the simulated phone's tasks.

Most words are made up from syllables, so that reading them means reading letters; words that happen to occur in a
task's goal are discarded. One word in eight (by a hash of its spelling) is never shown in training; accuracy on those
distinguishes reading from remembering.
"""

from __future__ import annotations

import functools
import re
import zlib

import numpy as np

from android_env.tasks.sets import FAMILIES

REAL_WORDS: tuple[str, ...] = tuple(
    """
    acorn almond amber anchor antler apricot arbor aspen atlas aurora badger bamboo banjo barley basil beacon birch
    bison blossom bobcat bonfire boulder bramble brook buffalo burrow cactus camel canyon caramel cedar cello chalet
    cherry chestnut clover cobalt coral cosmos cottage cougar crane crater cricket crimson crystal cypress daisy
    dolphin dune eagle ebony echo elm ember falcon fern fiddle finch fjord flint forest fossil fountain foxglove gale
    garnet gazelle geyser ginger glacier goose granite grove gull harbor harvest hazel heather heron hickory hollow
    indigo iris island ivory ivy jade jaguar jasmine juniper kelp kestrel kettle lagoon lantern lark lava lemon lichen
    lilac lily linen lotus lynx magnet magnolia mango maple marble marsh meadow melon mesa meteor mint mistral moss
    mulberry myrtle nectar nettle nutmeg oasis oat obsidian onyx opal orchard orchid osprey otter owl oyster panther
    paprika parsley pebble pecan pepper petal pigeon pine plum poplar poppy prairie puffin quail quarry quartz quill
    rabbit raccoon raven reef ridge river robin rosemary ruby saffron sage sail salmon sapphire scarlet sequoia shale
    silver sparrow spruce squirrel stork summit sunset swan sycamore tangerine teal thicket thistle thunder tiger topaz
    trout tulip tundra turnip turtle umber valley vanilla velvet violet walnut walrus warbler willow winter wombat wren
    yarrow yonder zebra zephyr zinnia
    """.split()
)

_ONSETS = (
    "b c d f g h j k l m n p r s t v w z bl br ch cl cr dr fl fr gl gr pl pr qu sh sk sl sm sn sp st th tr tw"
)
_VOWELS = "a e i o u ai ea ee oa oo ou y"
_CODAS = "b ck d f g k l ll m n nd ng nk nt p r rd rk rn s sh sk st t th x z"
_SUFFIXES = (".com", ".com", ".com", ".com", ".net", ".org", ".io", ".co")
_ENDINGS = ("", "", "", "hub", "ly", "mart", "zone", "base", "ify", "land", "box", "lane")


def is_unseen(word: str) -> bool:
    """Whether the word (lower case) is kept out of training."""
    return zlib.crc32(word.lower().encode()) % 8 == 0


@functools.cache
def task_words() -> frozenset[str]:
    """Every word of three letters or more in the simulated phone's goals and their parameters, lower case."""
    tasks = (task for family in ("webshop", "general") for task in FAMILIES[family]())
    texts = {text for task in tasks for text in (task.goal, *map(str, task.params.values()))}
    return frozenset(word for text in texts for word in re.findall(r"[a-z]{3,}", text.lower()))


class Words:
    """Draws names from one side of the split.

    Args:
      rng: the source of randomness.
      unseen: draw only words never shown in training; otherwise only words that may be shown.
    """

    def __init__(self, rng: np.random.Generator, *, unseen: bool = False):
        self.rng, self.unseen = rng, unseen

    def pick(self, options):
        return options[int(self.rng.integers(len(options)))]

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def word(self) -> str:
        """A single lower-case word."""
        while True:
            word = self.pick(REAL_WORDS) if self.chance(0.3) else self._invented()
            if is_unseen(word) == self.unseen and word not in task_words():
                return word

    def near(self, name: str) -> str:
        """A name that is easily mistaken for ``name``: one word swapped, kept or dropped, or a letter changed."""
        words = name.split()
        spot = int(self.rng.integers(len(words)))
        stem, dot, suffix = words[spot].partition(".")
        for _ in range(20):
            if len(words) > 1 and self.chance(0.6):
                other = [*words[:spot], self.word(), *words[spot + 1 :]]
            else:
                at = int(self.rng.integers(len(stem)))
                changed = stem[:at] + self.pick("abcdefghijklmnopqrstuvwxyz") + stem[at + 1 :]
                if self.chance(0.5):
                    changed = stem[: max(1, len(stem) // 2)] + self.word()[-max(2, len(stem) // 2) :]
                if is_unseen(changed) != self.unseen or changed in task_words():
                    continue
                other = [*words[:spot], changed + dot + suffix, *words[spot + 1 :]]
            if " ".join(other) != name:
                return " ".join(other)
        return self.word() + dot + suffix

    def site(self) -> str:
        """A domain, at most 16 characters long."""
        while True:
            stem = self.word() + self.pick(_ENDINGS)
            if len(stem) <= 12 and is_unseen(stem) == self.unseen and stem not in task_words():
                return stem + self.pick(_SUFFIXES)

    def app(self) -> str:
        return self.word()

    def thing(self, longest: int = 20) -> str:
        """One to three words, sometimes with a number: a product, a setting, a subject."""
        while True:
            count = int(self.rng.choice(3, p=(0.25, 0.5, 0.25))) + 1
            words = [self.word() for _ in range(count)]
            if self.chance(0.15):
                words[-1] = str(int(self.rng.integers(2, 999)))
            if len(" ".join(words)) <= longest and words[0].isalpha():
                return " ".join(words)

    def price(self) -> str:
        return f"${int(self.rng.integers(2, 900))}.{self.pick(('00', '49', '50', '95', '99'))}"

    def _invented(self) -> str:
        syllables = 1 if self.chance(0.35) else 2
        word = "".join(
            self.pick(_ONSETS.split()) + self.pick(_VOWELS.split()) for _ in range(syllables)
        ) + self.pick(_CODAS.split())
        return word if 3 <= len(word) <= 10 else self._invented()
