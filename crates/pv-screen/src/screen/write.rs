//! Writes the table, the list of skipped rows, and the summary.

use std::collections::{BTreeMap, HashSet};
use std::io::Write;

use pv_data::FileError;
use pv_data::conversations::FormatCounts;
use pv_data::files::WholeFile;
use serde::Serialize;

use super::answer::Answered;
use super::stream::{self, Item};
use super::{DirectionSummary, HashedFile, Meter, NOTICED, Run, SCORES, SKIPPED, SUMMARY, Step, Summary};
use crate::base_answers::BaseAnswers;
use crate::estimate::{EstimateOptions, Known, Look, Method, after_looks};
use crate::hashes::key;
use crate::likelihood::LikelihoodScore;
use crate::sample::Skip;
use crate::scores::Place;
use crate::scores::{Score, ScoreRow};
use crate::{Error, Result};

/// A line of the list of skipped rows and answers.
#[derive(Serialize)]
struct SkippedLine<'a> {
    #[serde(flatten)]
    place: &'a Place,
    #[serde(flatten)]
    skip: &'a Skip,
    says: String,
}

/// The files that are written row by row.
struct Outputs<W> {
    table: W,
    skipped: W,
    noticed: W,
}

/// The counts that are taken while the table is written.
#[derive(Default)]
struct Counts {
    skipped: BTreeMap<String, usize>,
    noticed: BTreeMap<String, usize>,
    formats: FormatCounts,
    answers: usize,
    /// The sums over the answers, in nats.
    likelihood: LikelihoodScore,
}

impl<'a> Run<'_, 'a, '_> {
    pub(super) fn write(&mut self, files: Vec<HashedFile>, found: Answered<'a>) -> Result<Summary> {
        let Answered { mut base, chosen, looks, rounds } = found;
        let mut counts = Counts::default();
        let folder = self.folder.path().to_owned();
        let begin = |name| WholeFile::create(self.folder.file(name));
        let (mut table, mut list, mut noticed) = (begin(SCORES)?, begin(SKIPPED)?, begin(NOTICED)?);
        {
            let mut out = Outputs {
                table: std::io::BufWriter::new(&mut table),
                skipped: std::io::BufWriter::new(&mut list),
                noticed: std::io::BufWriter::new(&mut noticed),
            };
            let written = self.write_rows(&mut base, chosen, &mut out, &mut counts);
            let flushed = out.table.flush().and_then(|()| out.skipped.flush()).and_then(|()| out.noticed.flush());
            written?;
            flushed.map_err(|source| self.failed(SCORES, source))?;
        }
        let noticed = (!counts.noticed.is_empty()).then_some(noticed);
        [table, list].into_iter().chain(noticed).try_for_each(WholeFile::finish)?;
        let columns = self.columns(base.as_mut(), chosen)?;
        let screen = self.screen;
        let mut directions = BTreeMap::new();
        let mut empty_base = 0;
        for (at, named) in screen.directions.iter().enumerate() {
            let known = columns.of(at);
            empty_base = chosen - known.iter().filter(|sample| sample.base.is_some()).count();
            let looks = looks.get(&named.label()).cloned().unwrap_or_default();
            directions.insert(named.label(), self.direction(at, &known, chosen, (looks, rounds))?);
        }
        let cut_base = match &base {
            Some(base) => self.count_cut(base, chosen)?,
            None => 0,
        };
        if cut_base > 0 {
            let limit = screen.options.answers.max_new_tokens;
            tracing::warn!(
                cut_base,
                chosen,
                limit,
                "base answers were truncated at the maximum number of tokens; their ΔP compares with the beginning of an answer"
            );
        }
        let Counts { skipped, noticed, formats, answers, mut likelihood } = counts;
        let mean = |sum: &mut f64| *sum /= answers.max(1) as f64;
        mean(&mut likelihood.surprise);
        likelihood.gains.values_mut().for_each(mean);
        let summary = Summary {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: screen.model.identity()?,
            files,
            options: screen.saved_options(),
            answers,
            distinct: columns.counts.len(),
            skipped,
            noticed,
            formats,
            with_base: chosen,
            empty_base,
            cut_base: Some(cut_base),
            directions,
            likelihood: (!self.personas.is_empty()).then_some(likelihood),
        };
        self.folder.write(SUMMARY, |file| {
            serde_json::to_writer_pretty(&mut *file, &summary)?;
            file.write_all(b"\n")
        })?;
        // Returned as read from the file.
        Summary::read(&folder)
    }

    /// The number of answers, among the first in the random order, whose base answer was truncated.
    fn count_cut(&mut self, base: &BaseAnswers<'a>, chosen: usize) -> Result<usize> {
        let mut cut = 0;
        for rank in 0..chosen {
            cut += usize::from(base.is_cut(&self.ranked(rank)?.prompt_id));
        }
        Ok(cut)
    }

    fn failed(&self, name: &str, source: std::io::Error) -> Error {
        FileError::Write { path: self.folder.file(name), source }.into()
    }

