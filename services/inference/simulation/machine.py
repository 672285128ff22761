"""One Ollama server in virtual time: which models are in memory, who waits inside it, and who gets tokens when.

Ollama's rules as its source has them, which is why the gateway exists:
- A request for a loaded model with equal runner options passes everybody who needs a load, and waits for a slot
  in a line that has no bound and that nobody sees.
- A request that needs a load waits in a bounded queue, of which only the first is worked on. One load at a time.
- Other runner options reload the model, once nobody uses it.
- Room is made by telling a model to go: an idle one, then the shortest keep_alive, then the first by name. It goes
  when nobody uses it. Requests for it may still join, and one that brings a keep_alive of its own takes the
  order back, so steady traffic can keep a load waiting.
- A caller that hangs up while its prompt is read is noticed when that is done.

One GPU: all that is at work on the machine, whatever the model, slows down every token; prompts that are being
read share the speed of reading. Between two events nothing is computed; an event costs O(slots + models).
No clock, no I/O: the same calls give the same events. Not modelled: models split between GPU and CPU, Ollama's
caution when it sizes what does not fit well (a fifth of the free memory stays free), the time that unloading
takes, and the prompts that llama.cpp puts aside in main memory.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from math import inf

from services.inference.simulation.parts import (
    Event,
    FirstToken,
    Left,
    Loaded,
    MachineSpec,
    ModelSpec,
    Refusal,
    Refused,
    Request,
    Resident,
    RunnerOptions,
    UnloadCause,
    Unloaded,
)
from services.inference.simulation.runner import ARRIVED, WRITING, Run, Runner

LOADED_MAX = 3  # What Ollama allows per GPU when it is not told.


class Machine:
    """Offer requests at times that do not fall, and ask for what happened with `advance`.

    A request ends with exactly one of Finished, Refused and Left, or is among those that `restart` returns.
    """

    def __init__(self, spec: MachineSpec, models: Mapping[str, ModelSpec]) -> None:
        self.spec = spec
        self.refusing = False  # Set it, and no new request gets a connection.
        self.deaf_in_prefill = True  # As Ollama is. Cleared, a caller that leaves is noticed at once.
        self.load_factor = 1.0  # Loads take this much longer.
        self.loads_held = False  # Set it, and no load ends until it is cleared.
        self.load_count = 0
        self.reload_count = 0  # Models that went because a request had other runner options.
        self.waited_inside_count = 0  # Requests that had to wait here: for a load, a slot, or another load.
        self.busy_peaks: Counter[str] = Counter()  # Most slots in use at once, by model.
        self._models = models
        self._now_s = 0.0
        self._wedged = False
        self._runs: dict[int, Run] = {}
        self._pending: OrderedDict[int, Run] = OrderedDict()
        self._runners: dict[str, Runner] = {}
        self._loading: Runner | None = None
        self._awaited: Runner | None = None  # It was told to go, and the first that is pending waits for it.
        self._events: list[Event] = []

    # What callers do

    def offer(self, request: Request, now_s: float) -> None:
        self._run_until(now_s)
        run = Run(request, now_s)
        if self.refusing:
            self._events.append(Refused(at_s=now_s, id=request.id, reason=Refusal.UNREACHABLE))
            return
        assert request.id not in self._runs, f"{request.id} is here already"
        runner = self._runners.get(request.model)
        if runner is not None and runner.options == request.runner:
            self._runs[request.id] = run
            self._join(runner, run)
        elif len(self._pending) - (self._loading is None) >= self.spec.max_queue:
            self._events.append(Refused(at_s=now_s, id=request.id, reason=Refusal.BUSY))
            return
        else:
            self._runs[request.id] = run
            self._pending[request.id] = run
        self._settle()
        waits = request.id in self._pending if request.only_loads else run.phase == ARRIVED
        self.waited_inside_count += waits

    def load(
        self, model: str, runner: RunnerOptions, keep_alive_s: float | None, now_s: float, request_id: int
    ) -> None:
        """A request without a prompt. It ends with Finished when the model is there."""
        self.offer(Request(id=request_id, model=model, runner=runner, keep_alive_s=keep_alive_s), now_s)

    def unload(self, model: str, now_s: float) -> None:
        """A request without a prompt and with keep_alive 0: the model goes as soon as nobody uses it."""
        self._run_until(now_s)
        if (runner := self._runners.get(model)) is not None and not self._wedged:
            self._tell_to_go(runner, UnloadCause.ASKED)
            self._settle()

    def leave(self, request_id: int, now_s: float) -> None:
        """The caller has hung up. Idempotent; Left says when the slot is free."""
        self._run_until(now_s)
        run = self._runs.get(request_id)
        if run is None or run.left:
            return
        run.left = True
        runner = run.runner
        if runner is None or run.phase == ARRIVED:
            self._drop_waiting(run)
        elif run.phase == WRITING:
            runner.writing.aim(run, run.base + runner.written_count(run, runner.writing.done) + 1)
        elif not self.deaf_in_prefill and not self._wedged:
            self._end(runner, run)
        self._settle()

    def wedge(self, now_s: float) -> None:
        """From now on nothing progresses, though requests are taken, until `restart`."""
        self._run_until(now_s)
        self._wedged = True

    def restart(self, now_s: float) -> list[int]:
        """Start afresh, with nothing loaded, and return the requests whose connections this broke."""
        self._run_until(now_s)
        lost = list(self._runs)
        self._runs.clear()
        self._pending.clear()
        self._runners.clear()
        self._loading = self._awaited = None
        self._wedged = False
        return lost

    # What is to be known

    def advance(self, now_s: float) -> list[Event]:
        """Return what has happened since the last call, in order."""
        self._run_until(now_s)
        events, self._events = self._events, []
        return events

    def next_event_s(self) -> float | None:
        """Return when to call `advance` next, though it may have nothing to tell then. None: not before a change."""
        if self._events:
            return self._now_s
        at_s = self._next()[0]
        return None if at_s == inf else at_s

    def token_count(self, request_id: int, now_s: float) -> int:
        """Return the tokens of its answer that are out; `now_s` is not past the next event."""
        run = self._runs.get(request_id)
        if run is None or run.runner is None:
            return 0
        return run.runner.written_count(run, self._written_at(run.runner, now_s))

    def next_token_s(self, request_id: int) -> float | None:
        """Return when its next token comes if all that is at work stays so; None unless it is writing."""
        run = self._runs.get(request_id)
        if run is None or run.runner is None or run.phase != WRITING or self._wedged:
            return None
        pace = run.runner.writing
        to_go = run.base + run.runner.written_count(run, pace.done) + 1 - pace.done
        return self._now_s + to_go / pace.rate

    def residents(self, now_s: float) -> list[Resident]:
        """Return what `ps` shows; as in Ollama, a model that is still loading too."""
        self._run_until(now_s)
        return [
            runner.resident(now_s, vram_max_bytes=self.spec.vram_bytes)
            for _, runner in sorted(self._runners.items())
        ]

    # Time

    def _run_until(self, now_s: float) -> None:
        assert now_s >= self._now_s, "time went backwards"
        while True:
            at_s, happen = self._next()
            if at_s > now_s:
                break
            self._move_to(at_s)
            happen()
            self._settle()
        self._move_to(now_s)

    def _next(self) -> tuple[float, Callable[[], None]]:
        """Return what happens next and when: infinitely late if nothing does."""
        first: tuple[float, Callable[[], None]] = (inf, _nothing)
        if self._wedged:
            return first
        if self._loading is not None and not self.loads_held:
            first = (max(self._loading.ready_at_s, self._now_s), self._end_load)
        for runner in self._runners.values():
            if runner.expires_at_s < first[0]:
                first = (runner.expires_at_s, partial(self._unload, runner, UnloadCause.EXPIRED))
            if runner.reading.count and (at_s := self._now_s + runner.reading.due_s()) < first[0]:
                first = (at_s, partial(self._read, runner))
            if runner.writing.count and (at_s := self._now_s + runner.writing.due_s()) < first[0]:
                first = (at_s, partial(self._written, runner))
        return first

    def _move_to(self, now_s: float) -> None:
        passed_s = now_s - self._now_s
        self._now_s = now_s
        if passed_s > 0 and not self._wedged:
            for runner in self._runners.values():
                runner.reading.done += runner.reading.rate * passed_s
                runner.writing.done += runner.writing.rate * passed_s

    def _written_at(self, runner: Runner, now_s: float) -> float:
        passed_s = 0.0 if self._wedged else now_s - self._now_s
        return runner.writing.done + runner.writing.rate * passed_s

    def _settle(self) -> None:
        """After any change: see to who is pending, and to how fast everybody goes now."""
        if self._pending and not self._wedged:
            self._see_to_pending()
        reading = working = 0
        for runner in self._runners.values():
            reading += runner.reading.count
            working += runner.reading.count + runner.writing.count
        for runner in self._runners.values():
            spec = runner.spec
            runner.reading.rate = spec.prefill_tokens_per_s / reading if reading else 0.0
            runner.writing.rate = (
                1.0 / (spec.token_s * (1.0 + spec.batch_cost * (working - 1))) if working else 0.0
            )

    # Slots

    def _join(self, runner: Runner, run: Run) -> None:
        """Ollama's useLoadedRunner: from here on the model cannot go."""
        run.runner = runner
        runner.users[run.id] = run
        runner.expires_at_s = inf
        if run.request.keep_alive_s is not None:
            runner.keep_alive_s = _lasting(run.request.keep_alive_s)
        if runner.ready:
            self._admit(runner, run)

    def _admit(self, runner: Runner, run: Run) -> None:
        """Its model is there: give it a slot, or a place in the line."""
        run.ready_s = self._now_s
        if run.request.only_loads:
            run.started_s = run.read_s = self._now_s
            self._finish(runner, run, 0)
        elif runner.busy_count < runner.parallel:  # Then nobody is in the line either.
            self._start(runner, run)
        else:
            runner.waiting[run.id] = run

    def _start(self, runner: Runner, run: Run) -> None:
        runner.start(run, self._now_s)
        model = runner.spec.name
        self.busy_peaks[model] = max(self.busy_peaks[model], runner.busy_count)

    def _read(self, runner: Runner) -> None:
        run = runner.reading.take_due()
        if run.left:
            self._end(runner, run)
        elif not run.request.output_token_count:
            run.read_s = self._now_s
            self._end(runner, run)
        else:
            runner.write(run, self._now_s)

    def _written(self, runner: Runner) -> None:
        run = runner.writing.take_due()
        count = runner.written_count(run, runner.writing.done)
        if count == 1 and not run.left:
            self._events.append(FirstToken(at_s=self._now_s, id=run.id))
        if run.left or count == run.request.output_token_count:
            self._end(runner, run)
        else:
            runner.writing.aim(run, run.base + run.request.output_token_count)

    def _end(self, runner: Runner, run: Run) -> None:
        """Its slot is free again, for the next in line."""
        written = runner.release(run)
        if runner.waiting:
            self._start(runner, runner.waiting.popitem(last=False)[1])
        self._finish(runner, run, written)

    def _finish(self, runner: Runner, run: Run, written: int) -> None:
        del self._runs[run.id], runner.users[run.id]
        if run.left:
            self._events.append(Left(at_s=self._now_s, id=run.id))
        else:
            self._events.append(runner.finished(run, written, self._now_s))
        self._rest(runner)

    def _drop_waiting(self, run: Run) -> None:
        """Let go of a request that has no slot."""
        if run.runner is not None:
            run.runner.waiting.pop(run.id, None)
            self._finish(run.runner, run, 0)
            return
        if next(iter(self._pending)) == run.id:
            self._awaited = None
        del self._pending[run.id], self._runs[run.id]
        self._events.append(Left(at_s=self._now_s, id=run.id))

    # Memory

    def _rest(self, runner: Runner) -> None:
        """Let its keep_alive begin if nobody uses it. A load that nobody waits for any more is given up."""
        if runner.users or self._wedged:
            return
        if not runner.ready:
            del self._runners[runner.spec.name]
            self._loading = None
        elif runner.keep_alive_s <= 0:
            self._unload(runner, runner.go_cause)
        else:
            runner.expires_at_s = self._now_s + runner.keep_alive_s

    def _tell_to_go(self, runner: Runner, cause: UnloadCause) -> None:
        runner.keep_alive_s = 0.0
        runner.go_cause = cause
        if not runner.users:
            self._unload(runner, cause)

    def _unload(self, runner: Runner, cause: UnloadCause) -> None:
        del self._runners[runner.spec.name]
        self._awaited = None  # Whichever went, the first that is pending looks again.
        self.reload_count += cause is UnloadCause.RELOAD
        self._events.append(Unloaded(at_s=self._now_s, model=runner.spec.name, cause=cause))

    def _see_to_pending(self) -> None:
        """Ollama's processPending: one request at a time is brought to its model."""
        while self._pending and self._loading is None and self._awaited is None:
            run = next(iter(self._pending.values()))
            spec = self._models[run.request.model]
            runner = self._runners.get(spec.name)
            if runner is not None and runner.options == run.request.runner:
                del self._pending[run.id]
                self._join(runner, run)
            elif runner is not None:
                self._awaited = runner
                self._tell_to_go(runner, UnloadCause.RELOAD)
            elif self._fits(spec):
                del self._pending[run.id]
                self._begin_load(spec, run)
            else:
                self._awaited = self._victim()
                self._tell_to_go(self._awaited, UnloadCause.PRESSURE)

    def _fits(self, spec: ModelSpec) -> bool:
        """Beside what is loaded. Alone, anything does: Ollama puts on the CPU what the GPU cannot hold."""
        used = sum(runner.spec.vram_bytes for runner in self._runners.values())
        within = used + spec.vram_bytes <= self.spec.vram_bytes
        return not self._runners or (within and len(self._runners) < (self.spec.loaded_max or LOADED_MAX))

    def _victim(self) -> Runner:
        return min(self._runners.values(), key=lambda r: (bool(r.users), r.keep_alive_s, r.spec.name))

    def _begin_load(self, spec: ModelSpec, run: Run) -> None:
        parallel = min(self.spec.parallel, spec.parallel_max or self.spec.parallel)
        self._loading = Runner(
            spec=spec,
            options=run.request.runner,
            keep_alive_s=_lasting(self.spec.keep_alive_s),
            parallel=parallel,
            began_s=self._now_s,
            ready_at_s=self._now_s + spec.load_s * self.load_factor,
        )
        self._runners[spec.name] = self._loading
        self._join(self._loading, run)

    def _end_load(self) -> None:
        runner = self._loading
        assert runner is not None
        self._loading = None
        runner.ready = True
        self.load_count += 1
        self._events.append(
            Loaded(at_s=self._now_s, model=runner.spec.name, load_s=self._now_s - runner.began_s)
        )
        for run in list(runner.users.values()):
            self._admit(runner, run)


def _lasting(keep_alive_s: float) -> float:
    return inf if keep_alive_s < 0 else keep_alive_s


def _nothing() -> None: ...
