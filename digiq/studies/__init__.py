"""A command reproduces a comparison: arms, seeds, hypotheses, records and the page made from them."""
