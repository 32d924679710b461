# SPDX-License-Identifier: GPL-2.0-or-later
"""apply and detach: the only writer of the kernel's state.

A new generation is loaded and pinned beside the one in force; then each interface is switched by one atomic update
of its link. Whatever fails before the last switch puts everything back as it was. Which generation is in force is
never written down: the links say it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from xdpfw import cookies, forwarding, interfacenotes, statekeeping
from xdpfw.compiler import ir, rulestables
from xdpfw.compiler.image import MapImage
from xdpfw.compiler.knocks import identity
from xdpfw.compiler.rulestables import RulesTables
from xdpfw.errors import AttachError, KernelError, Position, UsageError
from xdpfw.kernel import egress
from xdpfw.kernel.egress import Egress, Hook
from xdpfw.kernel.interface import InterfaceInfo, Link, attach, attached, find, foreign_hint, name_of, namespace
from xdpfw.kernel.loader import Program, object_digest
from xdpfw.kernel.maps import wait_for_programs
from xdpfw.kernel.pins import SHORT_CHANGE_S, Pins, instances
from xdpfw.kernel.program import Generation
from xdpfw.knock.keys import fingerprint
from xdpfw.observe import metadata, names, totals
from xdpfw.observe.metadata import DynamicSetMeta, InterfaceMeta, KnockMeta, Metadata, RuleMeta, SetMeta

Clock = Callable[[], float]

_OTHER_STATE = (
    "grants, half-done sequences, dynamic sets and events begin anew: "
    "those that are there are of another version of xdpfw"
)


@dataclass(frozen=True, slots=True)
class Source:
    """What a policy was read from: the path of its file, all files' texts (its own first), and the digest over them.

    ``rules_digest`` is that of all that the rules are compiled from: of all files but those of sets.
    """

    file: str
    files: dict[str, str]
    digest: str
    rules_digest: str


_NOT_READABLE: Final = (KernelError, UsageError, KeyError, TypeError, ValueError)
"""What reading a generation of another xdpfw, or one that goes away meanwhile, may raise."""


@dataclass(frozen=True, slots=True)
class Applied:
    """``changed`` is False where the same policy was in force already. ``notes`` are for the user to read."""

    generation: int
    changed: bool
    modes: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Controller:
    """One instance of the firewall, whose interfaces are in one network namespace (None: the caller's).

    ``hook``: how what they send is seen; None takes the kernel's best.
    """

    def __init__(
        self, pins: Pins, netns: str | None = None, clock: Clock = time.time, hook: Hook | None = None
    ) -> None:
        self._pins = pins
        self._netns = netns
        self._clock = clock
        self._hook = hook

    def apply(self, policy: ir.Policy, image: MapImage, source: Source) -> Applied:
        """Makes the policy so, atomically.

        Raises AttachError for an interface that is missing, held by another program or refuses; UsageError where it
        would have to change its mode; KernelError and CapacityError for what the kernel refuses else. What was in
        force then is so still, and nothing is left behind.
        """
        with self._pins.lock(SHORT_CHANGE_S), namespace(self._netns), contextlib.ExitStack() as opened:
            state = _State.read(self._pins, opened)
            interfaces = [self._find_free(interface, state) for interface in policy.interfaces]
            targets = [_find_target(policy, name) for name in image.targets]
            forwarding.check_cpus(policy)
            sets = statekeeping.assigned_sets(self._pins, image.dynamic_sets, state.number)
            notes = interfacenotes.vlan_notes(policy, interfaces) + interfacenotes.generic_notes(policy, interfaces)
            notes += forwarding.tag_notes(policy, interfaces)
            if policy.protect_syn:
                notes += opened.enter_context(cookies.wanted(self._pins, self._netns))
            meta = self._metadata(policy, image, source, interfaces, targets, sets)
            if state.number is not None and self._is_in_force(state, meta):
                self._retire(state.number, meta)  # where the process that put it in force was killed
                notes += interfacenotes.target_notes(image.targets, targets, interfaces)
                notes += interfacenotes.answer_notes(policy, interfaces)
                notes += forwarding.set_targets(self._pins.generation(state.number), policy, interfaces)
                notes += () if policy.protect_syn else cookies.put_back(self._pins)
                return Applied(state.number, changed=False, modes=interfacenotes.modes(interfaces), notes=notes)
            with self._pins.new_generation() as (number, directory):
                inherited = opened.enter_context(statekeeping.inherited(self._pins))
                if inherited is None and self._pins.state.exists():
                    notes += (_OTHER_STATE,)
                generation = opened.enter_context(
                    Generation.load(
                        image,
                        interfaces=[info.ifindex for info in interfaces],
                        targets=targets,
                        number=number,
                        state=inherited,
                        set_slots=[each.slot for each in sets],
                    )
                )
                generation.pin(directory)
                forwarding.set_targets(directory, policy, interfaces)
                kept = rulestables.to_bytes(None if image.has_cut_sets else image.wanted_sets)
                metadata.pin(directory, meta, source.files, kept)
            try:
                assert generation.state is not None
                with (
                    statekeeping.handed_down(self._pins, generation, inherited),
                    statekeeping.sets_prepared(self._pins, generation.state, sets, state.number),
                ):
                    notes += self._switch(policy, interfaces, generation, state)
            except BaseException:
                self._pins.remove_generation(number)
                raise
            self._release({info.ifindex for info in interfaces}, generation, state)
            self._retire(number, meta)
            notes += interfacenotes.target_notes(image.targets, targets, interfaces)
            notes += interfacenotes.answer_notes(policy, interfaces)
            notes += forwarding.set_targets(self._pins.generation(number), policy, interfaces)
            notes += () if policy.protect_syn else cookies.put_back(self._pins)
            return Applied(number, changed=True, modes=interfacenotes.modes(interfaces), notes=notes)

    def earlier_rules(self, policy: ir.Policy, rules_digest: str) -> RulesTables | None:
        """What the rules in force were compiled to, if they are the same and so is the compiler.

        ``rules_digest``: of the policy's rules, as ``Source`` has it. The policy's sets may hold something else now.
        """
        with contextlib.ExitStack() as opened, contextlib.suppress(*_NOT_READABLE):
            numbers = self._pins.generations()
            for number in reversed(numbers):
                directory = self._pins.generation(number)
                meta = metadata.read(directory)
                if (meta.rules_digest, meta.program_digest) != (rules_digest, object_digest()):
                    continue
                wanted = rulestables.from_bytes(metadata.read_wanted_sets(directory), policy.address_sets)
                if wanted is None:
                    return None
                return RulesTables(*opened.enter_context(Generation.open(directory)).tables(), wanted)
        return None

    def foresee(self, policy: ir.Policy, image: MapImage) -> list[str]:
        """A line for each thing of the system, not of the policy, that ``apply`` would refuse or change.

        Changes nothing. Raises KernelError, where there is no such namespace among others.
        """
        found = []
        with namespace(self._netns), contextlib.ExitStack() as opened:
            try:
                state = _State.look(self._pins, opened)
            except UsageError as error:
                return [f"apply would refuse: {error}"]
            before = None if state.number is None else metadata.read(self._pins.generation(state.number))
            known = {interface.name: interface.ifindex for interface in before.interfaces} if before else {}
            for interface in policy.interfaces:
                try:
                    info = self._find_free(interface, state)
                except (AttachError, UsageError) as error:
                    found.append(f"apply would refuse: {error}")
                    continue
                if info.name in known and info.ifindex not in state.links:
                    why = "the firewall is not on it" if known[info.name] == info.ifindex else "it was created anew"
                    found.append(f"apply would attach to {info.name} again: {why}")
            targets = []
            for name in image.targets:
                try:
                    targets.append(_find_target(policy, name))
                except AttachError as error:
                    found.append(f"apply would refuse: {error}")
            try:
                forwarding.check_cpus(policy)
            except UsageError as error:
                found.append(f"apply would refuse: {error}")
            if before is not None:
                found += statekeeping.sets_foreseen(self._pins, before.dynamic_sets, image.dynamic_sets)
            is_same = before is not None and before.image_digest == image.digest
            if before and is_same and len(targets) == len(image.targets) and before.targets != tuple(targets):
                found.append("apply would switch to where the redirect targets are now: one was created anew")
        return found

    def detach(self) -> list[str]:
        """Takes the firewall off all interfaces and removes everything of it; returns the interfaces' names.

        Raises UsageError where the instance has nothing, KernelError.
        """
        if self._pins.instance not in instances(self._pins.bpffs):
            raise UsageError(f"instance {self._pins.instance} has no firewall in force")
        with self._pins.lock(SHORT_CHANGE_S):
            names = sorted(self._pins.links())
            for path in self._pins.links().values():
                with Link.open(str(path)) as link:
                    if link.ifindex:
                        link.detach()
            with self._home(), contextlib.ExitStack() as opened:
                for each in egress.held(self._pins, opened):
                    each.detach()
                try:
                    cookies.put_back(self._pins)
                finally:
                    self._pins.remove()
        return names

    @contextlib.contextmanager
    def _home(self) -> Iterator[None]:
        """In the namespace of the interfaces, if it is there: filters, unlike links, can be taken off only there."""
        name = self._netns
        with contextlib.suppress(*_NOT_READABLE):
            name = name or metadata.read(self._pins.generation(max(self._pins.generations()))).netns
        with contextlib.ExitStack() as entered:
            with contextlib.suppress(KernelError):
                entered.enter_context(namespace(name))
            yield

    def _find_free(self, interface: ir.Interface, state: _State) -> InterfaceInfo:
        """Refuses before anything is loaded what would fail later."""
        with _told_at(interface.position):
            info = find(interface.name)
            held = state.links.get(info.ifindex)
            if held is None or held.link.program_id not in state.programs:
                if info.attached is not None:
                    raise AttachError("attach to", info.name, errno.EBUSY, hint=_holder(self._pins, info))
                return info
            mode = info.attached.mode if info.attached else None
            if mode is not None and interface.mode not in (ir.AttachMode.AUTO, mode):
                raise UsageError(
                    f"{info.name} runs in {mode} mode and the policy asks for {interface.mode}",
                    hint="a change of mode takes the firewall off for a moment: xdpfw detach, then apply",
                )
            return info

    def _is_in_force(self, state: _State, meta: Metadata) -> bool:
        assert state.number is not None
        before = metadata.read(self._pins.generation(state.number))
        return (
            dataclasses.replace(meta, policy_file=before.policy_file, applied_at=before.applied_at) == before
            and state.links.keys() == {interface.ifindex for interface in meta.interfaces}
            and {state.programs[held.link.program_id].number for held in state.links.values()} == {state.number}
            and self._is_seen(state)
        )

    def _is_seen(self, state: _State) -> bool:
        """Whether the program in force for what is sent is where it should be, and nowhere else."""
        assert state.number is not None
        wanted: dict[int, int | None] = {}
        path = self._pins.generation(state.number) / "egress"
        if path.exists():
            with Program.open(str(path)) as program:
                wanted = dict.fromkeys(state.links, program.id)
        return wanted == {ifindex: each.program_id for ifindex, each in state.egress.items()}

    def _metadata(
        self,
        policy: ir.Policy,
        image: MapImage,
        source: Source,
        interfaces: list[InterfaceInfo],
        targets: list[int],
        sets: tuple[DynamicSetMeta, ...],
    ) -> Metadata:
        return Metadata(
            policy_file=source.file,
            source_digest=source.digest,
            image_digest=image.digest,
            program_digest=object_digest(),
            applied_at=self._clock(),
            netns=self._netns,
            interfaces=tuple(
                InterfaceMeta(info.name, info.ifindex, str(interface.mode))
                for interface, info in zip(policy.interfaces, interfaces, strict=True)
            ),
            targets=tuple(targets),
            rules=tuple(
                RuleMeta(rule.name, str(rule.action.kind), rule.text, rule.comment, rule.sets) for rule in policy.rules
            ),
            sets=tuple(
                [SetMeta(found.name, "prefix", found.entries) for found in policy.address_sets]
                + [SetMeta(found.name, "port", found.entries) for found in policy.port_sets]
            ),
            knocks=tuple(
                KnockMeta.of(knock, identity(knock.name), lambda key: fingerprint(key.key)) for knock in policy.knocks
            ),
            rules_digest=source.rules_digest,
            limited=tuple(rule.name for rule in policy.rules if rule.limit is not None),
            dynamic_sets=sets,
        )

    def _switch(
        self, policy: ir.Policy, interfaces: list[InterfaceInfo], generation: Generation, state: _State
    ) -> tuple[str, ...]:
        """Puts the generation in force on every interface, or leaves all as they were.

        What is sent is seen before anything depends on it.
        """
        notes = []
        program = generation.program
        with contextlib.ExitStack() as undo:
            if generation.egress is not None:
                for interface, info in zip(policy.interfaces, interfaces, strict=True):
                    with _told_at(interface.position):
                        self._see(info, generation.egress, state.egress.get(info.ifindex), undo)
            for interface, info in zip(policy.interfaces, interfaces, strict=True):
                # What is to be undone is noted before it is done: a signal may come in between.
                held = state.links.get(info.ifindex)
                if held is None:
                    pin = self._pins.link(info.name)
                    undo.callback(pin.unlink, missing_ok=True)
                    with _told_at(interface.position):
                        attachment = attach(info, program, interface.mode)
                    # A link that is not pinned ends with its only descriptor.
                    with attachment.link as link:
                        link.pin(str(pin))
                    notes += [attachment.note] if attachment.note else []
                    continue
                before = state.programs[held.link.program_id].program
                undo.callback(_put_back, held.link, program, before)
                with _told_at(interface.position):
                    held.link.replace(before, program)
            undo.pop_all()
        return tuple(notes)

    def _see(self, info: InterfaceInfo, program: Program, present: Egress | None, undo: contextlib.ExitStack) -> None:
        """Puts the program at an interface's way out; ``undo`` gets what takes it back."""
        if present is None:
            undo.callback(egress.take_off, self._pins, info.ifindex)
            egress.attach(info, program, self._pins, self._hook)
        elif present.program_id is not None:
            before = undo.enter_context(Program.by_id(present.program_id))
            undo.callback(present.replace, before)
            present.replace(program)

    @staticmethod
    def _release(kept: set[int], generation: Generation, state: _State) -> None:
        """Lets go of interfaces that the policy does not name any more, and does not look at what it has no use for."""
        for ifindex, held in state.links.items():
            if ifindex not in kept:
                held.link.detach()
                held.pin.unlink()
        for ifindex, each in state.egress.items():
            if ifindex not in kept or generation.egress is None:
                each.detach()

    def _retire(self, number: int, meta: Metadata) -> None:
        """Hands the totals and names of the generations before on to the new one, and removes them."""
        earlier = [n for n in self._pins.generations() if n < number]
        directory = self._pins.generation(number)
        if not totals.has_carried(directory):
            wait_for_programs()
            carried = totals.totals_up_to(self._pins, earlier[-1]).for_rules(meta) if earlier else totals.Totals()
            totals.pin_carried(directory, carried)
        if earlier:
            names.remember(self._pins, earlier)
        for n in earlier:
            self._pins.remove_generation(n)
        statekeeping.tidy(self._pins, meta, earlier[-1] if earlier else number)


@dataclass(frozen=True, slots=True)
class _HeldLink:
    link: Link
    pin: Path


@dataclass(frozen=True, slots=True)
class _PinnedProgram:
    program: Program
    number: int


@dataclass(frozen=True, slots=True)
class _State:
    """``links`` and ``egress`` by interface index, ``programs`` by program id, ``number`` of the generation in force.

    ``number`` is None where nothing is in force. ``egress`` is where what is sent is seen.
    """

    links: dict[int, _HeldLink]
    egress: dict[int, Egress]
    programs: dict[int, _PinnedProgram]
    number: int | None

    @classmethod
    def look(cls, pins: Pins, opened: contextlib.ExitStack) -> _State:
        """Changes nothing. Raises UsageError where an interface is in another namespace."""
        links = _held_links(pins, opened)
        programs = {}
        for number in pins.generations():
            program = opened.enter_context(Program.open(str(pins.generation(number) / "program")))
            programs[program.id] = _PinnedProgram(program, number)
        running = [programs[held.link.program_id].number for held in links.values() if held.link.program_id in programs]
        # With all interfaces gone, nothing runs, but what was counted is to be carried on.
        seen = {index: each for each in egress.held(pins, opened) if (index := each.ifindex)}
        return cls(links, seen, programs, max(running or pins.generations(), default=None))

    @classmethod
    def read(cls, pins: Pins, opened: contextlib.ExitStack) -> _State:
        """``look``, and removes what a killed process or a deleted interface left. Needs the lock."""
        pins.remove_unfinished()
        for path in pins.links().values():
            with Link.open(str(path)) as link:
                if not link.ifindex:
                    path.unlink()
        with contextlib.ExitStack() as looked_at:
            for each in egress.held(pins, looked_at):
                if not each.ifindex:
                    each.detach()
        state = cls.look(pins, opened)
        _pin_under_present_names(pins, state.links)
        if state.number is not None:
            for number in pins.generations():
                if number > state.number:
                    pins.remove_generation(number)
        return state


def _held_links(pins: Pins, opened: contextlib.ExitStack) -> dict[int, _HeldLink]:
    """Links by the index of their interface; those whose interface is gone are left out.

    Raises UsageError where an interface is in another namespace, in which its index says nothing here.
    """
    links = {}
    for name, path in pins.links().items():
        link = opened.enter_context(Link.open(str(path)))
        if not link.ifindex:
            continue
        running = attached(link.ifindex)
        if running is None or running.program_id != link.program_id:
            raise UsageError(
                f"instance {pins.instance} holds {name} in another network namespace",
                hint="xdpfw detach first, or another --instance for this namespace",
            )
        links[link.ifindex] = _HeldLink(link, path)
    return links


def _pin_under_present_names(pins: Pins, links: dict[int, _HeldLink]) -> None:
    """Interfaces may have been renamed; ``links`` is brought up to date."""
    wanted = {ifindex: pins.link(present) for ifindex in links if (present := name_of(ifindex)) is not None}
    renamed = [ifindex for ifindex, pin in wanted.items() if links[ifindex].pin != pin]
    # In two steps, as interfaces may have taken each other's names.
    for paths in ({ifindex: pins.link_under_way(ifindex) for ifindex in renamed}, wanted):
        for ifindex in renamed:
            links[ifindex].pin.rename(paths[ifindex])
            links[ifindex] = _HeldLink(links[ifindex].link, paths[ifindex])


def _put_back(link: Link, program: Program, before: Program) -> None:
    if link.program_id == program.id:
        link.replace(program, before)


@contextlib.contextmanager
def _told_at(position: Position | None) -> Iterator[None]:
    """Refusals in the context are about what the policy has at this place."""
    try:
        yield
    except (AttachError, UsageError) as error:
        error.position = position
        raise


def _find_target(policy: ir.Policy, name: str) -> int:
    """The index of an interface that rules redirect to. Raises AttachError, at the first of them."""
    with _told_at(next((rule.position for rule in policy.rules if rule.action.interface == name), None)):
        return find(name).ifindex


def _holder(pins: Pins, info: InterfaceInfo) -> str:
    """What is known of the program on an interface that is not this instance's."""
    holder = None if info.attached is None else (info.ifindex, info.attached.program_id)
    for other in instances(pins.bpffs):
        with contextlib.suppress(KernelError):  # it may be detached meanwhile
            for path in Pins(other, pins.bpffs).links().values():
                with Link.open(str(path)) as link:
                    if (link.ifindex, link.program_id) == holder:
                        return f"instance {other} of xdpfw is on it: xdpfw detach --instance {other} takes it off"
    return foreign_hint(info)
