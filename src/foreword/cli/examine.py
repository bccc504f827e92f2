"""`foreword doctor RUN`: shows a run's settings, progress, learning curve and warnings."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from foreword.cli.console import print_json, print_table

if TYPE_CHECKING:
    from foreword.tuning import Record, RunProgress


def examine(folder: Path, as_json: bool) -> None:
    """Print what is in a run's folder; nothing in it is changed."""
    from foreword.tuning import diagnose, read_progress, read_record

    record, progress = read_record(folder), read_progress(folder)
    file = record.file
    warnings = diagnose(record.curve, file.options) if file.lora is None else ()  # they name switches of soft prompts
    if as_json:
        print_json(
            {
                "run": str(folder),
                "id": file.id,
                "task": file.task,
                "method": file.method,
                "backbone": file.backbone,
                "dtype": file.dtype,
                "settings": asdict(file.options),
                "environment": file.environment,
                "latest_environment": file.latest_environment,
                "command": file.command,
                "latest_command": file.latest_command,
                "steps": record.step,
                "best_step": record.best_step,
                "seconds": _seconds(record),
                "curve": [asdict(point) for point in record.curve],
                "progress": {**progress.model_dump(), "alive": progress.alive} if progress else None,
                "warnings": list(warnings),
            }
        )
        return
    for name, value in _facts(folder, record, progress):
        print(f"{name:12} {value}")
    print()
    _print_curve(record)
    for warning in warnings:
        print(f"\nwarning: {warning}")
    if not warnings:
        print("\nNo warnings.")


def _facts(folder: Path, record: "Record", progress: "RunProgress | None") -> Iterator[tuple[str, str]]:
    file = record.file
    yield "run", f"{folder}, {file.id}"
    if progress is not None:
        yield "state", _state(progress)
    yield "task", file.task if isinstance(file.task, str) else ", ".join(file.task)
    yield "backbone", f"{file.backbone}, {file.dtype}"
    yield "method", file.method
    settings = {name: value for name, value in asdict(file.options).items() if value is not None and name != "method"}
    settings["learning_rate"] = file.options.rate
    yield "settings", ", ".join(f"{name} {value}" for name, value in settings.items())
    yield "steps", f"{record.step:,} of {file.options.steps:,} done; the version of step {record.best_step:,} is kept"
    yield "seconds", f"{_seconds(record):,.0f} until the last measurement"

    for name, command in (("command", file.command), ("resumed by", file.latest_command)):
        if command:
            yield name, command
    for name, environment in (("on", file.environment), ("resumed on", file.latest_environment)):
        if environment:
            yield name, ", ".join(f"{key} {value}" for key, value in environment.items())


def _state(progress: "RunProgress") -> str:
    at = f"step {progress.step:,}" + (f" of {progress.steps:,}" if progress.steps else "")
    if progress.died:
        return f"died at {at}: process {progress.pid} is gone; --resume goes on"
    if not progress.under_way:
        why = f": {progress.reason}" if progress.reason else ""
        return f"{progress.state} at {at}{why}"
    figures = [progress.state, at]
    if progress.loss is not None:
        figures.append(f"loss {progress.loss:.3f}")
    if progress.learning_rate is not None:
        figures.append(f"learning rate {progress.learning_rate:.2g}")
    if progress.rows_per_second is not None:
        figures.append(f"{progress.rows_per_second:,.0f} rows/s")
    if progress.seconds_left is not None:
        figures.append(f"{progress.seconds_left:,.0f} s left")
    return ", ".join([*figures, f"process {progress.pid} on {progress.host}"])


def _print_curve(record: "Record") -> None:
    from rich.table import Table

    table = Table("step", "loss", "dev", "norm ratio", "moved", "gradient", "clipped", "seconds", box=None)
    for column in table.columns:
        column.justify = "right"
    for point in record.curve:
        table.add_row(
            f"{'* ' * (point.step == record.best_step)}{point.step:,}",
            *(_number(value, ".3f") for value in (point.loss, point.dev, point.norm_ratio)),
            _number(point.moved, ".1%"),
            _number(point.gradient, ".3g"),
            _number(point.clipped, ".0%"),
            f"{point.seconds:,.0f}",
        )
    print_table(table)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _seconds(record: "Record") -> float:
    return round(record.curve[-1].seconds, 2) if record.curve else 0.0
