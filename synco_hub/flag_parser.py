"""The parser of every command: flags made of dataclasses, help without repetition, errors of one line."""

from __future__ import annotations

import dataclasses
from argparse import Action, ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn, get_type_hints

from transformers import HfArgumentParser


class _HelpFormatter(ArgumentDefaultsHelpFormatter, RawDescriptionHelpFormatter):
    """One spelling of each flag, and defaults where there is one."""

    def _format_action_invocation(self, action: Action) -> str:
        spelled = [option for option in action.option_strings if "_" not in option]
        if not spelled or action.nargs == 0:
            return ", ".join(spelled) or super()._format_action_invocation(action)
        return f"{', '.join(spelled)} {self._format_args(action, action.dest.upper())}"

    def _get_help_string(self, action: Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class FlagParser(HfArgumentParser):
    """Makes dataclasses of flags.

    What `transformers`' parser does not know stands in a field's metadata: ``positional=True`` makes a positional
    argument of it, ``flag=False`` nothing.

    Args:
        kinds: Dataclasses, whose fields become flags in this order.
        only: For a dataclass the fields that become flags; the others keep their defaults.
        defaults: Defaults of this command where they are not those of the dataclass.
        options: For `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        kinds: Sequence[type],
        only: Mapping[type, Collection[str]] | None = None,
        defaults: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._only = dict(only or {})
        given = {"allow_abbrev": False, "formatter_class": _HelpFormatter, "usage": "%(prog)s [--flag value ...]"}
        super().__init__(list(kinds), **{**given, **options})
        self.set_defaults(**dict(defaults or {}))

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        title = getattr(dtype, "_argument_group_name", None)
        group = self.add_argument_group(title) if title else self
        hints = get_type_hints(dtype)
        for field in dataclasses.fields(dtype):
            if not field.init:
                continue
            flag = dict(field.metadata)
            if flag.pop("flag", True) is False or field.name not in self._only.get(dtype, (field.name,)):
                # The parent builds the dataclass of what the namespace holds.
                self.set_defaults(**{field.name: _default_of(field)})
                continue
            positional = flag.pop("positional", False)
            field = _copy_of(field, hints[field.name], flag)
            if positional:
                _add_positional(group, field, flag)
            else:
                self._parse_dataclass_field(group, field)

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage and leaving.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{message}; --help shows every flag and what it takes.")


def _default_of(field: Any) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _copy_of(field: Any, kind: Any, metadata: Mapping[str, Any]) -> Any:
    """The field with its resolved type; the parent changes what it is given."""
    copied = dataclasses.field(metadata=metadata)
    copied.name, copied.type, copied.init = field.name, kind, True
    copied.default, copied.default_factory = field.default, field.default_factory
    return copied


def _add_positional(group: Any, field: Any, flag: Mapping[str, Any]) -> None:
    optional = field.default is not dataclasses.MISSING
    several = getattr(field.type, "__origin__", None) is list
    options: dict[str, Any] = {"type": field.type.__args__[0] if several else field.type}
    if several:
        options["nargs"] = "*" if optional else "+"
    elif optional:
        options |= {"nargs": "?", "default": field.default}
    group.add_argument(field.name, **options, **flag)
