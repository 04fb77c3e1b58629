"""From the user's document to a `Datasource`, validated as a whole, and which changes of one are allowed.

Fields that a key, id, dimension or metric names and that have no column get one: `double` for sum, min, max and
quantile, `string` for everything else, its path being its name. So the short document of the interface is complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rta.errors import ConflictError, InvalidDatasourceError
from rta.events.builtin import events_document
from rta.events.document import Section, wrong
from rta.events.schemas import (
    COLUMNS_MAX,
    DATASOURCE_NAME,
    DIMENSIONS_MAX,
    NAME,
    RESERVED,
    ROLLUPS_MAX,
    Column,
    ColumnType,
    Datasource,
    Grain,
    MetricSpec,
    MetricType,
    Retention,
    Rollup,
)
from rta.events.sources import check_paths, described, parse_source

__all__ = ["check_change", "events_document", "parse_datasource"]

PARTITIONS_MAX = 1024
METRICS_MAX = 100
PATH_DEPTH_MAX = 16
LENGTH_MAX = 1 << 20
_NUMERIC = {ColumnType.LONG, ColumnType.DOUBLE}
_SCALAR = {ColumnType.STRING, ColumnType.LONG, ColumnType.BOOLEAN, ColumnType.DOUBLE, ColumnType.TIMESTAMP}
_IDENTIFYING = {ColumnType.STRING, ColumnType.LONG}
_NUMBER_METRICS = {MetricType.SUM, MetricType.MIN, MetricType.MAX, MetricType.QUANTILE}
_DOCUMENT = [
    "name",
    "time",
    "key",
    "id",
    "columns",
    "rollups",
    "retention",
    "partitions",
    "limits",
    "allowed_lateness",
    "idle_after",
    "dedup_window",
    "description",
    "source",
]


def parse_datasource(document: Mapping[str, Any], *, incarnation: str, version: int, partitions: int) -> Datasource:
    """The datasource that a document describes.

    Args:
        document: As `PUT /v1/datasources/{name}` and `rta.yaml` take it.
        incarnation: The id that this life of the name has.
        version: The catalog's number of this definition.
        partitions: How many it gets where the document does not say.

    Raises:
        InvalidDatasourceError: an unknown key, a wrong value or a contradiction; the message names the path.
    """
    section = Section(document, "", _DOCUMENT)
    name = section.text("name")
    if not DATASOURCE_NAME.fullmatch(name):
        raise wrong("name", name, "1-64 of a-z, 0-9, '_' and '-', the first a letter or '_'")
    keys = section.texts("key")
    id_name = section.text("id") if section.get("id") is not None else None
    rollups = _rollups(section)
    columns = _with_implied(_columns(section, id_name), keys, id_name, rollups)
    time_path = _path(section.at("time"), section.text("time"))
    _check_columns(columns, time_path)
    for column_name in (*keys, *([id_name] if id_name else [])):
        _check_identifying(columns[column_name])
    for rollup in rollups:
        _check_rollup(rollup, columns)
    limits = Section(section.get("limits") or {}, "limits", ["too_old", "in_the_future"])
    description = section.get("description")
    if description is not None and not isinstance(description, str):
        raise wrong("description", description, "a string")
    made = Datasource(
        name=name,
        incarnation=incarnation,
        version=version,
        partitions=section.whole("partitions", partitions, PARTITIONS_MAX) or partitions,
        time_path=time_path,
        keys=keys,
        id=id_name,
        columns=tuple(columns.values()),
        rollups=rollups,
        retention=_retention(section),
        too_old_ms=limits.duration_ms("too_old", None),
        in_the_future_ms=limits.required_duration_ms("in_the_future", 86_400_000),
        allowed_lateness_ms=section.required_duration_ms("allowed_lateness", 60_000),
        idle_after_ms=section.required_duration_ms("idle_after", 60_000),
        dedup_window_ms=section.required_duration_ms("dedup_window", 86_400_000),
        source=parse_source(section),
        document=dict(document),
    )
    check_paths(made)
    return made


def check_change(old: Datasource, new: Datasource) -> None:
    """Refuse a change of a definition that would make stored data wrong. Adding columns and rollups is always fine, as is
    removing rollups.

    Raises:
        ConflictError: a column's type, path or requirement of an older file, the time, key, id, the number of
            partitions or an existing rollup would become something else, a column would go away, or raw events would be
            kept from now on only.
    """
    for what, before, after in (
        ("name", old.name, new.name),
        ("time", ".".join(old.time_path), ".".join(new.time_path)),
        ("key", ", ".join(old.keys) or None, ", ".join(new.keys) or None),
        ("id", old.id, new.id),
        ("partitions", old.partitions, new.partitions),
        ("source", described(old.source), described(new.source)),
    ):
        if before != after:
            raise _changed(old, f"'{what}'", before, after)
    if old.retention.events_ms is None and new.retention.events_ms is not None:
        kept = (old.document.get("retention") or {}).get("events"), (new.document.get("retention") or {}).get("events")
        raise _changed(old, "'retention.events'", *kept)
    for column in old.columns:
        now = new.column(column.name)
        if now is None:
            raise _changed(old, f"column '{column.name}'", column.type, "nothing")
        if now.type is not column.type:
            raise _changed(old, f"type of column '{column.name}'", column.type, now.type)
        if now.path != column.path:
            raise _changed(old, f"path of column '{column.name}'", ".".join(column.path), ".".join(now.path))
    for rollup in old.rollups:
        later = new.rollup(rollup.name)
        if later is not None:
            check_same_shape(old, rollup, later)


def check_same_shape(old: Datasource, before: Rollup, after: Rollup) -> None:
    """A name stands for one shape for good, so that stored rows and rows under way of one name always fit together.

    Raises ConflictError naming what differs.
    """
    for what, was, becomes in (
        ("granularity", before.granularity, after.granularity),
        ("dimensions", ", ".join(before.dimensions), ", ".join(after.dimensions)),
        ("metrics", _metrics_text(before), _metrics_text(after)),
    ):
        if was != becomes:
            raise ConflictError(
                f"changing the datasource '{old.name}': the {what} of rollup '{before.name}' would go from '{was}' to "
                f"'{becomes}', and what is stored under that name has the shape of before",
                f"add the new shape under a name of its own, such as '{before.name}_2', which is filled from history, and "
                f"leave '{before.name}' out once it is",
            )


def _metrics_text(rollup: Rollup) -> str:
    return ", ".join(f"{m.name} = {m.type}({m.field or ''})" for m in rollup.metrics)


def _changed(old: Datasource, what: str, before: object, after: object) -> ConflictError:
    return ConflictError(
        f"changing the datasource '{old.name}': {what} would go from '{before}' to '{after}', and what is stored "
        "would no longer be right",
        "use a new name for the column or rollup, or make a new datasource and fill it from this one",
    )


def _columns(section: Section, id_name: str | None) -> dict[str, Column]:
    declared = section.get("columns")
    if declared is None:
        return {}
    if not isinstance(declared, Mapping):
        raise wrong("columns", declared, "an object of names and types")
    columns = {}
    for name, spec in declared.items():
        _check_name(f"columns.{name}", name)
        columns[name] = _column(name, spec, required=name == id_name)
    return columns


def _column(name: str, spec: Any, *, required: bool) -> Column:
    where = f"columns.{name}"
    if isinstance(spec, str):
        return Column(name, _column_type(where, spec), _path(where, name), required)
    section = Section(spec, where, ["path", "type", "required", "max_length"])
    column_type = _column_type(section.at("type"), section.text("type"))
    length_max = section.whole("max_length", None, LENGTH_MAX)
    if length_max is not None and column_type is not ColumnType.STRING:
        raise wrong(section.at("max_length"), length_max, "it only to a column of type string")
    path = _path(section.at("path"), section.text("path") if "path" in section else name)
    return Column(name, column_type, path, required or section.flag("required"), length_max)


def _column_type(where: str, value: str) -> ColumnType:
    try:
        return ColumnType(value)
    except ValueError:
        raise wrong(where, value, f"one of {', '.join(ColumnType)}") from None


def _check_name(where: str, name: object) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise wrong(where, name, "a name of 1-128 letters, digits, '_', '-' and '.', the first a letter or '_'")
    if name in RESERVED or name.startswith("__"):
        raise wrong(where, name, "another name: this one is reserved")


def _path(where: str, text: str) -> tuple[str, ...]:
    """The keys of a dotted path; a key with a dot stands in double quotes: `custom_properties."a.b"`."""
    keys = []
    rest = text
    while rest:
        if rest.startswith('"'):
            key, quote, rest = rest[1:].partition('"')
            if not quote or (rest and not rest.startswith(".")):
                raise wrong(where, text, "a dotted path with closed quotes")
            rest, more = rest[1:], rest.startswith(".")
        else:
            key, dot, rest = rest.partition(".")
            more = bool(dot)
        if not key or (more and not rest):
            raise wrong(where, text, "a dotted path without empty parts")
        keys.append(key)
    if not 1 <= len(keys) <= PATH_DEPTH_MAX:
        raise wrong(where, text, f"a dotted path of at most {PATH_DEPTH_MAX} parts")
    return tuple(keys)


def _with_implied(
    columns: dict[str, Column], keys: Sequence[str], id_name: str | None, rollups: Sequence[Rollup]
) -> dict[str, Column]:
    wanted = dict.fromkeys([*keys, *([id_name] if id_name else [])], ColumnType.STRING)
    for metric in (m for r in rollups for m in r.metrics if m.field is not None and m.type in _NUMBER_METRICS):
        wanted.setdefault(str(metric.field), ColumnType.DOUBLE)
    names = [d for r in rollups for d in r.dimensions]
    names += [m.field for r in rollups for m in r.metrics if m.field is not None]
    for name in names:
        wanted.setdefault(name, ColumnType.STRING)
    complete = dict(columns)
    for name, column_type in wanted.items():
        if name not in complete:
            _check_name(f"columns.{name}", name)
            complete[name] = Column(name, column_type, _path(name, name), name == id_name)
    return complete


def _check_columns(columns: Mapping[str, Column], time_path: tuple[str, ...]) -> None:
    """Paths must lead to different values, none of them inside another column's value."""
    if len(columns) > COLUMNS_MAX:
        raise InvalidDatasourceError(f"'columns' has {len(columns)} entries", f"at most {COLUMNS_MAX} are possible")
    taken: dict[tuple[str, ...], str] = {time_path: "time"}
    for column in columns.values():
        if column.path in taken:
            other = taken[column.path]
            raise InvalidDatasourceError(
                f"'columns.{column.name}' has the path '{'.'.join(column.path)}', which '{other}' has already",
                "the time needs no column of its own" if other == "time" else "leave one of them out",
            )
        taken[column.path] = column.name
    for path, name in taken.items():
        for depth in range(1, len(path)):
            if path[:depth] in taken:
                raise InvalidDatasourceError(
                    f"'{name}' with the path '{'.'.join(path)}' lies inside the value of '{taken[path[:depth]]}'",
                    "leave one of them out; members of a json column can be queried without a column",
                )
    folded: dict[str, str] = {}
    for name in columns:
        twin = folded.setdefault(name.lower(), name)
        if twin != name:
            raise InvalidDatasourceError(
                f"'columns.{name}' and 'columns.{twin}' differ only in case", "SQL can't tell them apart: rename one"
            )


