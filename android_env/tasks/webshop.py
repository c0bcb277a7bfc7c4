"""Web shopping tasks: 6 sites × 24 queries × 3 levels, split so that test tasks hold something training never shows;
and tasks for tuning and for a final measurement, with sites and queries of their own.

Level 1 is "Go to SITE", level 2 adds "search for QUERY", level 3 "and select the first entry" (the goals of AitW's
WebShopping tasks in the form Digi-Q uses them).
"""

from __future__ import annotations

from zlib import crc32

from android_env.tasks.task import Task

TRAIN_SITES = ("buyhive.com", "cartopia.com", "shopnest.com", "gadgetly.com")
TEST_SITES = ("dealdock.com", "trovekart.com")
SITES = TRAIN_SITES + TEST_SITES
TUNE_SITES = ("pricepond.com",)
"""For choosing settings: a site that neither training nor test ever visits."""
FINAL_SITES = ("wareville.com", "stockwise.com")
"""For a final measurement: sites that no other task visits."""

TRAIN_QUERIES = (
    "usb cable",
    "desk lamp",
    "gaming chair",
    "water bottle",
    "phone case",
    "running shoes",
    "coffee maker",
    "yoga mat",
    "wool socks",
    "air fryer",
    "hdmi adapter",
    "travel mug",
    "dog bed",
    "bike helmet",
    "board game",
    "rain jacket",
)
TEST_QUERIES = (
    "wireless mouse",
    "hand blender",
    "camping tent",
    "table fan",
    "guitar strings",
    "rice cooker",
    "beach towel",
    "garden hose",
)
QUERIES = TRAIN_QUERIES + TEST_QUERIES
TUNE_QUERIES = (
    "tea strainer",
    "wall clock",
    "laptop sleeve",
    "hiking boots",
    "paint brush",
    "baby monitor",
)
"""For choosing settings: queries that neither training nor test ever asks for."""
FINAL_QUERIES = (
    "picture frame",
    "kitchen scale",
    "puzzle cube",
    "picnic blanket",
    "ski goggles",
    "pencil pouch",
    "ice bucket",
    "scented candle",
)
"""For a final measurement: queries that no other task asks for. Like all words of tasks, theirs occur in no screen of the
embedded VLM's pre-training: its generator cannot spell them."""

MAX_STEPS = 20

_GO = (
    "Go to {site}",
    "Open {site}",
    "Visit {site}",
    "Navigate to {site}",
    "Go to {site} in the browser",
    "Open the site {site}",
)
_SEARCH = (
    "Go to {site}, search for {query}",
    "Open {site} and search for {query}",
    "Visit {site}, look for {query}",
    "On {site}, search for {query}",
)
_SELECT = (", and select the first entry", " and select the first entry", ", then open the first result")

_HELD_OUT = {(site, TRAIN_QUERIES[3 * i + j]) for i, site in enumerate(TRAIN_SITES) for j in range(3)}
"""Pairs kept for `test_combination`: three queries a site, each held out at one site only."""


def tasks() -> tuple[Task, ...]:
    """All tasks of the family.

    `test_query`: an unseen query on a training site. `test_combination`: a training site and a training query that
    training never shows together. `test_site`: an unseen site (drawn in an unseen theme) with training queries. `tune`:
    for choosing settings without a look at any of these, queries and a site (with a theme) of its own. `final_query` and
    `final_site`: for a measurement on which nothing was ever chosen, queries of their own on training sites, and on sites
    (with themes) of their own.
    """
    every: list[Task] = []
    for site in SITES:
        split = "train" if site in TRAIN_SITES else "test_site"
        every += [_task(1, split, site, "", wording) for wording in range(len(_GO))]
        for query in QUERIES if site in TRAIN_SITES else TRAIN_QUERIES:
            if site in TEST_SITES:
                split = "test_site"
            elif query in TEST_QUERIES:
                split = "test_query"
            else:
                split = "test_combination" if (site, query) in _HELD_OUT else "train"
            every += [_task(level, split, site, query, crc32(f"{site} {query}".encode())) for level in (2, 3)]
    every += [_task(1, "tune", site, "", wording) for site in TUNE_SITES for wording in range(len(_GO))]
    pairs = [(site, query) for site in TRAIN_SITES for query in TUNE_QUERIES]
    pairs += [(site, query) for site in TUNE_SITES for query in TRAIN_QUERIES]
    for site, query in pairs:
        wording = crc32(f"{site} {query}".encode())
        every += [_task(level, "tune", site, query, wording) for level in (2, 3)]
    every += [
        _task(1, "final_site", site, "", wording) for site in FINAL_SITES for wording in range(len(_GO))
    ]
    for site in TRAIN_SITES + FINAL_SITES:
        split = "final_site" if site in FINAL_SITES else "final_query"
        for query in FINAL_QUERIES:
            every += [_task(level, split, site, query, crc32(f"{site} {query}".encode())) for level in (2, 3)]
    return tuple(every)


def _task(level: int, split: str, site: str, query: str, wording: int) -> Task:
    if level == 1:
        goal = _GO[wording].format(site=site)
        name = f"webshop/1/{site}/{wording}"
        params = {"site": site}
    else:
        goal = _SEARCH[wording % len(_SEARCH)].format(site=site, query=query)
        goal += _SELECT[wording // len(_SEARCH) % len(_SELECT)] if level == 3 else ""
        name = f"webshop/{level}/{site}/{query}"
        params = {"site": site, "query": query}
    return Task(name, goal, "webshop", level, split, params, MAX_STEPS)
