//! Without a terminal, progress is reported in lines at a regular interval, whatever a step takes.

use std::time::Instant;

use crate::Place;

/// In the test, the interval is a fifth of a second instead of 30 seconds.
const INTERVAL: f64 = 0.2;

/// `answering 12/80 [3 s, about 9 s left]`: the work, how much of it is done, and the time.
fn is_progress(line: &str) -> bool {
    line.ends_with(']') && line.rsplit_once(" [").is_some_and(|(_, time)| time.contains(" s"))
}

#[test]
fn progress_lines_appear_at_the_interval() {
    let place = Place::new();
    let begun = Instant::now();
    let interval = INTERVAL.to_string();
    let extract = "extract evil --rollouts 1 --max-new-tokens 30 --out run --progress-interval";
    let done = place.run(extract, &[&interval]);
    let intervals = begun.elapsed().as_secs_f64() / INTERVAL;
    assert_eq!(done.code, Some(0), "{}", done.err);
    let lines: Vec<&str> = done.err.lines().filter(|line| is_progress(line)).collect();
    assert!(intervals > 4.0, "the run is too short for this test: {intervals} intervals");
    // Half of them, because a busy machine may start the program or wake its thread late.
    assert!(lines.len() as f64 > 0.5 * intervals, "{} lines in {intervals:.0} intervals: {}", lines.len(), done.err);
    let counted = |line: &&&str| line.starts_with("evil: answering ") && line.contains("/200 [");
    assert!(lines.iter().any(|line| counted(&line)), "{}", done.err);
    // The interval is not a setting of the run.
    let settings = String::from_utf8(place.read("run/config.toml")).unwrap();
    assert!(!settings.contains("interval"), "{settings}");
}

#[test]
fn quiet_means_no_progress_lines() {
    let place = Place::new();
    let done = place.run("steer --quiet --coefs=0 --max-new-tokens 4 --progress-interval 0.01", &[]);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
}
