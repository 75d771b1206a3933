"""Brings a report to its hubs: each part again and again until its receipt has come."""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.post import Post
from shoal_codecs.transport.errors import LinkClosedError
from shoal_codecs.transport.link import Link
from shoal_edge.errors import fault_name
from shoal_edge.reports import report_messages
from shoal_edge.round_events import Job, SealedReport

log = structlog.get_logger()


class ReportSender:
    """Sends one report at a time; ``note_fault`` hears the name of what stood in its way."""

    def __init__(self, post: Post, link: Link, resend_s: float, note_fault: Callable[[str], None]) -> None:
        self._post = post
        self._link = link
        self._resend_s = resend_s
        self._note_fault = note_fault
        self._unreceipted: set[str] = set()
        self._sending: asyncio.Task[None] | None = None

    def send(self, job: Job, report: SealedReport, hubs: Iterable[str]) -> None:
        """Begin to send ``report`` to ``hubs``."""
        self._unreceipted = set(hubs)
        self._sending = asyncio.create_task(self._send(job, report))

    def taken(self, hub: str) -> None:
        """Send no more to ``hub``, which has given its receipt."""
        self._unreceipted.discard(hub)

    def stop(self) -> None:
        """Send no more of the report."""
        if self._sending is not None:
            self._sending.cancel()
        self._unreceipted.clear()

    async def close(self) -> None:
        """End what runs."""
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    async def _send(self, job: Job, report: SealedReport) -> None:
        """Send every hub its part again and again until it has given its receipt."""
        while self._unreceipted:
            try:
                await self._link.wait_connected()
                await asyncio.gather(*(self._send_to(hub, job, report) for hub in sorted(self._unreceipted)))
            except LinkClosedError:
                return
            except ShoalError as error:
                self._note_fault(fault_name(error))
                log.warning("report_not_sent", round=job.round, fault=fault_name(error), remedy=str(error))
            await asyncio.sleep(self._resend_s)

    async def _send_to(self, hub: str, job: Job, report: SealedReport) -> None:
        topic = self._post.topics.report(hub, self._post.identity.name)
        for message in report_messages(self._post, job.round, report.parts[hub]):
            await self._link.publish(topic, self._post.encode(topic, message))
