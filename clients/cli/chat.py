"""`ollamesh chat`: a conversation on a terminal, or one question from a pipe.

On a terminal Ctrl-C ends the answer that is being written and not the conversation; Ctrl-D ends that.
"""

import asyncio
import sys
import time
from contextlib import aclosing, suppress

import click
from ollamesh.client import CallError, Client, chats

from clients.cli.choice import choose_model
from clients.cli.connection import calling, failure_of, open_client
from clients.cli.output import Flow, console, quantity
from clients.cli.settings import Settings

ANSWER_DEADLINE_S = 3600.0  # Somebody watches, and has Ctrl-C.
MESSAGES_MAX = 200  # What is older is forgotten; no model's context holds as much.


@click.command()
@click.argument("model", required=False)
@click.option("--system", help="What the model is told before the conversation.")
@click.pass_obj
def chat(settings: Settings, model: str | None, system: str | None) -> None:
    """Talk to a model.

    MODEL is a name of `ollamesh models ls`; the best one if not given. On a terminal, Ctrl-C stops an
    answer and Ctrl-D ends the conversation. With a pipe, all of standard input is one question.
    """
    with calling(settings), asyncio.Runner() as runner:
        conversation = runner.run(Conversation.open(settings, model, system))
        try:
            if sys.stdin.isatty():
                _converse(runner, conversation, settings.edge)
            elif question := sys.stdin.read().strip():
                runner.run(conversation.answer(question))
        finally:
            runner.run(conversation.close())


class Conversation:
    """What was said so far, and how the next answer is asked for and shown."""

    def __init__(self, client: Client, model: str, system: str | None) -> None:
        self.model = model
        self._client = client
        self._system = [chats.Message("system", system)] if system else []
        self._said: list[chats.Message] = []
        self._out, self._notes = console(), console(err=True)

    @classmethod
    async def open(cls, settings: Settings, model: str | None, system: str | None) -> "Conversation":
        client = open_client(settings)
        try:
            return cls(client, await choose_model(client, model), system)
        except BaseException:
            await client.close()
            raise

    async def close(self) -> None:
        await self._client.close()

    async def answer(self, question: str) -> None:
        """Show the answer as it is written. What was shown is remembered, however it ended."""
        asked = [*self._said[-MESSAGES_MAX:], chats.Message("user", question)]
        shown = _Shown(Flow(self._out), Flow(self._out, style="dim"))
        waiting = self._out.status("waiting for the model", spinner="dots")
        if self._out.is_terminal:
            waiting.start()
        try:
            stream = self._client.chat(self.model, [*self._system, *asked], deadline_s=ANSWER_DEADLINE_S)
            async with aclosing(stream) as events:
                async for event in events:
                    if isinstance(event, chats.Queued):
                        waiting.update(f"waiting for a slot: {quantity(event.ahead_count, 'request')} ahead")
                    elif isinstance(event, chats.Delta):
                        waiting.stop()
                        shown.write(event)
                    elif isinstance(event, chats.Finished):
                        shown.finished = event
        finally:
            waiting.stop()
            shown.end()
            if shown.text:
                self._said = [*asked, chats.Message("assistant", shown.text)]
        self._notes.print(shown.figures(), style="dim")


class _Shown:
    """An answer on its way to the terminal, and what there is to say about it."""

    def __init__(self, answer: Flow, thoughts: Flow) -> None:
        self.text = ""
        self.finished: chats.Finished | None = None
        self._answer, self._thoughts = answer, thoughts
        self._asked_at_s = time.monotonic()
        self._first_s: float | None = None

    def write(self, delta: chats.Delta) -> None:
        if self._first_s is None:
            self._first_s = time.monotonic() - self._asked_at_s
        self._thoughts.write(delta.thinking)
        if delta.text:
            self._thoughts.end()
            self._answer.write(delta.text)
            self.text += delta.text

    def end(self) -> None:
        self._thoughts.end()
        self._answer.end()

    def figures(self) -> str:
        finished = self.finished
        if finished is None:
            return ""
        facts = [quantity(finished.output_token_count, "token")]
        if finished.output_s > 0:
            facts.append(f"{finished.output_token_count / finished.output_s:.1f} tokens/s")
        if self._first_s is not None:
            facts.append(f"first token {self._first_s:.2f} s")
        if finished.reason == "length":
            facts.append("cut off at its longest")
        return " · ".join(facts)


def _converse(runner: asyncio.Runner, conversation: Conversation, edge: str) -> None:
    with suppress(ImportError):
        import readline  # noqa: F401 - Gives `input` editing and history, where there is one.

    click.echo(f"{conversation.model} · Ctrl-C stops an answer, Ctrl-D ends")
    while (question := _ask()) is not None:
        if not question.strip():
            continue
        try:
            runner.run(conversation.answer(question))
        except KeyboardInterrupt:
            click.secho("stopped", dim=True)
        except CallError as error:
            failure_of(error, edge).show()
        click.echo()


def _ask() -> str | None:
    """The next question; empty after Ctrl-C, None after Ctrl-D."""
    try:
        return input(">>> ")
    except KeyboardInterrupt:
        click.echo()
        return ""
    except EOFError:
        click.echo()
        return None
