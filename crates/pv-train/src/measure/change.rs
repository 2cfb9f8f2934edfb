//! A [`Change`] as fields of a table.

use pv_data::tables::number_field;
use pv_statistics::Change;

/// The headers of a change's columns.
pub(crate) fn columns(name: &str) -> [String; 4] {
    ["", "_low", "_high", "_pairs"].map(|part| format!("{name}{part}"))
}

/// The fields of a change; empty without one.
pub(crate) fn fields(change: Option<&Change>) -> [String; 4] {
    let interval = change.and_then(|change| change.interval);
    let [mean, low, high] =
        [change.map(|c| c.mean), interval.map(|i| i.low), interval.map(|i| i.high)].map(number_field);
    [mean, low, high, change.map_or(0, |change| change.pairs).to_string()]
}
