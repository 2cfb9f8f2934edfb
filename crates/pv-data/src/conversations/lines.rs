//! The lines of a text file, as bytes.

use std::io::{self, BufRead};

use super::{LONGEST_ROW, RowProblem};

/// Numbered lines of a file; empty lines are skipped.
pub(super) struct Lines {
    source: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    number: u64,
}

/// A line's number from 1, and its bytes without surrounding white space, or why it cannot be read.
pub(super) type Line<'a> = (u64, Result<&'a [u8], RowProblem>);

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

impl Lines {
    pub(super) fn new(source: Box<dyn BufRead + Send>) -> Self {
        Self { source, line: Vec::new(), number: 0 }
    }

    /// The next line that is not empty; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            let short = self.read()?;
            if self.line.is_empty() && short {
                return Ok(None);
            }
            self.number += 1;
            if !short {
                return Ok(Some((self.number, Err(RowProblem::TooLong { limit: LONGEST_ROW }))));
            }
            let skip =
                if self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
            if !self.line[skip..].trim_ascii().is_empty() {
                return Ok(Some((self.number, Ok(self.line[skip..].trim_ascii()))));
            }
        }
    }

    /// Reads to the end of the line; `false` when it was too long and was skipped.
    fn read(&mut self) -> io::Result<bool> {
        self.line.clear();
        // A long line must not keep its memory for all following lines.
        self.line.shrink_to(1 << 20);
        let mut short = true;
        loop {
            let found = self.source.fill_buf()?;
            let end = found.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let taken = end.unwrap_or(found.len());
            short &= self.line.len() + taken <= LONGEST_ROW;
            if short {
                self.line.extend_from_slice(&found[..taken]);
            } else {
                self.line.clear();
            }
            self.source.consume(taken);
            if end.is_some() || taken == 0 {
                return Ok(short);
            }
        }
    }
}
