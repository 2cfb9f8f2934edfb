//! Long lists in messages.

/// The first ten names, and the number of others.
pub(crate) fn listed(names: &[String]) -> String {
    const MOST: usize = 10;
    let shown = names.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0..=MOST => shown,
        more => format!("{shown} and {} more", more - MOST),
    }
}
