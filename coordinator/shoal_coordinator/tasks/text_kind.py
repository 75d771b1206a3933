"""What kind of play a speech is from, by its first 48 words: an MLP on the mean of their embeddings."""

from pathlib import Path

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import Adam, Dense, Dropout, Embedding, GlobalAveragePool, Input, Task

# The tokens are those of the next-word task: before these words it has one for nothing and one for others.
WORDS = Path(__file__).with_name("words.txt").read_text(encoding="utf-8").split()
TOKENS = len(WORDS) + 2

task = Task(
    name="text-kind",
    input=Input((48,), dtype="int32", maximum=TOKENS - 1),
    labels=("comedy", "history", "tragedy"),
    layers=[
        Embedding(TOKENS, 32),
        GlobalAveragePool(),
        Dropout(0.2),
        Dense(32, activation="relu"),
        Dense(3),
    ],
    # A word is seen now and then only: its row moves too little by plain gradients.
    optimiser=Adam(),
    defaults=TrainingDefaults(epochs=1, learning_rate=0.003, batch_size=16),
    prox=True,
    correction=True,
)