def _check_identifying(column: Column) -> None:
    if column.type not in _IDENTIFYING:
        raise InvalidDatasourceError(
            f"key and id must be of type string or long, and '{column.name}' is {column.type}", "use another column"
        )


def _rollups(section: Section) -> tuple[Rollup, ...]:
    documents = section.items("rollups")
    if len(documents) > ROLLUPS_MAX:
        raise InvalidDatasourceError(f"'rollups' has {len(documents)} entries", f"at most {ROLLUPS_MAX} are possible")
    rollups = tuple(_rollup(document, f"rollups[{i}]") for i, document in enumerate(documents))
    _check_distinct("rollups", [r.name for r in rollups])
    return rollups


def _rollup(document: Any, where: str) -> Rollup:
    section = Section(document, where, ["name", "granularity", "dimensions", "metrics"])
    name = section.text("name")
    if not DATASOURCE_NAME.fullmatch(name) or name in {"events", "rejected", "sessions"}:
        raise wrong(section.at("name"), name, "1-64 of a-z, 0-9, '_' and '-', and not events, rejected or sessions")
    grain = section.text("granularity")
    if grain not in list(Grain):
        raise wrong(section.at("granularity"), grain, f"one of {', '.join(Grain)}")
    dimensions = section.texts("dimensions")
    if len(dimensions) > DIMENSIONS_MAX:
        raise wrong(section.at("dimensions"), len(dimensions), f"at most {DIMENSIONS_MAX}")
    documents = section.items("metrics")
    if len(documents) > METRICS_MAX:
        raise wrong(section.at("metrics"), len(documents), f"at most {METRICS_MAX}")
    metrics = [_metric(m, f"{where}.metrics[{i}]") for i, m in enumerate(documents)]
    if not any(m.type is MetricType.COUNT for m in metrics):
        taken = {*dimensions, *(m.name for m in metrics)}
        metrics.append(MetricSpec("__count" if "count" in taken else "count", MetricType.COUNT))
    stored = [*dimensions, *(s for m in metrics for s in _stored_names(m))]
    _check_distinct(where, stored)
    return Rollup(name, Grain(grain), dimensions, tuple(metrics))


