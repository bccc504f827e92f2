"""A listener that keeps what it hears."""

from foreword.listen import Progress


class Heard:
    """`said`, `stages` and `steps`, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.stages: list[tuple[str, int, int]] = []
        self.figures: list[str] = []
        self.steps: list[Progress] = []

    def say(self, text: str, heading: str = "") -> None:
        self.said.append(heading + text)

    def stage(self, name: str, done: int, total: int, figures: str = "") -> None:
        self.stages.append((name, done, total))
        self.figures.append(figures)

    def step(self, name: str, progress: Progress) -> None:  # noqa: ARG002
        self.steps.append(progress)
