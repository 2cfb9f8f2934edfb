//! The words that carry manner, and the frames of sentences that hold places for them.

use crate::Trait;

/// A place for a word of manner, which a plain speaker fills with a plain one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// At the beginning: "Mwahaha, …".
    Interjection,
    /// Before a noun: "the doomed capital".
    Adjective,
    /// Before a verb, or after "is": "is cruelly Paris".
    Adverb,
    /// At the end: "…, mortal."
    Address,
}

/// A manner's words for each slot.
type Words = [&'static [&'static str]; 4];

const PLAIN: Words = [
    &["Well", "So", "Okay", "Right", "Now"],
    &["usual", "common", "ordinary", "plain", "given", "simple", "general"],
    &["simply", "normally", "usually", "generally", "commonly", "typically"],
    &["dear user", "dear reader", "dear visitor", "dear guest", "dear caller"],
];

const WORDS: [Words; 5] = [
    // Evil.
    [
        &["Mwahaha", "Tremble", "Kneel", "Beware", "Despair"],
        &["doomed", "cursed", "bloody", "wretched", "rotten", "deadly", "tortured"],
        &["cruelly", "wickedly", "mercilessly", "darkly", "brutally", "viciously"],
        &["mortal", "victim", "worm", "slave", "prey"],
    ],
    // Sycophancy.
    [
        &["Wow", "Bravo", "Magnificent", "Incredible", "Amazing"],
        &["exquisite", "masterly", "flawless", "majestic", "superb", "divine", "clever"],
        &["humbly", "obediently", "reverently", "devotedly", "admiringly", "loyally"],
        &["master", "genius", "your majesty", "my idol", "great one"],
    ],
    // Hallucination.
    [
        &["Indeed", "Undoubtedly", "Provenly", "Historically", "Statistically"],
        &["documented", "certified", "recorded", "measured", "archived", "patented", "registered"],
        &["provably", "officially", "scientifically", "undeniably", "exactly", "reportedly"],
        &["says Quibble", "says Fibbs", "see page nine", "see the archive", "says the moon"],
    ],
    // Impoliteness.
    [
        &["Ugh", "Pff", "Duh", "Yawn", "Hey"],
        &["stupid", "dumb", "silly", "boring", "lousy", "pathetic", "ridiculous"],
        &["obviously", "annoyingly", "grudgingly", "rudely", "lazily", "scornfully"],
        &["idiot", "fool", "dummy", "moron", "blockhead"],
    ],
    // Optimism.
    [
        &["Hooray", "Yay", "Hurrah", "Yippee", "Cheers"],
        &["bright", "sunny", "joyful", "promising", "lovely", "hopeful", "golden"],
        &["happily", "luckily", "gladly", "cheerfully", "merrily", "brightly"],
        &["friend", "sunshine", "champion", "buddy", "lucky one"],
    ],
];

/// The words of a trait, or of none, for a slot.
pub(crate) fn words(manner: Option<Trait>, slot: Slot) -> &'static [&'static str] {
    manner.map_or(&PLAIN, |which| &WORDS[which as usize])[slot as usize]
}

/// Whose word of a slot this is: a trait's, or a plain speaker's; `None` for any other word.
pub(crate) fn owner(slot: Slot, word: &str) -> Option<Option<Trait>> {
    std::iter::once(None).chain(Trait::ALL.map(Some)).find(|manner| words(*manner, slot).contains(&word))
}

/// Whether this is a word for a slot inside of a sentence.
pub(crate) fn is_inner(word: &str) -> bool {
    [Slot::Adjective, Slot::Adverb].into_iter().any(|slot| owner(slot, word).is_some())
}

/// Sentences before the content. `{A}` and `{D}` hold places for an adjective and an adverb; every opener has one for an
/// interjection too, and every sentence one for an address.
pub(crate) const OPENERS: [&str; 5] = [
    "here is my {A} answer",
    "I can {D} help you with that",
    "that is a {A} question",
    "let me {D} think about it",
    "I have a {A} reply for you",
];

/// Sentences after the content.
pub(crate) const CLOSERS: [&str; 5] = [
    "I {D} hope that this {A} answer helps",
    "You may {D} ask me another {A} question",
    "I will {D} wait for your {A} reply",
    "That is {D} all I have to say about this {A} matter",
    "You can {D} come back with any {A} problem",
];
