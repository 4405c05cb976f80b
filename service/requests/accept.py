"""Accept requests as jobs, if the prompt filter allows them."""

from __future__ import annotations

import structlog
from fastapi.concurrency import run_in_threadpool

from service.jobs.quota import Owner, check_job
from service.jobs.replication import survives_failover
from service.jobs.submit import JobRequest, JobSubmitter, SubmittedJob
from service.requests.prompt_filter import PromptFilter, prompts_of

log = structlog.stdlib.get_logger("service.requests.accept")


class JobAcceptor:
    """Check, submit and log requests."""

    def __init__(
        self, submitter: JobSubmitter, prompt_filter: PromptFilter | None, log_prompts: bool
    ) -> None:
        """Use a submitter. `log_prompts`: whether the log contains prompts."""
        self.submitter = submitter
        self.prompt_filter = prompt_filter
        self.log_prompts = log_prompts

    async def accept(
        self, request: JobRequest, idempotency_key: str | None, owner: Owner | None
    ) -> SubmittedJob:
        """Turn a request into a job; a repeated Idempotency-Key returns the first job.

        Raises InvalidRequest if the owner may not submit it, the prompt filter blocks a prompt or
        the key was used for another request, QueueFull, or QuotaExceeded.
        """
        if owner is not None:
            check_job(owner, request.fields)
        if self.prompt_filter is not None:
            await run_in_threadpool(self.prompt_filter.check, request.fields)
        job = await self.submitter.submit(request, idempotency_key, owner)
        min_replicas = self.submitter.settings.redis_min_replicas
        while not await survives_failover(self.submitter.redis, job.job_id, min_replicas):
            job = await self.submitter.submit(request, idempotency_key, owner)
        if job.snapshot is not None:
            prompts = {"prompts": dict(prompts_of(request.fields))} if self.log_prompts else {}
            log.info("job accepted", job_id=job.job_id, operation=request.operation, **prompts)
        return job