    fn write_rows(
        &mut self,
        base: &mut Option<BaseAnswers<'a>>,
        chosen: usize,
        out: &mut Outputs<impl Write>,
        counts: &mut Counts,
    ) -> Result<()> {
        const TELL: usize = 1000;
        let screen = self.screen;
        let (inputs, options) = (self.inputs.clone(), &screen.options);
        let with_base: HashSet<u128> = self.order[..chosen].iter().map(|(_, key)| *key).collect();
        let meter = Meter::new(Step::Writing, 0);
        let (mut seen, mut passed) = (HashSet::new(), 0);
        let Counts { skipped, noticed, formats, answers, likelihood: sums } = counts;
        let Outputs { table, skipped: list, noticed: notes } = out;
        let path = self.folder.path().to_owned();
        let put = |out: &mut dyn Write, bytes: std::result::Result<Vec<u8>, serde_json::Error>| -> Result<()> {
            let written = bytes.map_err(std::io::Error::from).and_then(|mut bytes| {
                bytes.push(b'\n');
                out.write_all(&bytes)
            });
            Ok(written.map_err(|source| FileError::Write { path: path.clone(), source })?)
        };
        let read = stream::each(&inputs, options, |item| {
            let tell = |place: &Place, skip: &Skip, counts: &mut BTreeMap<String, usize>, list: &mut dyn Write| {
                *counts.entry(skip.kind().to_owned()).or_insert(0) += 1;
                put(list, serde_json::to_vec(&SkippedLine { place, skip, says: skip.to_string() }))
            };
            let (place, conversation) = match item {
                Item::Skipped { place, skip } => return tell(&place, &skip, skipped, list),
                Item::Answer { place, conversation } => (place, conversation),
            };
            passed += 1;
            if passed % TELL == 0 {
                self.tell(&meter, passed, self.answers)?;
            }
            let (id, _) = Item::ids(&conversation);
            let missing = || Error::DataChanged { id: id.clone() };
            let at = self.entries.get(&key(&id)).ok_or_else(missing)?.at;
            let found = self.line(at)?;
            if let Some(why) = &found.skip {
                return tell(&place, why, skipped, list);
            }
            found.noticed.iter().try_for_each(|noted| tell(&place, noted, noticed, notes))?;
            let (known, base_cut) = match base {
                Some(base) if with_base.contains(&key(&id)) => {
                    (self.base_projections(base, &found.prompt_id)?, base.is_cut(&found.prompt_id))
                }
                _ => (None, false),
            };
            let scores = screen.directions.iter().enumerate().map(|(at, named)| {
                let (answer, prompt_last) = (f64::from(found.answer[at]), f64::from(found.prompt_last[at]));
                let base = known.as_ref().map(|known| known[at]);
                (named.label(), Score { answer, prompt_last, base, delta: base.map(|base| answer - base) })
            });
            *answers += 1;
            let duplicate = !seen.insert(key(&id));
            if let Some(LikelihoodScore { surprise, gains }) = &found.likelihood {
                sums.surprise += surprise;
                gains.iter().for_each(|(label, gain)| *sums.gains.entry(label.clone()).or_default() += gain);
            }
            let scores = scores.collect();
            let (tokens, likelihood) = (found.tokens, found.likelihood);
            let row = ScoreRow { place, id, duplicate, tokens, base_cut, scores, likelihood };
            put(table, serde_json::to_vec(&row))
        })?;
        *formats = read.formats;
        Ok(())
    }

    /// `looks` are the looks at this direction, and the number of looks at any direction.
    fn direction(
        &self,
        at: usize,
        known: &[Known],
        chosen: usize,
        (looks, rounds): (Vec<Look>, usize),
    ) -> Result<DirectionSummary> {
        let named = &self.screen.directions[at];
        let (_, sha256) = DirectionSummary::identity(named);
        let rows: f64 = known.iter().map(|sample| sample.count).sum();
        let mean = |value: &dyn Fn(&Known) -> f64| {
            (rows > 0.0).then(|| known.iter().map(|sample| sample.count * value(sample)).sum::<f64>() / rows)
        };
        let (answer, prompt_last) = (mean(&|sample| sample.answer), mean(&|sample| sample.prompt_last));
        // A sample with an empty base answer has no ΔP, and the estimates do not include it.
        let whole = chosen == known.len();
        let with_delta: Vec<Known> = known.iter().filter(|sample| sample.base.is_some()).copied().collect();
        let options = self.screen.options.estimate;
        let (mut estimates, mut as_sample, mut note) = (Vec::new(), None, None);
        let mut add = |result: Result<_>| match result {
            Ok(found) => {
                estimates.push(found);
                Ok(())
            }
            Err(error @ Error::TooFew { .. }) => {
                note = Some(error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        };
        // The set of known answers may depend on the results of the looks, for which the interval must be corrected.
        if whole {
            add(after_looks(&with_delta, Method::Subset, &options, rounds))?;
            let sample = EstimateOptions { finite: false, ..options };
            as_sample = after_looks(&with_delta, Method::Subset, &sample, rounds).ok();
        } else if chosen > 0 {
            for method in [Method::Subset, Method::Proxy, Method::ControlVariate] {
                add(after_looks(known, method, &options, rounds))?;
            }
        }
        let (trait_name, layer) = (named.trait_name.clone(), named.direction.layer().index());
        Ok(DirectionSummary { trait_name, layer, sha256, answer, prompt_last, estimates, as_sample, looks, note })
    }
}
