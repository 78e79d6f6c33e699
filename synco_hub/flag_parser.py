"""The parser of every command: flags made of dataclasses, help without repetition, errors of one line."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from argparse import Action, ArgumentDefaultsHelpFormatter, BooleanOptionalAction
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn, cast, get_type_hints

from transformers import HfArgumentParser

from synco_hub.errors import FlagError, suggest


class _HelpFormatter(ArgumentDefaultsHelpFormatter):
    """One spelling of each flag, a default where there is one, and paragraphs; what is indented stays as it is."""

    def _format_action_invocation(self, action: Action) -> str:
        spelled = [option for option in action.option_strings if "_" not in option]
        if not spelled or action.nargs == 0:
            return ", ".join(spelled) or super()._format_action_invocation(action)
        return f"{', '.join(spelled)} {self._format_args(action, action.dest.upper())}"

    def _get_help_string(self, action: Action) -> str | None:
        if action.default in (None, False, [], ""):
            return action.help
        return super()._get_help_string(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(
            part if part.startswith(" ") else textwrap.fill(part, width, initial_indent=indent) for part in paragraphs
        )


class FlagParser(HfArgumentParser):
    """Makes dataclasses of flags.

    What `transformers`' parser does not know stands in a field's metadata: ``positional=True`` makes a positional
    argument of it, ``flag=False`` nothing, ``spelled="from"`` the flag `--from`, and ``switch=True`` a flag that takes
    no value, so that a positional argument may follow it. The flags of ``first`` stand before all others in the help.
    """

    def __init__(
        self,
        kinds: Sequence[type],
        only: Mapping[type, Collection[str]] | None = None,
        defaults: Mapping[str, Any] | None = None,
        first: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self._only = dict(only or {})
        self._first = first
        self._first_group: Any = None
        super().__init__(cast(Any, kinds), **{"allow_abbrev": False, "formatter_class": _HelpFormatter, **options})
        if self._first_group is not None:
            self._first_group._group_actions.sort(
                key=lambda action: self._first.index(action.dest.removeprefix("no_").replace("-", "_"))
            )
        self.set_defaults(**dict(defaults or {}))
        for action in self._actions:
            action.required = action.required and action.dest not in (defaults or {})
            name = action.option_strings[0] if action.option_strings else ""
            if action.nargs == 0 and action.const is False and name.startswith(("--no_", "--no-")):
                # The parent repeats the sentence of what this turns off.
                action.help = f"Turns --{name[5:].replace('_', '-')} off."
        if "usage" not in options:
            self.usage = f"%(prog)s {' '.join([*self._necessary(), '[--flag value ...]'])}"

    def parse(self, words: Sequence[str], further: bool = False) -> tuple[Any, ...]:
        """An instance of each dataclass; with ``further`` also the list of what is no flag of them."""
        self._refuse_flagged_places(words)
        try:
            parsed: tuple[Any, ...] = self.parse_args_into_dataclasses(
                list(words), return_remaining_strings=True, look_for_args_file=False
            )
        except FlagError:
            raise
        except ValueError as error:  # of a dataclass, about its value
            raise FlagError(str(error)) from None
        *instances, rest = parsed
        if further:
            return (*instances, rest)
        if rest:
            flags = [option for action in self._actions for option in action.option_strings if "_" not in option]
            # The line names --help already, which is like many a word.
            flags = [flag for flag in flags if flag not in ("-h", "--help")]
            near = suggest(rest[0].partition("=")[0], flags) if rest[0].startswith("-") else ""
            self.error(f"{', '.join(rest)}: not understood", near + self._say_places())
        return tuple(instances)

    def _places(self) -> list[Action]:
        return [action for action in self._actions if not action.option_strings]

    def _say_places(self) -> str:
        """How the command is written, where something of it has no flag."""
        return f" Usage: {self.usage % {'prog': self.prog}}." if self._places() and self.usage else ""

    def _refuse_flagged_places(self, words: Sequence[str]) -> None:
        """Say of a flag with a positional argument's name that it is none."""
        flags = {option for action in self._actions for option in action.option_strings}
        for flag in [word.partition("=")[0] for word in words if word.startswith("--")]:
            place = next((each for each in self._places() if flag[2:].replace("-", "_") == each.dest), None)
            if place is not None and flag not in flags:
                self.error(f"{flag}: {place.metavar} is written without a flag", self._say_places())

    def error(self, message: str, near: str = "") -> NoReturn:
        """Raises instead of printing the usage and leaving; `near` is the end of the line."""
        # Of the two spellings of a flag, the one that the help shows.
        message = re.sub(r"--\w+/(?=--)", "", message)
        if lacking := re.search(r"argument (--[\w-]+): expected (one|at least one) argument", message):
            near += f" A value that begins with a dash is written {lacking[1]}=-VALUE."
        if not near and "arguments are required" in message:
            near = self._say_places()
        raise FlagError(f"{message}; --help shows every flag and what it takes.{near}")

    def _add_dataclass_arguments(self, dtype: Any) -> None:
        if self._first and self._first_group is None:
            self._first_group = self.add_argument_group("what most calls need")
        title = getattr(dtype, "_argument_group_name", None)
        group: Any = self.add_argument_group(title) if title else self
        hints = get_type_hints(dtype)
        for field in dataclasses.fields(dtype):
            if not field.init:
                continue
            flag = {name: value for name, value in field.metadata.items() if name != "writes"}
            if flag.pop("flag", True) is False or field.name not in self._only.get(dtype, (field.name,)):
                # The parent builds the dataclass of what the namespace holds.
                self.set_defaults(**{field.name: _default_of(field)})
                continue
            positional, spelled = flag.pop("positional", False), flag.pop("spelled", field.name)
            if flag.pop("switch", False):
                _add_switch(group, field, spelled, flag)
                continue
            if spelled != field.name:
                flag["dest"] = field.name
            copied = _copy_of(field, spelled, hints[field.name], flag)
            if positional:
                _add_positional(group, copied, flag)
            else:
                self._parse_dataclass_field(self._first_group if field.name in self._first else group, copied)

    def _necessary(self) -> list[str]:
        """What a call cannot leave out, as the usage shows it."""
        shown = []
        for action in self._actions:
            if not action.option_strings:
                shown.append(str(action.metavar) if action.required else f"[{action.metavar}]")
            elif action.required:
                shown.append(f"{action.option_strings[-1]} {action.metavar or action.dest.upper()}")
        return shown


def _default_of(field: Any) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _copy_of(field: Any, name: str, kind: Any, metadata: Mapping[str, Any]) -> Any:
    """The field with its resolved type; the parent changes what it is given."""
    copied: Any = dataclasses.field(metadata=metadata)
    copied.name, copied.type, copied.init = name, kind, True
    copied.default, copied.default_factory = field.default, field.default_factory
    return copied


def _add_switch(group: Any, field: Any, spelled: str, flag: Mapping[str, Any]) -> None:
    name, default = f"--{spelled.replace('_', '-')}", _default_of(field)
    action = BooleanOptionalAction if default else "store_true"
    group.add_argument(name, dest=field.name, default=default, action=action, **flag)


def _add_positional(group: Any, field: Any, flag: Mapping[str, Any]) -> None:
    optional = field.default is not dataclasses.MISSING
    several = getattr(field.type, "__origin__", None) is list
    options: dict[str, Any] = {
        "type": field.type.__args__[0] if several else field.type,
        "metavar": field.name.upper(),
    }
    if several:
        options["nargs"] = "*" if optional else "+"
    elif optional:
        options |= {"nargs": "?", "default": field.default}
    group.add_argument(field.name, **{**options, **flag})
