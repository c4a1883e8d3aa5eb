"""Kinds of samples: pictures, texts, actions. Each folder owns all that depends on the kind."""
