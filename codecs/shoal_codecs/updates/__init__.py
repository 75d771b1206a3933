"""Update codecs: how a model update becomes few bytes, and a vector again."""
