"""The embedded phone: a finite decision process, and a renderer that draws it."""
