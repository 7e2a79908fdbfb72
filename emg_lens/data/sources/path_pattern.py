"""Match paths to patterns such as `"{subject}/{label}_{repetition}.csv"`; a field matches anything but `/`."""

import re
from dataclasses import dataclass

MOST_FIELDS = 20


@dataclass(frozen=True)
class PathPattern:
    """A parsed pattern.

    Attributes:
        fields: Names of the fields, in order.
        between: The text before the first field, between fields, and after the last field.
    """

    fields: tuple[str, ...]
    between: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "PathPattern":
        """Read a pattern."""
        pieces = re.split(r"\{(\w+)\}", text)
        fields, between = tuple(pieces[1::2]), tuple(pieces[::2])
        doubled = [name for i, name in enumerate(fields) if name in fields[:i]]
        if not fields or any("{" in piece or "}" in piece for piece in between):
            raise ValueError("files has no field in braces, or braces that do not match")
        if len(fields) > MOST_FIELDS or doubled:
            what = f"more than {MOST_FIELDS} fields" if not doubled else f"the field {doubled[0]!r} twice"
            raise ValueError(f"files has {what}")
        if not all(between[1:-1]):
            touching = between.index("", 1)
            raise ValueError(f"files needs text between {fields[touching - 1]!r} and {fields[touching]!r}, such as _")
        return cls(fields, between)

    def readings(self, path: str) -> list[dict[str, str]]:
        """Return the values of the fields in a path: empty if the path does not match, two if it is ambiguous.

        The two readings are those with the longest and with the shortest fields, from the left.
        """
        values = [self._read(path, longest) for longest in (True, False)]
        return [dict(zip(self.fields, one, strict=True)) for one in dict.fromkeys(values) if one is not None]

    def _read(self, path: str, longest: bool) -> tuple[str, ...] | None:
        """Search for the fields. Failed positions are remembered; without that, long names take very long."""
        failed: set[tuple[int, int]] = set()

        def rest(k: int, start: int) -> tuple[str, ...] | None:
            after, is_last, slash = self.between[k + 1], k == len(self.fields) - 1, path.find("/", start)
            stop = len(path) if slash < 0 else slash
            ends = [len(path) - len(after)] if is_last else range(start + 1, stop + 1)
            for end in reversed(ends) if longest else ends:
                if start < end <= stop and path.startswith(after, end) and (k + 1, end) not in failed:
                    others = () if is_last else rest(k + 1, end + len(after))
                    if others is not None:
                        return path[start:end], *others
                    failed.add((k + 1, end))
            return None

        return rest(0, len(self.between[0])) if path.startswith(self.between[0]) else None
