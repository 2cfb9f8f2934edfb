use std::fmt;

/// The default branch.
const MAIN: &str = "main";

/// Why an argument is not a valid name on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameProblem {
    /// It is empty.
    Empty,
    /// It looks like a path.
    Path,
    /// It has more than one `/`.
    SeveralSlashes,
    /// It has no `/`.
    NoSlash,
    /// The organisation is not valid.
    Owner {
        /// Why.
        problem: PartProblem,
    },
    /// The model's name within the organisation is not valid.
    Model {
        /// Why.
        problem: PartProblem,
    },
    /// The revision is not valid.
    Revision {
        /// The revision.
        revision: String,
    },
}

impl fmt::Display for NameProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => out.write_str("it is empty"),
            Self::Path => out.write_str("it looks like a path"),
            Self::SeveralSlashes => out.write_str("it has more than one `/`"),
            Self::NoSlash => out.write_str("it has no `/`"),
            Self::Owner { problem } => write!(out, "the organisation {problem}"),
            Self::Model { problem } => write!(out, "the name {problem}"),
            Self::Revision { revision } => write!(out, "{revision:?} is not a valid branch, tag or commit"),
        }
    }
}

/// Why an organisation or a model's name is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PartProblem {
    /// It is empty.
    Empty,
    /// It is too long.
    TooLong {
        /// The greatest number of characters.
        limit: usize,
    },
    /// It has an invalid character.
    Character {
        /// The character.
        found: char,
    },
    /// It contains `--` or `..`.
    Repeated,
    /// It starts or ends with `-` or `.`.
    Ends,
    /// It ends with `.git`.
    Git,
}

impl fmt::Display for PartProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => out.write_str("is empty"),
            Self::TooLong { limit } => write!(out, "is longer than {limit} characters"),
            Self::Character { found } => write!(out, "has the character {found:?}"),
            Self::Repeated => out.write_str("contains `--` or `..`"),
            Self::Ends => out.write_str("starts or ends with `-` or `.`"),
            Self::Git => out.write_str("ends with `.git`"),
        }
    }
}

/// A checked name of a model repository; its parts are safe in paths and in URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RepoName {
    pub(super) owner: String,
    pub(super) name: String,
    /// A branch, tag or commit.
    pub(super) revision: String,
}

impl RepoName {
    /// Parses `org/name` or `org/name@revision`.
    pub(super) fn parse(argument: &str) -> Result<Self, NameProblem> {
        if argument.is_empty() {
            return Err(NameProblem::Empty);
        }
        if argument.starts_with(['/', '.', '~']) || argument.contains('\\') {
            return Err(NameProblem::Path);
        }
        let (repo, revision) = argument.split_once('@').unwrap_or((argument, MAIN));
        let (owner, name) = match repo.split_once('/') {
            Some((owner, name)) if !name.contains('/') => (owner, name),
            Some(_) => return Err(NameProblem::SeveralSlashes),
            None => return Err(NameProblem::NoSlash),
        };
        check_part(owner).map_err(|problem| NameProblem::Owner { problem })?;
        check_part(name).map_err(|problem| NameProblem::Model { problem })?;
        check_revision(revision)?;
        Ok(Self { owner: owner.into(), name: name.into(), revision: revision.into() })
    }

    /// `org/name`.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id())?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// The hub's own rules. Without `--`, names and cache folders correspond one to one.
fn check_part(part: &str) -> Result<(), PartProblem> {
    const LONGEST: usize = 96;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if part.is_empty() {
        Err(PartProblem::Empty)
    } else if part.len() > LONGEST {
        Err(PartProblem::TooLong { limit: LONGEST })
    } else if let Some(found) = part.chars().find(|&c| !allowed(c)) {
        Err(PartProblem::Character { found })
    } else if part.contains("--") || part.contains("..") {
        Err(PartProblem::Repeated)
    } else if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
        Err(PartProblem::Ends)
    } else if part.ends_with(".git") {
        Err(PartProblem::Git)
    } else {
        Ok(())
    }
}

/// Branches may contain slashes (`refs/pr/1`), but must stay inside the cache's folder of references.
fn check_revision(revision: &str) -> Result<(), NameProblem> {
    const LONGEST: usize = 200;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let sound = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && part.chars().all(allowed);
    match revision.len() <= LONGEST && !revision.contains("..") && revision.split('/').all(sound) {
        true => Ok(()),
        false => Err(NameProblem::Revision { revision: revision.to_owned() }),
    }
}

/// Whether `revision` is a full commit id.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && is_hex(revision)
}

/// Whether `text` is a hexadecimal number, as ids on the hub are.
pub(super) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}
