"""Request bodies, as OpenAI's clients send them. Unknown fields are refused; so are those that we cannot honour.

Knows the wire format; knows no prompts and no engine.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_STOPS = 16
MAX_STOP = 200
MAX_TOP = 20
MAX_SEED = 2**63 - 1
LEAST_LOGPROB = -9999.0
"""What OpenAI tells of a token that cannot come: JSON has no minus infinity."""


def _text(value: Any) -> Any:
    """JSON can spell halves of characters, which no tokenizer takes; and lists without end, which no stack does."""
    stack = [(value, 0)]
    while stack:
        part, depth = stack.pop()
        if depth > 32:
            raise ValueError("nested more than 32 deep")
        if isinstance(part, str):
            try:
                part.encode()
            except UnicodeEncodeError:
                raise ValueError("holds half of a character, which is no text") from None
        elif isinstance(part, dict):
            stack += [(inner, depth + 1) for pair in part.items() for inner in pair]
        elif isinstance(part, list | tuple):
            stack += [(inner, depth + 1) for inner in part]
    return value


Text = Annotated[str, AfterValidator(_text)]
Json = Annotated[dict[str, Any], AfterValidator(_text)]
Stop = Annotated[Text, Field(min_length=1, max_length=MAX_STOP)]
Inputs = Annotated[dict[str, Any] | None, AfterValidator(_text)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


T = TypeVar("T")
Some = Annotated[list[T], Field(fail_fast=True)]
"""Of which the first that is wrong is told: a body has room for hundreds of thousands."""


class _Part(_Body):
    type: Literal["text", "input_text"]
    text: Text


class _Called(_Body):
    name: Text
    arguments: Text


class ToolCall(_Body):
    """A call that a model made earlier."""

    id: Text
    type: Literal["function"] = "function"
    function: _Called


class Message(_Body):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | Some[_Part] | None = None
    name: Text | None = None
    tool_calls: Some[ToolCall] | None = None
    tool_call_id: Text | None = None
    refusal: Text | None = None
    type: Literal["text"] | None = None
    """lm-eval sends it."""

    @field_validator("content", mode="before")
    @classmethod
    def _text_only(cls, value: Any) -> Any:
        for part in value if isinstance(value, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "prompt_embeds":
                raise ValueError("raw embeddings are refused: soft prompts come from the prompt table alone")
            if kind not in ("text", "input_text"):
                raise ValueError("only parts of type 'text' are read")
        return value

    @property
    def text(self) -> str:
        """Its content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(_Body):
    """What a stream holds beside the answer."""

    include_usage: bool = False
    include_obfuscation: bool = False
    """Taken and not done: it pads chunks to one length."""


class JsonSchema(_Body):
    """A schema under a name."""

    name: Text = "answer"
    description: Text | None = None
    schema_: Json = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Body):
    """The form that an answer is constrained to."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _fits(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("type 'json_schema' and a 'json_schema' go together")
        return self


class Function(_Body):
    """What a tool takes."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: Text = ""
    parameters: Json | None = None
    strict: bool | None = None


class Tool(_Body):
    """A function that a model may call."""

    type: Literal["function"]
    function: Function


class _Name(_Body):
    name: str


class NamedTool(_Body):
    """The one function to call."""

    type: Literal["function"]
    function: _Name


class _Sampled(_Body):
    """What chats and completions have in common."""

    model: Text = Field(min_length=1, max_length=300)
    inputs: Inputs = None
    """Of the prompt's template, by name."""
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(0.0, ge=0, le=10)
    """0, as prompts are measured, unless a request says otherwise."""
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, ge=-MAX_SEED - 1, le=MAX_SEED)
    n: int = Field(1, ge=1, le=128)
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    frequency_penalty: Literal[0] | float | None = None
    presence_penalty: Literal[0] | float | None = None
    logit_bias: dict[str, float] | None = None
    user: Text | None = None
    """Taken and not used, as are the other names that do not change an answer."""

    @field_validator("frequency_penalty", "presence_penalty", "logit_bias")
    @classmethod
    def _none(cls, value: Any) -> Any:
        if value:
            raise ValueError("this server cannot do that; leave it out or give 0")
        return value

    @field_validator("n", "stream", "temperature", "top_p", mode="before")
    @classmethod
    def _default(cls, value: Any, info: Any) -> Any:
        return cls.model_fields[info.field_name].default if value is None else value

    @property
    def stops(self) -> tuple[str, ...]:
        """As a tuple, whatever form they came in."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatBody(_Sampled):
    """POST /v1/chat/completions"""

    messages: Some[Message] = Field(default=[], max_length=1_000)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    response_format: ResponseFormat | None = None
    tools: Some[Tool] | None = Field(None, max_length=64)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    metadata: Json | None = None
    store: bool | None = None
    service_tier: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None


class CompletionBody(_Sampled):
    """POST /v1/completions"""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=128)] | None = None
    max_tokens: int | None = Field(None, ge=0)
    """0 with `echo` alone."""
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    echo: bool | None = None
    best_of: Literal[1] | None = None
    suffix: Literal[""] | None = None

    @model_validator(mode="after")
    def _writes(self) -> "CompletionBody":
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("'max_tokens' 0 needs 'echo': true; nothing would be answered")
        return self

    @field_validator("prompt", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        if isinstance(value, list) and value and not isinstance(value[0], str):
            raise ValueError("token ids are refused: send text")
        return value


class ClassifyBody(_Body):
    """POST /v1/classify"""

    model: Text = Field(min_length=1, max_length=300)
    inputs: Inputs = None
    input: Text | None = None
    """What fills the prompt's only input."""
    user: Text | None = None


class PromptBody(_Body):
    """A prompt of the table: `name`, `name@alias` or `name:3`."""

    prompt: Text = Field(min_length=1, max_length=300)
