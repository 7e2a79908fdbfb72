"""CPU time per second of signal of the published gesture models: full windows compared with streams.

`python tests/bench/streaming.py [--rounds N]` prints one line for each way of computing, from interleaved runs in one
process on one thread: 2 kHz, 16 channels, one recording. A stream starts with a full history of 8 s.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from emg_lens.models import build_model

FS, WINDOW_S = 2000, 8
SIGNALS = {"modalities": {"emg": 16}, "n_samples": FS * WINDOW_S, "n_classes": 9}


def ways() -> dict[str, tuple[float, Callable[[], object]]]:
    """Ways to compute outputs: the seconds of signal that one call answers for, and the call."""
    torch.manual_seed(0)
    transformer, lstm = (build_model(name, **SIGNALS).eval() for name in ("tinymyo-gestures", "lstm-gestures"))
    x = 20 * transformer.example_input(1)
    made: dict[str, tuple[float, Callable[[], object]]] = {
        "transformer, 8 s windows every 2 s": (2, lambda: transformer(x)),
        "transformer, 8 s windows every 50 ms": (0.05, lambda: transformer(x)),
    }
    streams = {"transformer": transformer.stream(history=1597), "LSTM": lstm.stream()}
    for name, stream in streams.items():
        stream.push(x)
        for piece_s in (1.0, 0.05, 0.005):
            piece = x[..., : round(FS * piece_s)]
            made[f"{name}, stream, {1000 * piece_s:g} ms at a time"] = (piece_s, lambda s=stream, p=piece: s.push(p))
    return made


def measure(rounds: int) -> dict[str, float]:
    """Median CPU time (s) per second of signal of each way."""
    made = ways()
    times: dict[str, list[float]] = {name: [] for name in made}
    with torch.no_grad():
        for _ in range(rounds):
            for name, (seconds, run) in made.items():
                repeats = max(1, round(0.1 / seconds))
                start = time.process_time()
                for _ in range(repeats):
                    run()
                times[name].append((time.process_time() - start) / (repeats * seconds))
    return {name: median(of) for name, of in times.items()}


def main() -> None:
    """Print all ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    torch.set_num_threads(1)
    times = measure(parser.parse_args().rounds)
    reference = times["transformer, 8 s windows every 2 s"]
    for name, seconds in times.items():
        print(f"{name:<42} {seconds:8.3f} s per second of signal   {seconds / reference:6.2f} x")  # noqa: T201


if __name__ == "__main__":
    main()
