"""Training of generators, which predict the tokens of a codec (`vtok_codec.models.generator`)."""
