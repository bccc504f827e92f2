"""P-tuning of several tasks, as in NeMo: one network makes the virtual tokens of all from each one's learned inputs.

Tasks can be added to a finished run: the network goes on for them, while the tasks before keep the prompts that the
table has, NeMo's `new_tasks` and `existing_tasks`.
"""

from torch import Tensor, nn

from foreword.backbone import Vectors
from foreword.tuning.methods.method import Start
from foreword.tuning.methods.p_tuning import mlp_network


class SharedMLP(nn.Module):
    """3 · (D² + D) numbers, and P · D for every task.

    What the network makes is added to a task's start. It begins by adding nothing; in a task that is added to a
    finished run, by adding what it has learned there.
    """

    def __init__(self, *starts: Start) -> None:
        super().__init__()
        tokens = [start.embeddings for start in starts]
        for task, start in enumerate(tokens):
            self.register_buffer(f"start{task}", start.clone())
            self.register_buffer(f"scale{task}", start.std())
        self.inputs = nn.ParameterList(start / start.std() for start in tokens)
        self.shared = mlp_network(tokens[0].shape[1])

    def forward(self) -> tuple[Vectors, ...]:
        """Virtual tokens [P, D] of every task."""
        return tuple(Vectors(embeddings=self._tokens(task, inputs)) for task, inputs in enumerate(self.inputs))

    def _tokens(self, task: int, inputs: Tensor) -> Tensor:
        made: Tensor = self.get_buffer(f"start{task}") + self.get_buffer(f"scale{task}") * self.shared(inputs)
        return made
