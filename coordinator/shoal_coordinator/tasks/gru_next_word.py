"""The next word of a text, from the 8 before it; trained on Shakespeare's plays by speaking role.

The labels are the vocabulary: the 1,998 most frequent words and marks of the plays in lower case, what stands
before the first word, and what stands for all other words.
"""

from pathlib import Path

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import GRU, Dense, Embedding, Input, Task

WORDS = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split()
VOCABULARY = ("<nothing>", "<unknown>", *WORDS)

task = Task(
    name="gru-next-word",
    input=Input((8,), dtype="int32", maximum=len(VOCABULARY) - 1),
    labels=VOCABULARY,
    layers=[Embedding(len(VOCABULARY), 64), GRU(96), Dense(len(VOCABULARY))],
    defaults=TrainingDefaults(epochs=1, learning_rate=1.0, batch_size=32),
    prox=True,
    correction=True,
)
