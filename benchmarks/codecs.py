"""Encode and decode throughput of every codec: see ``codec_speed``, which has a name nothing else has."""

from codec_speed import main

if __name__ == "__main__":
    main()
