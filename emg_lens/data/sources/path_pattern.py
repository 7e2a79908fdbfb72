"""Patterns of paths, `"{subject}/{label}_{repetition}.csv"`: fields in braces match anything but `/`."""

import re
from dataclasses import dataclass

MOST_FIELDS = 20


@dataclass(frozen=True)
class PathPattern:
    """A pattern in pieces.

    Attributes:
        fields: Names, in order.
        between: The text before the first field, between fields, and behind the last one.
    """

    fields: tuple[str, ...]
    between: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "PathPattern":
        """Read a pattern.

        Raises:
            ValueError: No field, too many, one twice, two that touch, or a brace too much.
        """
        pieces = re.split(r"\{(\w+)\}", text)
        fields, between = tuple(pieces[1::2]), tuple(pieces[::2])
        doubled = [name for i, name in enumerate(fields) if name in fields[:i]]
        if not fields or any("{" in piece or "}" in piece for piece in between):
            raise ValueError("files has no field in braces, or a brace too much")
        if len(fields) > MOST_FIELDS or doubled:
            what = f"more than {MOST_FIELDS} fields" if not doubled else f"the field {doubled[0]!r} twice"
            raise ValueError(f"files has {what}")
        if not all(between[1:-1]):
            touching = between.index("", 1)
            raise ValueError(f"files needs something between {fields[touching - 1]!r} and {fields[touching]!r}")
        return cls(fields, between)

    def readings(self, path: str) -> list[dict[str, str]]:
        """What the fields are in a path: nothing where it does not fit, and two readings where it fits in several ways.

        Fields are as long as they can be, from the left, or as short.
        """
        found = [self._read(path, longest) for longest in (True, False)]
        return [dict(zip(self.fields, one, strict=True)) for one in dict.fromkeys(found) if one is not None]

    def _read(self, path: str, longest: bool) -> tuple[str, ...] | None:
        """Every place is tried once: a search without memory takes ages on long names with many fields."""
        dead: set[tuple[int, int]] = set()

        def rest(k: int, start: int) -> tuple[str, ...] | None:
            behind, is_last, slash = self.between[k + 1], k == len(self.fields) - 1, path.find("/", start)
            stop = len(path) if slash < 0 else slash
            ends = [len(path) - len(behind)] if is_last else range(start + 1, stop + 1)
            for end in reversed(ends) if longest else ends:
                if start < end <= stop and path.startswith(behind, end) and (k + 1, end) not in dead:
                    found = () if is_last else rest(k + 1, end + len(behind))
                    if found is not None:
                        return path[start:end], *found
                    dead.add((k + 1, end))
            return None

        return rest(0, len(self.between[0])) if path.startswith(self.between[0]) else None
