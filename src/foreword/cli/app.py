"""The `foreword` command: collects the verbs, and turns every error into one line and an exit code. Knows no jobs."""

import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from foreword.cli import compare, demo, doctor, optimize, prompts, run, serve, tune
from foreword.errors import ForewordError, ForewordWarning

GPU_ERRORS = ("OutOfMemoryError", "AcceleratorError")
"""The names of torch's errors on a GPU; by name, because torch is not imported for every command."""


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("once", ForewordWarning)
                warnings.showwarning = _print_own_warnings(warnings.showwarning)
                return super().invoke(ctx)
        except ForewordError as error:
            if ctx.params.get("debug"):
                raise
            print(f"foreword: {' '.join(str(error).splitlines())}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None
        except RuntimeError as error:
            if type(error).__name__ not in GPU_ERRORS or ctx.params.get("debug"):
                raise
            first_line = next(iter(str(error).splitlines()), type(error).__name__)
            print(
                f"foreword: the GPU failed: {first_line:.200}; choose a smaller backbone or shorter rows, stop what "
                "else it runs, or hide it: CUDA_VISIBLE_DEVICES=",
                file=sys.stderr,
            )
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            print("foreword: stopped", file=sys.stderr)
            raise SystemExit(130) from None


def _print_own_warnings(default: Callable[..., None]) -> Callable[..., None]:
    def show(message: Warning | str, category: type[Warning], *more: Any, **keywords: Any) -> None:
        if issubclass(category, ForewordWarning):
            print(f"warning: {' '.join(str(message).splitlines())}", file=sys.stderr)
        else:
            default(message, category, *more, **keywords)

    return show


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="The right words, or the right vectors, in front of a frozen language model.",
)


@app.callback()
def options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    """Take the options of every verb. `debug` is read where errors are caught."""


app.command("demo")(demo.demo)
app.command("tune", cls=tune.Tune)(tune.tune)
app.command("compare")(compare.compare)
app.command("optimize")(optimize.optimize)
app.command("run")(run.run)
app.add_typer(prompts.app, name="prompts")
app.add_typer(serve.app, name="serve")
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the `foreword` command."""
    app(prog_name="foreword")
