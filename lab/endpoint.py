"""A teacher behind an OpenAI-compatible address (vLLM, TGI, llama.cpp server, the OpenAI API): many requests in flight.

Retries, back-off and Retry-After are the openai client's own. This module adds what a long run needs: as many
requests in flight as the server bears, rows that fail for good without ending the run, and a count of what was used.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from lab.problems import Problem
from lab.records import Answer

if TYPE_CHECKING:
    from lab.models import Sampling

IN_FLIGHT = 32
"""Requests in flight unless asked otherwise: one vLLM server batches them, a paid endpoint's first tier bears them."""
RETRIES = 8
"""Of one request by the client: 0.5, 1, 2, 4, 8, 8, 8, 8 s apart, so that a server may restart within 40 s."""
TIMEOUT = 300.0
"""Seconds for one answer: behind 200 others in a server's line a story takes minutes, and a time-out throws it away."""
UNREADABLE = 3
"""Times that an answer without a message is asked for again."""
LOST = 10
"""Requests refused for good before the run ends, when fewer than that were answered: then it is not the prompts."""
BUSY = (429, 503)
WAIT = 0.25
"""Seconds between two chances to stop while nothing arrives."""


class Unreadable(Exception):
    """The server said 200, but what it sent holds no message."""


class EndpointModel:
    """A served model, ready to write. The key stays in this object and in no message."""

    def __init__(self, spec: str, key: str | None = None, base_url: str = "") -> None:
        """``base_url`` empty takes OPENAI_BASE_URL.

        Without ``key`` it is LAB_ENDPOINT_KEY, else OPENAI_API_KEY, which never goes to another address than
        OPENAI_BASE_URL: on a shared Space somebody else may have typed that address.
        """
        import openai

        self.spec = spec
        self.name = spec.removeprefix("api:")
        known = (os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1").rstrip("/")
        self.revision = base_url.strip().rstrip("/") or known
        key = key or os.environ.get("LAB_ENDPOINT_KEY")
        if not key:
            # A server of one's own asks for no key.
            key = os.environ.get("OPENAI_API_KEY") if self.revision == known else "none"
        if not key:
            raise Problem(
                "No key for the endpoint. Set OPENAI_API_KEY (any word will do for a server of your own) and OPENAI_BASE_URL.",
                "엔드포인트 키가 없습니다. OPENAI_API_KEY(직접 띄운 서버라면 아무 값이나)와 OPENAI_BASE_URL 환경 변수를 설정해 주세요.",
            )
        self._key = key
        # No redirects: an address that was allowed must not send this machine on to one that is not.
        self.client = openai.OpenAI(
            api_key=key,
            base_url=self.revision,
            max_retries=RETRIES,
            timeout=TIMEOUT,
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.failed: list[str] = []
        self._longest = "max_tokens"
        self._limit = self._most = float(IN_FLIGHT)
        self._eased = 0.0

    def write(
        self,
        instructions: Sequence[str],
        sampling: Sampling,
        seeds: Sequence[int],
        batch_size: int = 0,
        note: Callable[[str, str], None] | None = None,
        tick: Callable[[int, float], None] | None = None,
    ) -> Iterator[tuple[int, Answer]]:
        """(index, answer) in the order of arrival, at most ``batch_size`` (or 32) requests in flight.

        A new request starts only after an answer was taken. When the server says 429 or 503 the number in flight is
        halved, and grows again by one a round. A request that the server refuses for good is left out, noted and
        counted in ``failed``; an address, key or model that does not work raises Problem. ``tick`` gets the new
        tokens as they come, and 0 a few times a second, when it may raise: that cancels what is in flight, and
        every answer that has arrived was handed over.
        """
        import openai

        say = note or (lambda en, ko: None)
        self._limit = self._most = float(batch_size or IN_FLIGHT)
        told = self._limit
        answered = 0
        failed_before = len(self.failed)
        loop = asyncio.new_event_loop()
        client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self.revision,
            max_retries=RETRIES,
            timeout=TIMEOUT,
            http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [self._heard]}, follow_redirects=False),
        )
        todo = iter(range(len(instructions)))
        flying: dict[asyncio.Task[Answer], int] = {}
        try:
            while True:
                while len(flying) < int(self._limit) and (i := next(todo, None)) is not None:
                    flying[loop.create_task(self._ask(client, instructions[i], sampling, seeds[i]))] = i
                if not flying:
                    return
                done, _ = loop.run_until_complete(
                    asyncio.wait(flying, timeout=WAIT, return_when=asyncio.FIRST_COMPLETED)
                )
                if self._limit < told:
                    told = self._limit
                    say(
                        f"The server is busy: {int(told)} requests in flight instead of {int(self._most)}.",
                        f"서버가 바쁩니다. 동시에 보내는 요청을 {int(self._most)}개에서 {int(told)}개로 줄였습니다.",
                    )
                new = 0
                # Failures last: what has arrived is handed over before one of them ends the run.
                for task in sorted(done, key=lambda t: t.exception() is not None):
                    i = flying.pop(task)
                    try:
                        answer = task.result()
                    except (openai.BadRequestError, openai.UnprocessableEntityError, Unreadable) as error:
                        self._lost(error, answered, failed_before, say)
                        continue
                    except (openai.OpenAIError, OSError) as error:
                        raise self.broken(error) from None
                    answered += 1
                    self._limit = min(self._most, self._limit + 1 / self._limit)
                    new += answer.tokens
                    yield i, answer
                if tick and new:
                    tick(new, 0.0)
                if tick:
                    tick(0, 0.0)
        finally:
            loop.run_until_complete(_hang_up(client, list(flying)))
            loop.close()

    async def _heard(self, response: Any) -> None:
        """Every reply, also one that the client will ask for again: a busy server halves the number in flight, once a second."""
        if response.status_code in BUSY and time.monotonic() - self._eased > 1:
            self._eased = time.monotonic()
            self._limit = max(1.0, self._limit // 2)

    async def _ask(self, client: Any, instruction: str, sampling: Sampling, seed: int) -> Answer:
        import openai

        for attempt in range(UNREADABLE + 1):
            started = time.perf_counter()
            try:
                reply = await client.chat.completions.create(
                    model=self.name,
                    messages=[{"role": "user", "content": instruction}],
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    seed=seed % 2**31,
                    **{self._longest: sampling.max_new_tokens},
                )
                return self._answer(reply, time.perf_counter() - started)
            except openai.BadRequestError as error:
                # The OpenAI API renamed the option for its newer models; servers of the open kind know the old name.
                if self._longest != "max_tokens" or "max_completion_tokens" not in str(error):
                    raise
                self._longest = "max_completion_tokens"
            except (ValueError, AttributeError, IndexError, TypeError, Unreadable) as error:
                if attempt == UNREADABLE:
                    raise Unreadable(f"the answer cannot be read ({type(error).__name__}: {error})") from None
        raise Unreadable("the answer cannot be read")

    def _answer(self, reply: Any, seconds: float) -> Answer:
        choice = reply.choices[0]
        text = choice.message.content
        if text is None and choice.finish_reason not in ("length", "content_filter"):
            raise Unreadable("no content")
        tokens = 0
        if reply.usage:
            tokens = int(reply.usage.completion_tokens)
            self.prompt_tokens += int(reply.usage.prompt_tokens)
            self.completion_tokens += tokens
        return Answer(
            (text or "").strip(), "length" if choice.finish_reason == "length" else "stop", tokens, round(seconds, 4)
        )

    def _clean(self, error: Exception) -> str:
        """The message without the key, which some servers repeat."""
        said = str(error)[:500]
        return said.replace(self._key, "…") if len(self._key) > 6 else said

    def _lost(self, error: Exception, answered: int, failed_before: int, say: Callable[[str, str], None]) -> None:
        self.failed.append(self._clean(error))
        lost = len(self.failed) - failed_before
        if lost >= LOST and answered < LOST:
            raise self.broken(error)
        say(
            f"{lost} requests were refused for good and left out; the newest: {self.failed[-1]}",
            f"요청 {lost}개가 끝내 거절되어 빠졌습니다. 마지막 오류: {self.failed[-1]}",
        )

    def broken(self, error: Exception) -> Problem:
        """What to tell when the endpoint does not work; without the key."""
        said = self._clean(error)
        return Problem(
            f"The endpoint {self.revision} failed for good: {said}. What it wrote so far is kept; check the address, key and model, then go on.",
            f"엔드포인트 {self.revision} 요청이 끝내 실패했습니다: {said}. 지금까지 쓴 내용은 그대로 있습니다. 주소, 키, 모델 이름을 확인한 뒤 이어서 실행해 주세요.",
        )

    def close(self) -> None:
        """Close the connections."""
        self.client.close()


async def _hang_up(client: Any, flying: list[asyncio.Task[Answer]]) -> None:
    for task in flying:
        task.cancel()
    await asyncio.gather(*flying, return_exceptions=True)
    await client.close()
