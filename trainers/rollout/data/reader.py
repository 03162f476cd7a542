"""From a row's content to a prompt and its tokens."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trainers.config.data import DataConfig, DataSetConfig
from trainers.errors import DataInvalid
from trainers.rollout.data.cache import key_of
from trainers.rollout.data.rows import json_name

DATA_SET = "data_set"
"""The key of a sample's metadata that holds the name of its data set, where it has one."""
TOOLS = "tools"

type Prompt = str | list[dict[str, Any]]
type LabelCheck = Callable[[Any, Mapping[str, Any]], None]
"""Raises ValueError saying what is wrong with a row's label, given its metadata."""


class Tokenizer(Protocol):
    """What is asked of a Hugging Face tokenizer."""

    def encode(self, text: str, /, *, add_special_tokens: bool) -> list[int]: ...

    def apply_chat_template(self, conversation: list[dict[str, Any]], /, **options: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One row, checked."""

    where: Callable[[], str]
    """Its place, for an error; it may take reading the file up to there."""
    prompt: Prompt
    label: Any
    metadata: dict[str, Any]
    """With the name of its data set, and its tools, where there are any."""
    tools: list[Any] | None


class RowReader:
    """Knows the keys of one data set."""

    def __init__(self, data_set: DataSetConfig, *, messages: bool) -> None:
        self._set = data_set
        self._messages = messages
        """Whether a prompt may be a list of messages."""

    @property
    def key(self) -> str:
        """Two readers with the same key find the same rows right."""
        keys = self._set
        return key_of(
            keys.input_key, keys.label_key, keys.metadata_key, keys.tool_key, keys.name is None, self._messages
        )

    def row(self, content: dict[str, Any], where: Callable[[], str], check_label: LabelCheck | None = None) -> Row:
        """Raises DataInvalid, which names the place, the key, and the field of the spec that says it."""
        keys = self._set
        for field, key in (("input_key", keys.input_key), ("label_key", keys.label_key)):
            if key is not None and key not in content:
                raise DataInvalid(f"{where()}: no key {key!r} (data.{field}); its keys are {sorted(content)}")
        label = None if keys.label_key is None else content[keys.label_key]
        try:
            metadata, tools = self._metadata(content), self._tools(content)
            if check_label is not None:
                check_label(label, metadata)
            prompt = self._prompt(content[keys.input_key or ""])
        except ValueError as error:
            raise DataInvalid(f"{where()}: {error}") from None
        return Row(where, prompt, label, metadata if tools is None else metadata | {TOOLS: tools}, tools)

    def _metadata(self, content: dict[str, Any]) -> dict[str, Any]:
        key, name = self._set.metadata_key or "", self._set.name
        metadata = _parsed(content.get(key), f"{key!r} (data.metadata_key)")
        if metadata is None:
            metadata = {}
        if not isinstance(metadata, dict):
            raise ValueError(f"{key!r} (data.metadata_key) is a JSON {json_name(metadata)}, not an object")
        if name is None:
            return metadata
        if metadata.get(DATA_SET, name) != name:
            raise ValueError(f"its metadata says {DATA_SET} = {metadata[DATA_SET]!r}, and the spec names it {name!r}")
        return metadata | {DATA_SET: name}

    def _tools(self, content: dict[str, Any]) -> list[Any] | None:
        key = self._set.tool_key
        tools = None if key is None else _parsed(content.get(key), f"{key!r} (data.tool_key)")
        if tools is not None and not isinstance(tools, list):
            raise ValueError(f"{key!r} (data.tool_key) is a JSON {json_name(tools)}, expected an array")
        return tools

    def _prompt(self, value: Any) -> Prompt:
        key = f"{self._set.input_key!r} (data.input_key)"
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise ValueError(f"{key} is a JSON {json_name(value)}, expected a string or a list of messages")
        if not self._messages:
            raise ValueError(f"{key} is a list of messages: set data.apply_chat_template to render it")
        if not value or not all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in value):
            raise ValueError(f"{key} must be a non-empty list of messages, each with a 'role'")
        for message in value:
            _only_text(message.get("content"), key)
        return value


class PromptTokens:
    """The tokens of prompts, as the run renders them."""

    def __init__(self, config: DataConfig, tokenizer: Tokenizer) -> None:
        self._template = config.apply_chat_template
        self._options: dict[str, Any] = {
            "add_generation_prompt": True,
            "tokenize": True,
            "return_dict": False,
            **config.apply_chat_template_kwargs,
        }
        self._tokenizer = tokenizer

    @property
    def key(self) -> str | None:
        """Two with the same key make the same tokens; None where that cannot be told."""
        tokenizer: Any = self._tokenizer
        if not getattr(tokenizer, "is_fast", False):
            return None
        whole = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        return key_of(whole, str(getattr(tokenizer, "chat_template", None)), self._template, self._options, "plain")

    def of(self, row: Row) -> list[int]:
        """Raises DataInvalid, which names the row."""
        refuses = "the tokenizer's chat template" if self._template else "the tokenizer"
        try:
            if self._template:
                tools = {} if row.tools is None else {"tools": row.tools}
                tokens = self._tokenizer.apply_chat_template(_messages(row), **self._options, **tools)
            else:
                tokens = self._tokenizer.encode(str(row.prompt), add_special_tokens=False)
        except Exception as error:  # a template is a program: Jinja's own errors, TypeError, ValueError, …
            raise DataInvalid(f"{row.where()}: {refuses} refuses it: {error}") from error
        return self._some(row, tokens)

    def of_many(self, rows: Sequence[Row]) -> list[list[int]]:
        """The same for each; a fast tokenizer uses all processors for it."""
        tokenizer: Any = self._tokenizer
        if not getattr(tokenizer, "is_fast", False) or any(row.tools is not None for row in rows):
            return [self.of(row) for row in rows]
        try:
            if self._template:
                found = tokenizer.apply_chat_template([_messages(row) for row in rows], **self._options)
            else:
                found = tokenizer([str(row.prompt) for row in rows], add_special_tokens=False)["input_ids"]
        except Exception:  # one of them: found out, and named, one by one
            return [self.of(row) for row in rows]
        return [self._some(row, tokens) for row, tokens in zip(rows, found, strict=True)]

    @staticmethod
    def _some(row: Row, tokens: Any) -> list[int]:
        if not tokens:
            raise DataInvalid(f"{row.where()}: the prompt has no tokens")
        return list(tokens)


def _parsed(value: Any, key: str) -> Any:
    """Tables, whose columns have one type, keep what differs from row to row as text."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{key} is text, and not JSON: {error}") from None


def _only_text(content: Any, key: str) -> None:
    """Some templates write a place for an image that no engine of the run would be sent."""
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and (kind := part.get("type", "text")) != "text":
            raise ValueError(f"{key} has a message with a part of type {kind!r}: prompts are text")


def _messages(row: Row) -> list[dict[str, Any]]:
    return [{"role": "user", "content": row.prompt}] if isinstance(row.prompt, str) else row.prompt
