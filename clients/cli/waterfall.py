"""A trace as rows from top to bottom: decided here, drawn by trace_view.py.

Spans come in any order, late, or not at all, and from clocks that disagree; what they say of their parents may be
wrong. Whatever comes, each span is in exactly one row or counted in one, and what is odd about it is said.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from deploy.local.traces.records import Span

ALIKE_MAX = 4  # Of the spans of one parent that have one name, so many are shown.
DEPTH_MAX = 12  # Beyond it, nothing is indented any further.
SHORT_PART = 0.01  # Of the trace, below which spans are told together if they are many.
GAP_PART = 0.1  # Of the trace, from which on time without a span is worth a row.
SKEW_NS = 1_000_000  # Clocks of two machines differ by as much.
TEE, ELBOW, RULE, BLANK = "├ ", "└ ", "│ ", "  "


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRow:
    span: Span
    guides: str = ""  # What is drawn before the name,
    below: str = ""  # and before lines that belong to it.
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Time of a span in which none of the spans in it was under way."""

    guides: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """More of the same, or many that are short."""

    guides: str
    name: str  # What they are, after their number.
    service: str
    count: int
    total_ns: int
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A parent that is not here, of the spans that follow."""

    span_id: str
    child_count: int


Row = SpanRow | Gap | Folded | Missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Waterfall:
    rows: tuple[Row, ...]
    start_ns: int
    end_ns: int
    missing_count: int  # Parents that are not here.
    circle_count: int  # Spans that are their own ancestors.

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


def waterfall(spans: Iterable[Span], *, folds: bool = True) -> Waterfall:
    """Of at least one span. `folds`: of many that are alike, some stand for all."""
    known = {span.span_id: span for span in sorted(spans, key=lambda span: (span.start_ns, span.span_id))}
    start_ns = min(span.start_ns for span in known.values())
    end_ns = max(max(span.start_ns, span.end_ns) for span in known.values())
    whole_ns = end_ns - start_ns
    walk = _Walk(
        known=known,
        gap_ns=max(1, round(whole_ns * GAP_PART)),
        short_ns=round(whole_ns * SHORT_PART),
        folds=folds,
    )
    rows = tuple(walk.rows())
    return Waterfall(
        rows=rows,
        start_ns=start_ns,
        end_ns=end_ns,
        missing_count=sum(isinstance(row, Missing) for row in rows),
        circle_count=walk.circle_count,
    )


@dataclass(slots=True, kw_only=True)
class _Walk:
    known: Mapping[str, Span]
    gap_ns: int
    short_ns: int
    folds: bool
    circle_count: int = 0
    _seen: set[str] = field(default_factory=set)
    _children: dict[str, list[Span]] = field(default_factory=lambda: defaultdict(list))

    def rows(self) -> Iterator[Row]:
        for span in self.known.values():
            self._children[span.parent_id].append(span)
        for root in self._children[""]:
            yield from self._tree(root)
        for parent_id in [parent for parent in self._children if parent and parent not in self.known]:
            yield Missing(span_id=parent_id, child_count=len(self._children[parent_id]))
            for orphan in self._children[parent_id]:
                yield from self._tree(orphan)
        for span in self.known.values():  # What nobody led to.
            if span.span_id not in self._seen:
                self.circle_count += 1
                yield from self._tree(span, "is its own ancestor")

    def _tree(self, root: Span, *remarks: str) -> Iterator[Row]:
        # By a stack of our own: a chain of spans may be longer than Python's.
        waiting: list[Row] = [SpanRow(span=root, remarks=(*remarks, *self._remarks(root)))]
        while waiting:
            row = waiting.pop()
            if isinstance(row, SpanRow):
                self._seen.add(row.span.span_id)
                inner = self._inside(row)
                yield replace(row, below=_continued(row.guides) + (RULE if inner else BLANK))
                waiting.extend(reversed(inner))
            else:
                yield row

    def _inside(self, row: SpanRow) -> list[Row]:
        children = [span for span in self._children[row.span.span_id] if span.span_id not in self._seen]
        shown, folded = self._folded(children)
        parts: list[Span | Gap | Folded] = [*shown, *folded, *self._gaps(row.span, children)]
        parts.sort(key=lambda part: part.start_ns)
        base = _continued(row.guides)
        rows: list[Row] = []
        for place, part in enumerate(parts):
            guides = _indented(base, ELBOW if place == len(parts) - 1 else TEE)
            match part:
                case Span():
                    rows.append(SpanRow(span=part, guides=guides, remarks=self._remarks(part)))
                case _:
                    rows.append(replace(part, guides=guides))
        return rows

    def _folded(self, children: Sequence[Span]) -> tuple[list[Span], list[Folded]]:
        """Which of them have a row of their own. What failed has, and what others began in."""
        leaves = [span for span in children if self._may_fold(span)]
        shown = [span for span in children if not self._may_fold(span)]
        folded: list[Folded] = []
        short = [span for span in leaves if span.duration_ns < self.short_ns]
        if len(short) > ALIKE_MAX:
            folded.append(self._fold("short spans", short))
            leaves = [span for span in leaves if span.duration_ns >= self.short_ns]
        alike: dict[tuple[str, str], list[Span]] = defaultdict(list)
        for span in leaves:
            alike[span.service, span.name].append(span)
        for (_, name), group in alike.items():
            group.sort(key=lambda span: -span.duration_ns)
            # The row of a single one would take as much space as that one.
            kept_count = ALIKE_MAX if len(group) > ALIKE_MAX + 1 else len(group)
            shown.extend(group[:kept_count])
            if group[kept_count:]:
                folded.append(self._fold(f"more {name}", group[kept_count:]))
        return shown, folded

    def _may_fold(self, span: Span) -> bool:
        return self.folds and not span.is_error and not self._children.get(span.span_id)

    def _fold(self, name: str, spans: Sequence[Span]) -> Folded:
        self._seen.update(span.span_id for span in spans)
        return Folded(
            guides="",
            name=name,
            service=spans[0].service,
            count=len(spans),
            total_ns=sum(span.duration_ns for span in spans),
            start_ns=min(span.start_ns for span in spans),
            end_ns=max(span.end_ns for span in spans),
        )

    def _gaps(self, span: Span, children: Sequence[Span]) -> Iterator[Gap]:
        if not children:
            return
        covered_ns = span.start_ns
        for start_ns, end_ns in [(child.start_ns, child.end_ns) for child in children] + [(span.end_ns, 0)]:
            reached_ns = min(start_ns, span.end_ns)
            if reached_ns - covered_ns >= self.gap_ns:
                yield Gap(guides="", start_ns=covered_ns, end_ns=reached_ns)
            covered_ns = max(covered_ns, end_ns)

    def _remarks(self, span: Span) -> tuple[str, ...]:
        remarks = []
        parent = self.known.get(span.parent_id)
        if span.end_ns < span.start_ns:
            remarks.append("has no end")
        if span.is_reduced:
            remarks.append("was too large: its attributes are not kept")
        if parent is not None and parent.start_ns - span.start_ns > SKEW_NS:
            remarks.append(f"began {duration(parent.start_ns - span.start_ns)} before its parent")
        if parent is not None and parent.end_ns >= parent.start_ns and span.end_ns - parent.end_ns > SKEW_NS:
            remarks.append(f"ended {duration(span.end_ns - parent.end_ns)} after its parent")
        return tuple(remarks)


def duration(time_ns: int) -> str:
    """For people, with three digits at most."""
    for unit, size_ns in (("s", 1_000_000_000), ("ms", 1_000_000), ("µs", 1_000)):
        if time_ns >= size_ns:
            amount = time_ns / size_ns
            digits = 0 if amount >= 100 else 1 if amount >= 10 else 2
            return f"{amount:.{digits}f} {unit}"
    return f"{time_ns} ns"


def _continued(guides: str) -> str:
    """What stands under a row's guides."""
    if guides.endswith(TEE):
        return guides[: -len(TEE)] + RULE
    return guides[: -len(ELBOW)] + BLANK if guides.endswith(ELBOW) else guides


def _indented(base: str, last: str) -> str:
    return base[: DEPTH_MAX * len(RULE)] + last
