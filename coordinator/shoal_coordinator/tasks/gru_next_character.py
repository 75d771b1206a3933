"""The next character of a text, from the 32 before it; trained on Shakespeare's plays by speaking role.

The labels are the vocabulary: a token is the index of its label, as a device's text source has it. A GRU of
96 units over an embedding of 16.
"""

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import GRU, Dense, Embedding, Input, Task

CHARACTERS = "\n !\"',-.:;?ABCDEFGHIJKLMNOPRSTUVWYabcdefghijklmnopqrstuvwxyz"

task = Task(
    name="gru-next-character",
    input=Input((32,), dtype="int32", maximum=len(CHARACTERS) - 1),
    labels=tuple(CHARACTERS),
    layers=[Embedding(len(CHARACTERS), 16), GRU(96), Dense(len(CHARACTERS))],
    defaults=TrainingDefaults(epochs=1, learning_rate=1.0, batch_size=32),
    prox=True,
    correction=True,
)
