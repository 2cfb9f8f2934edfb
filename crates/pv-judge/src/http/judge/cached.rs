//! Looks up replies in the cache, and their mode.

use super::HttpJudge;
use crate::Result;
use crate::http::cache::{Sum, old_sum, request_sum};
use crate::http::plan::{Job, Plan};
use crate::http::reply::Reply;
use crate::http::wire::Mode;
use crate::http::{HttpError, Logprobs, Thinking};

impl HttpJudge {
    /// The modes that the options permit.
    pub(super) fn usable(&self) -> &'static [Mode] {
        match (self.options().thinking, self.options().logprobs) {
            (Thinking::On, _) => &[Mode::Reasoned],
            (Thinking::Auto, Logprobs::Prefer) => &Mode::ALL,
            (Thinking::Off, Logprobs::Prefer) => &[Mode::Distribution, Mode::Digits, Mode::Sampled],
            (_, Logprobs::Require) => &[Mode::Distribution, Mode::Digits],
            (Thinking::Auto, Logprobs::Ignore) => &[Mode::Sampled, Mode::Reasoned],
            (Thinking::Off, Logprobs::Ignore) => &[Mode::Sampled],
        }
    }

    /// The mode of most of the cached replies, if there are any.
    pub(super) fn cached_mode(&self, plan: &Plan<'_>) -> Option<Mode> {
        self.cache.as_ref()?;
        let wanted = self.state().wanted;
        let usable = self.usable().iter().copied().filter(|mode| wanted.is_none_or(|wanted| wanted == *mode));
        let counted = usable.map(|mode| (plan.jobs.iter().filter(|job| self.is_cached(job, mode)).count(), mode));
        // The first one of several with equal counts.
        counted.filter(|(count, _)| *count > 0).rev().max_by_key(|(count, _)| *count).map(|(_, mode)| mode)
    }

    pub(super) fn keep(&self, job: &Job, mode: Mode, reply: &Reply) -> Result<(), HttpError> {
        match &self.cache {
            Some(cache) => cache.put(self.sum(job, mode), mode, reply),
            None => Ok(()),
        }
    }

    pub(super) fn sum(&self, job: &Job, mode: Mode) -> Sum {
        let options = self.options();
        // With reasoning disabled or unlimited, and with other fields, the reply to the same prompt may differ.
        let extra = (options.thinking, &options.body);
        let extra = serde_json::to_string(&extra).unwrap_or_default();
        request_sum(self.client.endpoint(), &options.model, mode, &extra, &job.prompt)
    }

    pub(super) fn is_cached(&self, job: &Job, mode: Mode) -> bool {
        self.cached(job, mode).is_ok_and(|found| found.is_some())
    }

    pub(super) fn cached(&self, job: &Job, mode: Mode) -> Result<Option<Reply>, HttpError> {
        let Some(cache) = &self.cache else { return Ok(None) };
        if let Some(reply) = cache.get(&self.sum(job, mode))? {
            return Ok(Some(reply));
        }
        let options = self.options();
        if options.thinking != Thinking::Auto || !options.body.is_empty() {
            return Ok(None);
        }
        // The first version stored first digits as scores: its entries are valid if they show that tokens are whole
        // numbers.
        let old = match old_sum(self.client.endpoint(), &options.model, mode, &job.prompt) {
            Some(sum) => cache.get(&sum)?,
            None => None,
        };
        Ok(old.filter(|reply| match mode {
            Mode::Distribution => matches!(reply.largest_number(), Some(11..)),
            _ => reply.written().is_some(),
        }))
    }
}