def _metric(document: Any, where: str) -> MetricSpec:
    section = Section(document, where, ["name", "type", "field"])
    name = section.text("name")
    _check_name(section.at("name"), name)
    kind = section.text("type")
    if kind not in list(MetricType):
        raise wrong(section.at("type"), kind, f"one of {', '.join(MetricType)}")
    metric_type = MetricType(kind)
    if metric_type is MetricType.COUNT:
        if section.get("field") is not None:
            raise wrong(section.at("field"), section.get("field"), "no field: a count counts events")
        return MetricSpec(name, metric_type)
    return MetricSpec(name, metric_type, section.text("field"))


def _stored_names(metric: MetricSpec) -> list[str]:
    match metric.type:
        case MetricType.SUM:
            return [metric.name, metric.n]
        case MetricType.QUANTILE | MetricType.UNIQUE | MetricType.TOP | MetricType.THETA:
            return [metric.name, metric.items, metric.sketch]
        case _:
            return [metric.name]


def _check_distinct(where: str, names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidDatasourceError(f"'{where}' has '{name}' twice", "rename one")
        seen.add(name)


def _check_rollup(rollup: Rollup, columns: Mapping[str, Column]) -> None:
    where = f"rollup '{rollup.name}'"
    for dimension in rollup.dimensions:
        if columns[dimension].type not in _SCALAR:
            raise InvalidDatasourceError(
                f"{where}: the dimension '{dimension}' is {columns[dimension].type}", "use a column with one value"
            )
    for metric in rollup.metrics:
        if metric.field is None:
            continue
        column = columns[metric.field]
        if metric.type in _NUMBER_METRICS and column.type not in _NUMERIC:
            raise InvalidDatasourceError(
                f"{where}: the metric '{metric.name}' is a {metric.type} of '{column.name}', which is {column.type}",
                "use a long or double column",
            )
        if metric.type in {MetricType.UNIQUE, MetricType.TOP, MetricType.THETA} and column.type not in _SCALAR:
            raise InvalidDatasourceError(
                f"{where}: the metric '{metric.name}' is a {metric.type} of '{column.name}', which is {column.type}",
                "use a column with one value",
            )


def _retention(section: Section) -> Retention:
    default = Retention()
    if section.get("retention") is None:
        return default
    given = Section(section.get("retention"), "retention", ["events", "rejected", "sessions", "rollups"])
    grains = Section(given.get("rollups") or {}, "retention.rollups", list(Grain))
    return Retention(
        events_ms=given.duration_ms("events", default.events_ms),
        rejected_ms=given.duration_ms("rejected", default.rejected_ms),
        sessions_ms=given.duration_ms("sessions", default.sessions_ms),
        rollups_ms={g: grains.required_duration_ms(g, default.rollups_ms[g]) for g in Grain},
    )
