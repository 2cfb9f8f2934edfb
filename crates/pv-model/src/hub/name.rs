use std::fmt;

/// The branch that is meant when none is named.
const MAIN: &str = "main";

/// A checked name of a model repository; its parts are safe in paths and in URLs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RepoName {
    pub(super) owner: String,
    pub(super) name: String,
    /// A branch, tag or commit.
    pub(super) revision: String,
}

impl RepoName {
    /// Takes `org/name` or `org/name@revision` apart, or says what is wrong with it.
    pub(super) fn parse(argument: &str) -> Result<Self, String> {
        if argument.is_empty() {
            return Err("it is empty".into());
        }
        if argument.starts_with(['/', '.', '~']) || argument.contains('\\') {
            return Err("it looks like a path".into());
        }
        let (repo, revision) = argument.split_once('@').unwrap_or((argument, MAIN));
        let (owner, name) = match repo.split_once('/') {
            Some((owner, name)) if !name.contains('/') => (owner, name),
            Some(_) => return Err("it has more than one `/`".into()),
            None => return Err("it has no `/`".into()),
        };
        check_part("the organisation", owner)?;
        check_part("the name", name)?;
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

/// The hub's own rules. Without `--`, a name and its folder in the cache belong together one to one.
fn check_part(what: &str, part: &str) -> Result<(), String> {
    const LONGEST: usize = 96;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if part.is_empty() {
        Err(format!("{what} is empty"))
    } else if part.len() > LONGEST {
        Err(format!("{what} is longer than {LONGEST} characters"))
    } else if let Some(c) = part.chars().find(|&c| !allowed(c)) {
        Err(format!("{what} has the character {c:?}"))
    } else if part.contains("--") || part.contains("..") {
        Err(format!("{what} contains `--` or `..`"))
    } else if part.starts_with(['-', '.']) || part.ends_with(['-', '.']) {
        Err(format!("{what} starts or ends with `-` or `.`"))
    } else if part.ends_with(".git") {
        Err(format!("{what} ends with `.git`"))
    } else {
        Ok(())
    }
}

/// Branches may have slashes (`refs/pr/1`), but must stay inside the cache's folder of references.
fn check_revision(revision: &str) -> Result<(), String> {
    const LONGEST: usize = 200;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+');
    let sound = |part: &str| !part.is_empty() && !part.starts_with(['.', '-']) && part.chars().all(allowed);
    match revision.len() <= LONGEST && !revision.contains("..") && revision.split('/').all(sound) {
        true => Ok(()),
        false => Err(format!("{revision:?} cannot be a branch, tag or commit")),
    }
}

/// Whether `revision` is a full commit id.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && is_hex(revision)
}

/// Whether `text` is a number in hexadecimal digits, as ids on the hub are.
pub(super) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'a'..=b'f'))
}
