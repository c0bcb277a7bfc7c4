"""The embedded phone: a finite Markov decision process, and a renderer that draws it."""
