"""P-tuning (Liu 2021): a network over one learned input per virtual token makes the virtual tokens.

Three networks: an MLP as in PEFT, an LSTM as in the paper, and the feed-forward block of a transformer, NeMo's `tpmlp`.
What they make is added to the start and their last layer begins at zero: the first virtual tokens are the start itself,
where PEFT's and NeMo's begin at random.
"""

from torch import Tensor, nn

from foreword.backbone import Vectors
from foreword.tuning.methods.method import Start, zeroed


class _Added(nn.Module):
    """The start plus what `self.network` makes of the inputs."""

    def __init__(self, start: Start, network: nn.Module) -> None:
        super().__init__()
        tokens = start.embeddings
        self.register_buffer("start", tokens.clone())
        self.register_buffer("scale", tokens.std())
        self.inputs = nn.Parameter(tokens / tokens.std())
        self.network = network

    def forward(self) -> Vectors:
        """Virtual tokens [P, D]."""
        return Vectors(embeddings=self.start + self.scale * self.network(self.inputs))


def mlp(start: Start) -> nn.Module:
    """Three linear layers of width D: P · D + 3 · (D² + D) numbers."""
    return _Added(start, mlp_network(start.embeddings.shape[1]))


def mlp_network(D: int) -> nn.Module:
    """From inputs [P, D] to what is added to the start [P, D]: nothing at first."""
    return nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D), nn.ReLU(), zeroed(nn.Linear(D, D)))


def tpmlp(start: Start) -> nn.Module:
    """One hidden layer of 4 · D: P · D + 8 · D² + 5 · D numbers."""
    D = start.embeddings.shape[1]
    return _Added(start, nn.Sequential(nn.Linear(D, 4 * D), nn.GELU(), zeroed(nn.Linear(4 * D, D))))


def lstm(start: Start) -> nn.Module:
    """Two layers of a bidirectional LSTM that reads the tokens in order, then two linear ones."""
    return _Added(start, _Lstm(start.embeddings.shape[1]))


class _Lstm(nn.Module):
    def __init__(self, D: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(D, D // 2, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Sequential(nn.Linear(D // 2 * 2, D), nn.ReLU(), zeroed(nn.Linear(D, D)))

    def forward(self, inputs: Tensor) -> Tensor:
        read: Tensor = self.lstm(inputs[None])[0][0]
        made: Tensor = self.head(read)
        return made
