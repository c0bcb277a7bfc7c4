"""Episodes in and out: schema, store, importers, rewards, transitions."""
