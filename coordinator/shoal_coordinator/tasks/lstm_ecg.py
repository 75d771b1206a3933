"""Beats of an electrocardiogram, narrow or wide: an LSTM over 32 steps of 4 samples in mV (0.71 s)."""

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import LSTM, Dense, Input, Task

task = Task(
    name="lstm-ecg",
    input=Input((32, 4), dtype="float32", minimum=-10, maximum=10),
    labels=("narrow", "wide"),
    layers=[LSTM(32), Dense(2)],
    defaults=TrainingDefaults(epochs=5, learning_rate=0.3, batch_size=16),
    prox=True,
    correction=True,
)
