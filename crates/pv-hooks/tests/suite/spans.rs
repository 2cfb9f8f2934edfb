//! Token spans: rejected ones, and the content of masks.

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};
use proptest::prelude::*;
use pv_hooks::tokens::{Coverage, RowSpans};
use pv_hooks::{HookError, TokenSet, TokenSpans};

use crate::support::{spans, values};

const SETS: [TokenSet; 5] =
    [TokenSet::Real, TokenSet::Prompt, TokenSet::PromptLast, TokenSet::Response, TokenSet::Generating];

/// Padding, three prompt tokens, two response tokens, one after them: a window of 8.
fn row() -> RowSpans {
    RowSpans::whole(0, 2, 3, 2)
}

fn reason(row: RowSpans) -> &'static str {
    // A valid row before it: the error must name the invalid one.
    match TokenSpans::new(vec![self::row(), row], 8) {
        Err(HookError::BadSpans { row: 1, reason }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_span_may_not_leave_the_window() {
    let expected = "a span leaves the window";
    assert_eq!(reason(RowSpans { padding: 9, ..RowSpans::unused(8) }), expected);
    assert_eq!(reason(RowSpans { prompt: 2..9, ..row() }), expected);
    assert_eq!(reason(RowSpans { response: 5..9, ..row() }), expected);
    assert_eq!(reason(RowSpans { response: 9..9, ..row() }), expected);
    #[expect(clippy::reversed_empty_ranges)]
    let backwards = 5..2;
    assert_eq!(reason(RowSpans { prompt: backwards.clone(), ..row() }), expected);
    assert_eq!(reason(RowSpans { response: backwards, ..row() }), expected);
    assert_eq!(reason(RowSpans::whole(0, 2, 3, 4)), expected);
    assert_eq!(reason(RowSpans::unused(9)), expected);
}

#[test]
fn a_span_may_not_reach_into_the_padding() {
    let expected = "a span overlaps the padding";
    assert_eq!(reason(RowSpans { prompt: 1..5, ..row() }), expected);
    assert_eq!(reason(RowSpans { prompt: 0..0, prompt_last: None, response: 1..3, ..row() }), expected);
    assert_eq!(reason(RowSpans { padding: 3, ..row() }), expected);
}

#[test]
fn a_response_may_not_begin_inside_the_prompt() {
    assert_eq!(reason(RowSpans { response: 4..7, ..row() }), "the response begins inside the prompt");
    assert_eq!(reason(RowSpans { prompt: 5..8, response: 2..4, ..row() }), "the response begins inside the prompt");
}

#[test]
fn the_last_prompt_token_must_end_the_prompt() {
    let expected = "the last prompt token does not end the prompt";
    for elsewhere in [0, 1, 2, 3, 5, 7, 8, usize::MAX] {
        assert_eq!(reason(RowSpans { prompt_last: Some(elsewhere), ..row() }), expected);
    }
    assert_eq!(reason(RowSpans { prompt_last: Some(0), ..RowSpans::prompt(vec![0], 8, 8) }), expected);
    // Otherwise a token that counts twice has one position in the mask.
    let twice = RowSpans { prompt: 2..2, prompt_last: Some(5), response: 5..7, ..row() };
    assert_eq!(reason(twice), expected);
    // A prompt in several windows has its last token in the last window only.
    spans(vec![RowSpans { prompt_last: None, ..RowSpans::prompt(vec![0], 3, 8) }], 8);
}

#[test]
fn a_row_with_tokens_must_stand_for_a_sequence() {
    assert_eq!(reason(RowSpans { sequences: Vec::new(), ..row() }), "it represents no sequence");
    spans(vec![RowSpans::unused(8), RowSpans { sequences: vec![3], ..RowSpans::unused(8) }], 8);
}

#[test]
fn a_prompt_needs_a_token() {
    assert!(TokenSpans::new(vec![RowSpans::prompt(vec![0], 4, 4)], 4).is_err());
    assert!(TokenSpans::new(vec![RowSpans::prompt(vec![0], 3, 4)], 4).is_ok());
}

#[test]
fn the_constructors_say_where_tokens_are() {
    let positions = |row: RowSpans, seq: usize| {
        let spans = spans(vec![row], seq);
        SETS.map(|set| spans.positions(0, set).collect::<Vec<_>>())
    };
    let none = Vec::new;
    assert_eq!(positions(row(), 8), [vec![2, 3, 4, 5, 6, 7], vec![2, 3, 4], vec![4], vec![5, 6], vec![4, 5, 6]]);
    assert_eq!(positions(RowSpans::whole(0, 1, 0, 2), 3), [vec![1, 2], none(), none(), vec![1, 2], vec![1, 2]]);
    assert_eq!(positions(RowSpans::prompt(vec![4], 1, 3), 3), [vec![1, 2], vec![1, 2], vec![2], none(), vec![2]]);
    assert_eq!(positions(RowSpans::generated(0, 7, 2), 1), [vec![0], none(), none(), vec![0], vec![0]]);
    assert_eq!(positions(RowSpans::unused(3), 3), [none(), none(), none(), none(), none()]);
    assert_eq!(RowSpans::generated(0, 7, 2).offset, 9);
}

#[test]
fn coverage_is_nothing_some_or_everything() {
    let decode = spans(vec![RowSpans::generated(0, 7, 2), RowSpans::generated(1, 4, 0)], 1);
    let free = spans(vec![RowSpans::generated(0, 7, 2), RowSpans::unused(1)], 1);
    let prefill = spans(vec![RowSpans::prompt(vec![0], 0, 3), RowSpans::prompt(vec![1], 2, 3)], 3);
    let one_token = spans(vec![RowSpans::prompt(vec![0], 0, 1)], 1);
    let of = |spans: &TokenSpans| SETS.map(|set| spans.coverage(set));
    use Coverage::{Everything, Nothing, Some};
    assert_eq!(of(&decode), [Everything, Nothing, Nothing, Everything, Everything]);
    assert_eq!(of(&free), [Some, Nothing, Nothing, Some, Some]);
    assert_eq!(of(&prefill), [Some, Some, Some, Nothing, Some]);
    assert_eq!(of(&one_token), [Everything, Everything, Everything, Nothing, Everything]);
    assert_eq!(of(&spans(Vec::new(), 4)), [Nothing; 5]);
    assert_eq!(of(&spans(vec![RowSpans::unused(0)], 0)), [Nothing; 5]);
}

#[test]
fn a_span_without_tokens_may_stand_anywhere_in_the_window() {
    for anywhere in 0..=8 {
        let empty = anywhere..anywhere;
        let rows = vec![
            RowSpans { prompt: empty.clone(), prompt_last: None, response: 8..8, ..row() },
            RowSpans { response: empty, ..row() },
        ];
        let spans = spans(rows, 8);
        assert_eq!((spans.count(0, TokenSet::Prompt), spans.count(1, TokenSet::Response)), (0, 0));
    }
}

#[test]
fn a_mask_is_the_same_whenever_and_wherever_it_is_asked_for() {
    let (plain, tracking) = (Device::flex(), Device::flex().autodiff());
    let checkpointing = tracking.clone().gradient_checkpointing();
    let orders = [[&plain, &tracking, &checkpointing], [&checkpointing, &tracking, &plain]];
    for devices in orders {
        let spans = spans(vec![row(), RowSpans::unused(8)], 8);
        let expected = |set| {
            let first = spans.positions(0, set).collect::<Vec<_>>();
            (0..16).map(|i| f32::from(u8::from(first.contains(&i)))).collect::<Vec<_>>()
        };
        for device in devices {
            // Sets interleaved, so that each is requested when others are cached.
            for set in SETS.into_iter().chain(SETS) {
                let mask = spans.mask(set, device);
                assert_eq!((mask.dims(), mask.dtype()), ([2, 8, 1], DType::F32));
                assert!(mask.device() == *device && !mask.is_autodiff());
                assert_eq!(values(mask.clone()), expected(set), "{set:?}");
                // It can be combined with tensors on the device.
                assert_eq!(values(Tensor::<3>::ones([2, 8, 1], device) * mask), expected(set), "{set:?}");
            }
        }
    }
}

/// A number that is mostly within a window, and sometimes absurd.
fn place() -> impl Strategy<Value = usize> {
    prop_oneof![20 => 0..9usize, 1 => Just(usize::MAX), 1 => Just(usize::MAX - 1)]
}

fn span() -> impl Strategy<Value = Range<usize>> {
    (place(), place()).prop_map(|(start, end)| start..end)
}

fn any_row() -> impl Strategy<Value = RowSpans> {
    let sequences = prop::collection::vec(place(), 0..3);
    (sequences, place(), place(), span(), prop::option::of(place()), span(), place()).prop_map(
        |(sequences, offset, padding, prompt, prompt_last, response, response_offset)| RowSpans {
            sequences,
            offset,
            padding,
            prompt,
            prompt_last,
            response,
            response_offset,
        },
    )
}

/// Rows with spans in order; most are accepted.
fn ordered_row() -> impl Strategy<Value = RowSpans> {
    (prop::collection::vec(0..8usize, 5), any::<bool>(), 0..9usize).prop_map(|(mut at, last, wrong)| {
        at.sort_unstable();
        let prompt = at[1]..at[2];
        let prompt_last = if wrong == 8 { Some(at[3]) } else { prompt.clone().next_back().filter(|_| last) };
        RowSpans { padding: at[0], prompt, prompt_last, response: at[3]..at[4], ..RowSpans::generated(wrong, 3, 1) }
    })
}

fn any_window() -> impl Strategy<Value = (Vec<RowSpans>, usize)> {
    let row = prop_oneof![4 => ordered_row(), 1 => any_row(), 1 => Just(RowSpans::unused(7))];
    (prop::collection::vec(row, 0..4), prop_oneof![3 => Just(7usize), 1 => 0..9usize])
}

proptest! {
    #[test]
    fn any_spans_are_refused_or_have_masks_of_their_counts((rows, seq) in any_window()) {
        let spans = match TokenSpans::new(rows.clone(), seq) {
            Ok(spans) => spans,
            Err(HookError::BadSpans { row, reason }) => {
                // The named row is the first invalid one, and invalid by itself.
                prop_assert!(TokenSpans::new(rows[..row].to_vec(), seq).is_ok());
                let alone = TokenSpans::new(vec![rows[row].clone()], seq);
                prop_assert_eq!(alone.err(), Some(HookError::BadSpans { row: 0, reason }));
                return Ok(());
            }
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        prop_assert_eq!((spans.rows(), spans.batch(), spans.seq()), (&rows[..], rows.len(), seq));
        for set in SETS {
            let mask = spans.mask(set, &Device::flex());
            prop_assert_eq!(mask.dims(), [rows.len(), seq, 1]);
            let mask = values(mask);
            let counts: Vec<usize> = (0..rows.len()).map(|row| spans.count(row, set)).collect();
            for (row, spans_of_row) in rows.iter().enumerate() {
                let mask = &mask[row * seq..][..seq];
                let positions: Vec<usize> = spans.positions(row, set).collect();
                prop_assert!(positions.is_sorted_by(|a, b| a < b), "{:?} of {:?}", positions, set);
                prop_assert!(positions.iter().all(|p| (spans_of_row.padding..seq).contains(p)));
                prop_assert_eq!(positions.len(), counts[row]);
                prop_assert!((0..seq).all(|p| mask[p] == f32::from(u8::from(positions.contains(&p)))));
                prop_assert_eq!(mask.iter().sum::<f32>(), counts[row] as f32);
            }
            let expected = match counts.iter().sum::<usize>() {
                0 => Coverage::Nothing,
                n if n == rows.len() * seq => Coverage::Everything,
                _ => Coverage::Some,
            };
            prop_assert_eq!(spans.coverage(set), expected);
        }
        for row in 0..rows.len() {
            let of = |set| spans.positions(row, set).collect::<Vec<_>>();
            prop_assert!(of(TokenSet::Response).iter().all(|p| !of(TokenSet::Prompt).contains(p)));
            prop_assert!(of(TokenSet::PromptLast).is_empty() || of(TokenSet::PromptLast).last() == of(TokenSet::Prompt).last());
            prop_assert_eq!([of(TokenSet::PromptLast), of(TokenSet::Response)].concat(), of(TokenSet::Generating));
        }
    }
}
